//! The tables of a service file: `[ready]`, `[health]`, `[restart]`, `[stop]`, `[limits]`, `[security]`, `[log]`.
//!
//! Bounds are wide enough for every service that is known and narrow enough to catch a wrong unit.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::time::Duration;

use super::parse::absolute_path;
use super::{CAPABILITIES, Error, Health, Kind, Limits, Log, Probe, Ready, Restart, Security, Signal, Stop};
use crate::document::{Key, Table, quoted};

pub(super) const READY: Key = Key::new("ready", "a table", "ready = { notify = true, timeout_s = 120 }");
pub(super) const HEALTH: Key = Key::new("health", "a table", "health = { watchdog_s = 30 }");
pub(super) const RESTART: Key = Key::new("restart", "a table", "[restart]");
pub(super) const STOP: Key = Key::new("stop", "a table", "[stop]");
pub(super) const LIMITS: Key = Key::new("limits", "a table", "[limits]");
pub(super) const SECURITY: Key = Key::new("security", "a table", "[security]");
pub(super) const LOG: Key = Key::new("log", "a table", "[log]");

const NOTIFY: Key = Key::new("notify", "true (or no such key)", "notify = true");
const UNIX: Key =
    Key::new("unix", "a socket's absolute path of at most 107 bytes", "unix = \"/run/containerd/containerd.sock\"");
const GRPC: Key =
    Key::new("grpc", "a socket's absolute path of at most 107 bytes", "grpc = \"/run/containerd/containerd.sock\"");
const HTTP: Key = Key::new("http", "127.0.0.1:PORT/PATH", "http = \"127.0.0.1:10248/healthz\"");
const FILE: Key = Key::new("file", "a file's absolute path", "file = \"/run/perigee/images\"");
const READY_TIMEOUT_S: Key = Key::whole("timeout_s", "seconds", 1..=3600, "timeout_s = 120");

const WATCHDOG_S: Key = Key::whole("watchdog_s", "seconds", 1..=3600, "watchdog_s = 30");
const PERIOD_S: Key = Key::whole("period_s", "seconds", 1..=3600, "period_s = 15");
const PROBE_TIMEOUT_S: Key = Key::whole("timeout_s", "seconds", 1..=300, "timeout_s = 10");
const FAILURES: Key = Key::whole("failures", "failures in a row", 1..=100, "failures = 3");

const MIN_MS: Key = Key::whole("min_ms", "milliseconds", 10..=60_000, "min_ms = 500");
const MAX_S: Key = Key::whole("max_s", "seconds", 1..=3600, "max_s = 60");
const RESET_S: Key = Key::whole("reset_s", "seconds", 1..=86_400, "reset_s = 120");

const SIGNAL: Key = Key::new("signal", "TERM, INT or KILL", "signal = \"TERM\"");
/// Five minutes: an orderly power-off must end before the batteries do.
const STOP_TIMEOUT_S: Key = Key::whole("timeout_s", "seconds", 1..=300, "timeout_s = 20");

const MEMORY_MAX_MIB: Key = Key::whole("memory_max_mib", "MiB", 1..=1_048_576, "memory_max_mib = 96");
const MEMORY_LOW_MIB: Key = Key::whole("memory_low_mib", "MiB", 1..=1_048_576, "memory_low_mib = 32");
/// The kernel's bounds (Documentation/admin-guide/cgroup-v2.rst, "Weights").
const CPU_WEIGHT: Key = Key::whole("cpu_weight", "cpu.weight", 1..=10_000, "cpu_weight = 100");
const CPU_WEIGHT_STARTING: Key =
    Key::whole("cpu_weight_starting", "cpu.weight", 1..=10_000, "cpu_weight_starting = 1000");
/// PID_MAX_LIMIT of 64-bit kernels (linux/threads.h).
const PIDS_MAX: Key = Key::whole("pids_max", "processes", 1..=4_194_304, "pids_max = 200");
/// proc_pid_oom_score_adj(5).
const OOM_SCORE_ADJ: Key = Key::whole("oom_score_adj", "points", -1000..=1000, "oom_score_adj = -500");
/// The kernel's default fs.nr_open.
const NOFILE: Key = Key::whole("nofile", "files", 16..=1_048_576, "nofile = 65536");
const DELEGATE: Key = Key::new("delegate", "true or false", "delegate = true");

/// 65,535 would be (uid_t)-1 to old interfaces.
const USER: Key = Key::whole("user", "user id", 0..=65_534, "user = 0");
const CAPABILITIES_KEPT: Key = Key::new(
    "capabilities",
    "a list of capabilities' names as in capabilities(7), each once",
    "capabilities = [\"CAP_NET_ADMIN\"]",
);
const NO_NEW_PRIVS: Key = Key::new("no_new_privs", "true or false", "no_new_privs = true");

/// Six times as much, a ring full of control characters in JSON, still fits into `control::MAX_LINE_BYTES`.
const RING_KIB: Key = Key::whole("ring_kib", "KiB", 1..=128, "ring_kib = 16");
const FILE_KIB: Key = Key::whole("file_kib", "KiB", 0..=16_384, "file_kib = 256");
const FILES: Key = Key::whole("files", "files", 0..=10, "files = 2");

/// Three times the slowest start that was measured under emulation (40 s), and short enough that a pass of ten minutes
/// sees a second try.
const DEFAULT_READY_TIMEOUT: Duration = Duration::from_secs(120);
/// A probe costs a few system calls; four a minute are nothing, and three failures are found within a minute.
const DEFAULT_PERIOD: Duration = Duration::from_secs(15);
/// A processor that is starved for this long answers nobody.
const DEFAULT_PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// One lost answer is noise, two are bad luck.
const DEFAULT_FAILURES: u32 = 3;
/// Back-off from half a second, which is over before anyone notices, to a minute, at which a service that can not run
/// costs next to no energy; two minutes of being ready are no crash loop.
const DEFAULT_RESTART: Restart =
    Restart { min: Duration::from_millis(500), max: Duration::from_secs(60), reset: Duration::from_secs(120) };
/// TERM is every daemon's polite request; ten seconds are systemd's and Kubernetes' order of magnitude.
const DEFAULT_STOP: Stop = Stop { signal: Signal::Term, timeout: Duration::from_secs(10) };
/// The last hundred lines or so in memory; on the card three files of 256 KiB, some thousand lines.
const DEFAULT_LOG: Log = Log { ring_kib: 16, file_kib: 256, files: 2 };

/// Longest path of a unix socket: sun_path of unix(7) without its final NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;

const PROBES: &str = "exactly one of notify, unix, grpc, http, file";

pub(super) fn ready(root: &Table<'_>, kind: Kind) -> Result<(Ready, Duration), Error> {
    let Some(table) = root.table(&READY, &[&NOTIFY, &UNIX, &GRPC, &HTTP, &FILE, &READY_TIMEOUT_S])? else {
        return Ok((Ready::Started, DEFAULT_READY_TIMEOUT));
    };
    let notify = table.boolean(&NOTIFY)?;
    if notify == Some(false) {
        return Err(table.mistake(&NOTIFY, "true (or no such key)", "false"));
    }
    let timeout = seconds(&table, &READY_TIMEOUT_S)?.unwrap_or(DEFAULT_READY_TIMEOUT);
    let ready = match (kind, notify, probe(&table)?) {
        (Kind::Daemon, Some(_), None) => Ready::Notify,
        (Kind::Daemon, None, Some(probe)) => Ready::Probe(probe),
        (Kind::Daemon, None, None) => return Err(root.mistake(&READY, PROBES, "none of them")),
        (Kind::Daemon, Some(_), Some(_)) => return Err(root.mistake(&READY, PROBES, "more than one of them")),
        (Kind::Oneshot, None, None) => Ready::Started,
        (Kind::Oneshot, ..) => {
            let expected = "nothing but timeout_s: a oneshot is ready when it ends with status 0";
            let example = "ready = { timeout_s = 120 }";
            return Err(Error { example, ..root.mistake(&READY, expected, "notify or a probe") });
        }
    };
    Ok((ready, timeout))
}

pub(super) fn health(root: &Table<'_>, kind: Kind) -> Result<Option<Health>, Error> {
    let keys = [&WATCHDOG_S, &UNIX, &GRPC, &HTTP, &FILE, &PERIOD_S, &PROBE_TIMEOUT_S, &FAILURES];
    let Some(table) = root.table(&HEALTH, &keys)? else { return Ok(None) };
    if kind == Kind::Oneshot {
        return Err(root.mistake(&HEALTH, "no such table: a oneshot that is ready has ended", "one"));
    }
    let period = seconds(&table, &PERIOD_S)?;
    let timeout = seconds(&table, &PROBE_TIMEOUT_S)?;
    let failures = table.whole(&FAILURES)?;
    match (seconds(&table, &WATCHDOG_S)?, probe(&table)?) {
        (Some(watchdog), None) => {
            for key in [&PERIOD_S, &PROBE_TIMEOUT_S, &FAILURES] {
                if table.has(key) {
                    let expected = "no such key beside watchdog_s: it belongs to a probe";
                    let example = "health = { watchdog_s = 30 }";
                    return Err(Error { example, ..table.mistake(key, expected, "one") });
                }
            }
            Ok(Some(Health::Watchdog(watchdog)))
        }
        (None, Some(probe)) => Ok(Some(Health::Probe {
            probe,
            period: period.unwrap_or(DEFAULT_PERIOD),
            timeout: timeout.unwrap_or(DEFAULT_PROBE_TIMEOUT),
            failures: failures.unwrap_or(DEFAULT_FAILURES),
        })),
        (found, _) => {
            let found = if found.is_some() { "more than one of them" } else { "none of them" };
            Err(root.mistake(&HEALTH, "exactly one of watchdog_s, unix, grpc, http, file", found))
        }
    }
}

/// The one probe in the table.
fn probe(table: &Table<'_>) -> Result<Option<Probe>, Error> {
    let probes = [
        (&UNIX, table.text(&UNIX, |path| socket_path(path).map(Probe::Unix))?),
        (&GRPC, table.text(&GRPC, |path| socket_path(path).map(Probe::Grpc))?),
        (&HTTP, table.text(&HTTP, http)?),
        (&FILE, table.text(&FILE, |path| absolute_path(path).map(Probe::File))?),
    ];
    let mut written = probes.into_iter().filter_map(|(key, probe)| Some((key, probe?)));
    let first = written.next();
    if let Some((key, _)) = written.next() {
        return Err(table.mistake(key, "one of unix, grpc, http, file", "more than one of them"));
    }
    Ok(first.map(|(_, probe)| probe))
}

pub(super) fn restart(root: &Table<'_>) -> Result<Restart, Error> {
    let Some(table) = root.table(&RESTART, &[&MIN_MS, &MAX_S, &RESET_S])? else { return Ok(DEFAULT_RESTART) };
    let restart = Restart {
        min: table.whole(&MIN_MS)?.map_or(DEFAULT_RESTART.min, Duration::from_millis),
        max: seconds(&table, &MAX_S)?.unwrap_or(DEFAULT_RESTART.max),
        reset: seconds(&table, &RESET_S)?.unwrap_or(DEFAULT_RESTART.reset),
    };
    if restart.min > restart.max {
        let found =
            alloc::format!("{} s, less than the {} ms of min_ms", restart.max.as_secs(), restart.min.as_millis());
        return Err(table.mistake(&MAX_S, "at least min_ms", found));
    }
    Ok(restart)
}

pub(super) fn stop(root: &Table<'_>) -> Result<Stop, Error> {
    let Some(table) = root.table(&STOP, &[&SIGNAL, &STOP_TIMEOUT_S])? else { return Ok(DEFAULT_STOP) };
    Ok(Stop {
        signal: table.text(&SIGNAL, signal)?.unwrap_or(DEFAULT_STOP.signal),
        timeout: seconds(&table, &STOP_TIMEOUT_S)?.unwrap_or(DEFAULT_STOP.timeout),
    })
}

pub(super) fn limits(root: &Table<'_>) -> Result<Limits, Error> {
    let keys = [
        &MEMORY_MAX_MIB,
        &MEMORY_LOW_MIB,
        &CPU_WEIGHT,
        &CPU_WEIGHT_STARTING,
        &PIDS_MAX,
        &OOM_SCORE_ADJ,
        &NOFILE,
        &DELEGATE,
    ];
    let Some(table) = root.table(&LIMITS, &keys)? else { return Ok(Limits::default()) };
    let limits = Limits {
        memory_max_mib: table.whole(&MEMORY_MAX_MIB)?,
        memory_low_mib: table.whole(&MEMORY_LOW_MIB)?,
        cpu_weight: table.whole(&CPU_WEIGHT)?,
        cpu_weight_starting: table.whole(&CPU_WEIGHT_STARTING)?,
        pids_max: table.whole(&PIDS_MAX)?,
        oom_score_adj: table.whole(&OOM_SCORE_ADJ)?.unwrap_or_default(),
        nofile: table.whole(&NOFILE)?,
        delegate: table.boolean(&DELEGATE)?.unwrap_or_default(),
    };
    match (limits.memory_low_mib, limits.memory_max_mib) {
        (Some(low), Some(max)) if low > max => {
            let found = alloc::format!("{low}, more than the {max} of memory_max_mib");
            Err(table.mistake(&MEMORY_LOW_MIB, "at most memory_max_mib", found))
        }
        _ => Ok(limits),
    }
}

pub(super) fn security(root: &Table<'_>) -> Result<Security, Error> {
    let Some(table) = root.table(&SECURITY, &[&USER, &CAPABILITIES_KEPT, &NO_NEW_PRIVS])? else {
        return Ok(Security::default());
    };
    let capabilities = table.texts(&CAPABILITIES_KEPT, capability)?;
    for (place, name) in capabilities.iter().flatten().enumerate() {
        if capabilities.iter().flatten().take(place).any(|before| before == name) {
            return Err(table.mistake(
                &CAPABILITIES_KEPT,
                "each capability once",
                alloc::format!("{} again", quoted(name)),
            ));
        }
    }
    Ok(Security {
        user: table.whole(&USER)?.unwrap_or_default(),
        capabilities,
        no_new_privs: table.boolean(&NO_NEW_PRIVS)?.unwrap_or_default(),
    })
}

pub(super) fn log(root: &Table<'_>) -> Result<Log, Error> {
    let Some(table) = root.table(&LOG, &[&RING_KIB, &FILE_KIB, &FILES])? else { return Ok(DEFAULT_LOG) };
    Ok(Log {
        ring_kib: table.whole(&RING_KIB)?.unwrap_or(DEFAULT_LOG.ring_kib),
        file_kib: table.whole(&FILE_KIB)?.unwrap_or(DEFAULT_LOG.file_kib),
        files: table.whole(&FILES)?.unwrap_or(DEFAULT_LOG.files),
    })
}

fn seconds(table: &Table<'_>, key: &Key) -> Result<Option<Duration>, Error> {
    Ok(table.whole(key)?.map(Duration::from_secs))
}

fn socket_path(text: &str) -> Option<String> {
    absolute_path(text).filter(|path| path.len() <= MAX_SOCKET_PATH_BYTES)
}

/// Only this machine's own services are asked, and only by address: a name could need the network.
fn http(text: &str) -> Option<Probe> {
    let (port, path) = text.strip_prefix("127.0.0.1:")?.split_once('/')?;
    let port = port.parse().ok().filter(|&port| port != 0)?;
    let good = path.bytes().all(|byte| byte.is_ascii_graphic());
    good.then(|| Probe::Http { port, path: alloc::format!("/{path}") })
}

fn signal(text: &str) -> Option<Signal> {
    match text {
        "TERM" => Some(Signal::Term),
        "INT" => Some(Signal::Int),
        "KILL" => Some(Signal::Kill),
        _ => None,
    }
}

fn capability(text: &str) -> Option<String> {
    CAPABILITIES.contains(&text).then(|| text.to_owned())
}
