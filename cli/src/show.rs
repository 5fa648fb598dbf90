//! What a node says, for people, on 80 columns.

mod chart;
mod table;
mod unit;

use std::fmt::Write as _;

use perigee_core::control::{DataOrigin, ServiceState, Status};
use perigee_core::inspect::{Inspection, Processes};

pub use self::chart::{stages, timeline};
use self::table::{Align, Table};
use self::unit::{bytes, span};

/// The node, and then its services.
pub fn status(status: &Status) -> String {
    let mut text = format!(
        "{}: version {}, up {}, boot {}\n",
        status.node,
        status.version,
        span(status.now_ms),
        status.boot_id.split('-').next().unwrap_or_default(),
    );
    let origin = match status.data.origin {
        DataOrigin::Clean => "clean",
        DataOrigin::Repaired => "repaired at this boot",
        DataOrigin::New => "new: the one before could not be repaired and was set aside",
        DataOrigin::Volatile => "VOLATILE: no data partition, all is lost with the power",
    };
    let (free, size) = (bytes(status.data.free_bytes), bytes(status.data.size_bytes));
    let _infallible = writeln!(text, "data: {free} of {size} free, {origin}");
    for link in &status.links {
        let carrier = if link.carrier { "carrier" } else { "NO CARRIER" };
        let configured = if link.configured { "configured" } else { "not configured" };
        let _infallible = writeln!(text, "{}: {carrier}, {configured}", link.name);
    }
    text.push('\n');
    text + &services(status)
}

/// One line per service.
pub fn services(status: &Status) -> String {
    let mut table = Table::new(&[
        ("SERVICE", Align::Left),
        ("STATE", Align::Left),
        ("FOR", Align::Right),
        ("RESTARTS", Align::Right),
        ("MEMORY", Align::Right),
        ("LAST END", Align::Left),
    ]);
    for service in &status.services {
        table.row([
            service.name.clone(),
            state(service.state).to_owned(),
            span(status.now_ms.saturating_sub(service.since_ms)),
            service.restarts.to_string(),
            bytes(service.memory_bytes),
            service.last_exit.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

fn state(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Stopped => "stopped",
        ServiceState::Waiting => "waiting",
        ServiceState::Starting => "starting",
        ServiceState::Ready => "ready",
        ServiceState::Stopping => "stopping",
        ServiceState::BackOff => "back-off",
    }
}

/// Processes by their share of memory, and the sum of each service.
pub fn processes(seen: &Processes) -> String {
    let mut processes: Vec<_> = seen.processes.iter().collect();
    processes.sort_by_key(|process| std::cmp::Reverse(process.pss_bytes));
    let mut table = Table::new(&[
        ("PID", Align::Right),
        ("NAME", Align::Left),
        ("SERVICE", Align::Left),
        ("PSS", Align::Right),
        ("ANON", Align::Right),
        ("CPU", Align::Right),
    ]);
    for process in &processes {
        let pod = if process.cgroup.starts_with("/kubepods") { "(pod)" } else { "" };
        table.row([
            process.pid.to_string(),
            process.name.clone(),
            process.service.clone().unwrap_or_else(|| pod.to_owned()),
            bytes(process.pss_bytes),
            bytes(process.anonymous_bytes),
            span(process.cpu_ms),
        ]);
    }
    let all_ms = (seen.cpu_busy_ms + seen.cpu_idle_ms).max(1);
    format!(
        "memory: {} of {} available; PSS of all {}; processors {} % busy since boot; {} written to disk\n\n{table}",
        bytes(seen.memory_available_bytes),
        bytes(seen.memory_total_bytes),
        bytes(processes.iter().map(|process| process.pss_bytes).sum()),
        seen.cpu_busy_ms * 100 / all_ms,
        bytes(seen.disk_written_bytes),
    )
}

/// Facts, one a line; lists below their line.
pub fn inspection(seen: &Inspection) -> String {
    let mut text = format!("kernel        {}\n", seen.kernel);
    let linked = if seen.pid1_static { "static" } else { "DYNAMIC" };
    let _infallible = writeln!(text, "PID 1         {}, {linked}", seen.pid1_exe);
    list(&mut text, "ELF files", &seen.elf_files);
    list(&mut text, "dynamic ones", &seen.dynamic_files);
    list(&mut text, "setuid files", &seen.setuid_files);
    list(&mut text, "shells", &seen.shells);
    list(&mut text, "zombies", &seen.zombies);
    let _infallible = writeln!(text, "cgroups       {}", seen.cgroups.len());
    let _infallible = writeln!(text, "mounts        {}", seen.mounts.len());
    let mut table = Table::new(&[("", Align::Left); 4]);
    for mount in &seen.mounts {
        let writable = if mount.options.iter().any(|option| option == "ro") { "ro" } else { "rw" };
        table.row([mount.target.clone(), mount.kind.clone(), writable.to_owned(), mount.source.clone()]);
    }
    text + &table.to_string()
}

fn list(text: &mut String, name: &str, items: &[impl ToString]) {
    let count = if items.is_empty() { "none".to_owned() } else { items.len().to_string() };
    let _infallible = writeln!(text, "{name:<13} {count}");
    for item in items {
        let _infallible = writeln!(text, "  {}", item.to_string());
    }
}
