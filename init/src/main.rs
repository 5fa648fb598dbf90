//! Perigee's PID 1: mounts, network, services. One thread, one loop.
//!
//! This file is the order of a start; `supervisor` is the life after it.

#![deny(unsafe_code)]

mod block;
mod boot_state;
mod cgroup;
mod child;
mod config;
mod control;
mod data;
mod haste;
mod late;
mod logs;
mod mounts;
mod network;
mod notify;
mod poller;
mod probe;
mod pstore;
mod services;
mod shutdown;
mod supervisor;
mod sys;
mod sysctl;
mod vitals;
mod watchdog;

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use perigee_core::service::{Event, GraphError};
use rustix::process::{Resource, Rlimit, getpid, setrlimit};
use rustix::system::{RebootCommand, reboot, sethostname};

use block::Partitions;
use control::Control;
use data::Data;
use haste::Haste;
use late::Late;
use logs::Logs;
use network::Network;
use notify::Notify;
use poller::{Poller, Source};
use services::Services;
use shutdown::Goal;
use supervisor::{Identity, Supervisor};
use vitals::Vitals;

/// Open files: what services and containers may raise theirs to (the kernel's own bound, fs.nr_open).
const MOST_FILES: u64 = 1 << 20;
/// Open files of who does not raise it.
const FILES: u64 = 1 << 16;

/// Why PID 1 cannot begin. Each is the kernel out of memory at boot: the cure is another boot.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("signals: {0}")]
    Signals(#[from] std::io::Error),
    #[error("poll: {0}")]
    Poll(#[from] rustix::io::Errno),
    #[error("services: {0}")]
    Services(#[from] GraphError),
}

fn main() -> ExitCode {
    if !getpid().is_init() {
        eprintln!("init: this is PID 1 of Perigee; the kernel starts it");
        return ExitCode::from(2);
    }
    let goal = match start(Logs::new()) {
        Ok(supervisor) => supervisor.run(),
        Err(error) => {
            last_words(format_args!("init=failed error=\"{error}\""));
            Goal::Reboot
        }
    };
    let error = shutdown::end(goal);
    last_words(format_args!("reboot=refused error=\"{error}\""));
    // The end of PID 1 is a panic of the kernel, which reboots (panic=10): the last resort.
    ExitCode::FAILURE
}

/// Says something when there is no supervisor, and so no log, any more.
fn last_words(words: std::fmt::Arguments<'_>) {
    let mut logs = Logs::new();
    logs.open_console();
    logs.event(words);
}

/// What the parts of the start took.
struct Laps {
    last: Duration,
    text: String,
}

impl Laps {
    /// The time since the last lap was spent on `part`.
    fn lap(&mut self, part: &str) {
        let now = sys::now();
        let took = now - std::mem::replace(&mut self.last, now);
        self.text += &format!(" {part}_ms={}", took.as_millis());
    }
}

/// From the kernel's hands to the first services.
fn start(mut logs: Logs) -> Result<Supervisor, Error> {
    let started = sys::now();
    let mut laps = Laps { last: started, text: String::new() };
    let signals = sys::signals::listen()?;
    let poller = Poller::new()?;
    poller.add(&signals, Source::Signals)?;

    mounts::mount_first(&mut logs);
    let haste = Haste::begin();
    let mut partitions = Partitions::default();
    laps.lap("mounts");
    // First: the card works while everything else is done.
    let data = Data::begin(&mut partitions, &poller, &mut logs);
    laps.lap("partition");
    mounts::mount_next(&mut logs);
    logs.open_console();
    // Nothing before this takes long enough for the loader's window.
    let device = watchdog::Device::open(&mut logs);
    let version = line("/usr/share/perigee/version");
    logs.event(format_args!("init=started version={version}"));
    laps.lap("others");
    limit_files(&mut logs);
    let _ = reboot(RebootCommand::CadOff);
    cgroup::prepare(&mut logs);
    laps.lap("cgroups");

    let config = config::load(&mut partitions, &mut logs);
    if config.is_none() {
        logs.event(format_args!("mission=none effect=\"only services that need no mission are started\""));
    }
    let node = config.as_ref().map_or_else(|| "perigee".to_owned(), |config| config.node.name.clone());
    if let Err(error) = sethostname(node.as_bytes()) {
        logs.event(format_args!("hostname={node} error=\"{error}\""));
    }
    laps.lap("config");
    if let Err(error) = fs::create_dir("/run/perigee") {
        logs.event(format_args!("folder=/run/perigee error=\"{error}\""));
    }
    let notify = watched(Notify::new(), &poller, Source::Notify, "notify", &mut logs);
    let control = watched(Control::new(), &poller, Source::Control, "control", &mut logs);
    let variables = config.as_ref().map(|config| config.mission.variables(&config.node)).unwrap_or_default();
    let roles = config.as_ref().map(|config| config.node.roles.as_slice()).unwrap_or_default();
    let mut services = Services::new(variables, roles, &poller, &mut logs)?;
    laps.lap("services");
    services.handle(sys::now(), Event::Boot, &poller, &mut logs);
    laps.lap("first");
    // Those that run now load their programs, and the others wait for data.
    sysctl::set_network(&mut logs);
    laps.lap("sysctls");
    let network = watched(Network::new(config.as_ref()), &poller, Source::Network, "network", &mut logs);
    laps.lap("network");
    logs.event(format_args!("init=set-up{}", laps.text));
    let command_line = line("/proc/cmdline");
    let vitals = Vitals::new(device, &command_line, sys::now());
    let late = Late::new(partitions, command_line);
    let identity = Identity { node, version, boot_id: line("/proc/sys/kernel/random/boot_id"), started };
    Ok(Supervisor {
        poller,
        signals,
        logs,
        services,
        network,
        notify,
        control,
        data,
        boot_state: None,
        vitals,
        identity,
        shutdown: None,
        storage: None,
        haste: Some(haste),
        late: Some(late),
        watch_at: sys::now(),
        writer_at: None,
    })
}

/// A part that the node can live without, in the loop or not at all.
fn watched<Part: std::os::fd::AsFd, Error: std::fmt::Display>(
    part: Result<Part, Error>,
    poller: &Poller,
    source: Source,
    name: &str,
    logs: &mut Logs,
) -> Option<Part> {
    let result = part.map_err(|error| error.to_string());
    let result = result.and_then(|part| match poller.add(&part, source) {
        Ok(()) => Ok(part),
        Err(error) => Err(error.to_string()),
    });
    result.inspect_err(|error| logs.event(format_args!("{name}=none error=\"{error}\""))).ok()
}

/// Limits that all children inherit: many open files, no core dumps (data is small, and nobody reads them there).
fn limit_files(logs: &mut Logs) {
    let limits = [
        (Resource::Nofile, Rlimit { current: Some(FILES), maximum: Some(MOST_FILES) }),
        (Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }),
    ];
    for (resource, limit) in limits {
        if let Err(error) = setrlimit(resource, limit) {
            logs.event(format_args!("limit={resource:?} error=\"{error}\""));
        }
    }
}

/// A file's only line; empty if there is none.
fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
