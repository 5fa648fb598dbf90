//! What a node says, for people, on 80 columns.

mod chart;
mod table;
mod unit;
mod update;

use std::fmt::Write as _;

use perigee_core::control::{DataOrigin, Scrubs, ServiceState, SlotScrub, Slots, Status};
use perigee_core::inspect::{Inspection, Processes};

pub use self::chart::{stages, timeline};
use self::table::{Align, Table};
use self::unit::bytes;
pub use self::unit::span;
pub use self::update::{progress, update};

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
        DataOrigin::Pending => "not mounted yet: being checked or made new",
        DataOrigin::Clean => "clean",
        DataOrigin::Repaired => "repaired at this boot",
        DataOrigin::New => "new: the one before could not be repaired and was set aside",
        DataOrigin::Volatile => "VOLATILE: no data partition, all is lost with the power",
    };
    let (free, size) = (bytes(status.data.free_bytes), bytes(status.data.size_bytes));
    let room = if status.data.size_bytes > 0 { format!("{free} of {size} free, ") } else { String::new() };
    let _infallible = writeln!(text, "data: {room}{origin}");
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

/// What runs and what starts next, and one line per slot.
pub fn slots(slots: &Slots) -> String {
    let next = slots.once.as_ref().map_or_else(
        || format!("next {} if it has tries left", slots.preferred),
        |once| format!("next {once}, once, then {}", slots.preferred),
    );
    let mut table = Table::new(&[("SLOT", Align::Left), ("STATE", Align::Left), ("TRIES LEFT", Align::Right)]);
    for slot in &slots.slots {
        table.row([slot.name.clone(), slot.standing.clone(), slot.tries_left.to_string()]);
    }
    let rounds =
        if slots.rounds > 0 { format!("; all slots had lost all tries {} times", slots.rounds) } else { String::new() };
    format!("{} runs, start {}; {next}{rounds}\n\n{table}", slots.running, slots.starts)
}

/// What reading the slots has found.
pub fn scrubs(scrubs: &Scrubs) -> String {
    let mut table = Table::new(&[
        ("SLOT", Align::Left),
        ("BLOCKS READ", Align::Right),
        ("CORRECTED", Align::Right),
        ("COPIED", Align::Right),
        ("LOST", Align::Right),
    ]);
    for SlotScrub { name, has_image, read, corrected, copied, lost } in &scrubs.slots {
        let count = |count: &u64| if *has_image { count.to_string() } else { "no image".to_owned() };
        table.row([name.clone(), count(read), count(corrected), count(copied), count(lost)]);
    }
    let now =
        scrubs.reading.as_ref().map_or_else(|| "nothing is read now".to_owned(), |slot| format!("{slot} is read now"));
    format!("{} whole rounds since the agent's start; {now}\n\n{table}", scrubs.rounds)
}

/// One line per end, the newest last.
pub fn resets(slots: &Slots) -> String {
    let mut table = Table::new(&[
        ("START", Align::Right),
        ("SLOT", Align::Left),
        ("CAUSE", Align::Left),
        ("AFTER", Align::Right),
        ("LAST WORDS", Align::Left),
    ]);
    for reset in &slots.resets {
        let after = if reset.uptime_s > 0 { span(u64::from(reset.uptime_s) * 1000) } else { String::new() };
        table.row([reset.start.to_string(), reset.slot.clone(), reset.cause.clone(), after, reset.words.clone()]);
    }
    table.to_string()
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
        "memory: {} of {} available; PSS of all {}\nprocessors: {} % busy since boot; disks: {} written\n\n{table}",
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
        table.row([format!("  {}", mount.target), mount.kind.clone(), writable.to_owned(), mount.source.clone()]);
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

#[cfg(test)]
mod tests {
    use perigee_core::control::{Data, Link, ServiceStatus};
    use perigee_core::inspect::{Mount, Process};
    use perigee_core::reset::Cause;
    use perigee_core::slot::{Rejected, Side, Slot, State};
    use perigee_core::watchdog::Vital;

    use super::*;

    /// What a terminal has.
    const COLUMNS: usize = 80;
    const MIB: u64 = 1024 * 1024;

    fn service(name: &str, state: ServiceState, exec_ms: Option<u64>, ready_ms: Option<u64>) -> ServiceStatus {
        ServiceStatus {
            name: name.into(),
            state,
            pid: exec_ms.map(|_| 123),
            restarts: 0,
            since_ms: ready_ms.or(exec_ms).unwrap_or(1_600),
            first_exec_ms: exec_ms,
            first_ready_ms: ready_ms,
            last_exit: None,
            memory_bytes: 183 * MIB + MIB / 3,
            memory_peak_bytes: 200 * MIB,
            cpu_usec: 12_000_000,
        }
    }

    fn node() -> Status {
        let mut kubelet = service("kubelet", ServiceState::BackOff, Some(17_000), Some(22_900));
        (kubelet.restarts, kubelet.last_exit) = (12, Some("signal 9".into()));
        Status {
            node: "node-1".into(),
            version: "0.1.0".into(),
            boot_id: "6f1c4e0e-7d5a-4d9e-8e54-0d6b1f3a9c11".into(),
            now_ms: 132_000,
            pid1_started_ms: 1_600,
            data: Data { origin: DataOrigin::Clean, size_bytes: 4096 * MIB, free_bytes: 3300 * MIB },
            services: vec![
                service("etcd", ServiceState::Ready, Some(1_900), Some(4_100)),
                service("kube-apiserver", ServiceState::Ready, Some(4_100), Some(25_300)),
                service("kube-controller-manager", ServiceState::Waiting, None, None),
                kubelet,
            ],
            links: vec![Link { name: "eth0".into(), carrier: false, configured: true }],
        }
    }

    fn assert_fits(text: &str) {
        for line in text.lines() {
            assert!(line.chars().count() <= COLUMNS, "{} columns: {line}\n{text}", line.chars().count());
        }
    }

    #[test]
    fn a_status_has_a_line_for_each_thing() {
        let text = status(&node());
        let expected = "\
node-1: version 0.1.0, up 2 m 12 s, boot 6f1c4e0e
data: 3.2 GiB of 4.0 GiB free, clean
eth0: NO CARRIER, configured

SERVICE                  STATE          FOR  RESTARTS   MEMORY  LAST END
etcd                     ready      2 m 7 s         0  183 MiB
kube-apiserver           ready     1 m 46 s         0  183 MiB
kube-controller-manager  waiting   2 m 10 s         0  183 MiB
kubelet                  back-off  1 m 49 s        12  183 MiB  signal 9
";
        assert_eq!(text, expected, "\n{text}");
        assert_fits(&text);
    }

    #[test]
    fn data_that_is_still_checked_has_no_size() {
        let mut node = node();
        node.data = Data { origin: DataOrigin::Pending, size_bytes: 0, free_bytes: 0 };
        let text = status(&node);
        assert!(text.contains("\ndata: not mounted yet: being checked or made new\n"), "\n{text}");
    }

    #[test]
    fn a_timeline_has_a_bar_for_each_service() {
        let text = timeline(&node());
        let scale = "                         0 s                             25.3 s\n";
        let bars = "\
init                       █                                      1.6 s → 1.6 s
etcd                       ████                                   1.9 s → 4.1 s
kube-apiserver                 ████████████████████████████████   4.1 s → 25.3 s
kubelet                                           █████████      17.0 s → 22.9 s
kube-controller-manager                                          not started
";
        assert_eq!(text, format!("{scale}{bars}"), "\n{text}");
        assert_fits(&text);
    }

    #[test]
    fn a_service_on_its_way_has_an_open_bar_until_now() {
        let mut node = node();
        node.now_ms = 30_000;
        node.services[1].first_ready_ms = None;
        let text = timeline(&node);
        assert!(text.contains("30.0 s") && text.contains("░") && text.contains("4.1 s → ?"), "\n{text}");
        assert_fits(&text);
    }

    #[test]
    fn a_node_that_says_nothing_makes_no_nonsense() {
        let mut node = node();
        (node.now_ms, node.pid1_started_ms, node.boot_id) = (0, 0, String::new());
        node.services.clear();
        assert_fits(&status(&node));
        assert_fits(&timeline(&node));
    }

    #[test]
    fn slots_and_ends_have_a_line_each() {
        let mut state = State::new(Side::A, [true, true, false]);
        let _ = state.choose(Rejected::default());
        state.confirm(Slot::A);
        state.end(Cause::Vital(Vital::Kubelet), 725, "kubelet: no such file");
        let _ = state.choose(Rejected::default());
        state.reject(Slot::A, "the kernel's SHA-256 differs");
        let expected = "\
slot-a runs, start 2; next slot-a if it has tries left

SLOT    STATE      TRIES LEFT
slot-a  confirmed           2
slot-b  trying              3
golden  empty               0
";
        assert_eq!(slots(&Slots::of(&state, Slot::A)), expected);
        let expected = "\
START  SLOT    CAUSE             AFTER  LAST WORDS
    1  slot-a  vital-kubelet  12 m 5 s  kubelet: no such file
    2  slot-a  rejected                 the kernel's SHA-256 differs
";
        assert_eq!(resets(&Slots::of(&state, Slot::A)), expected);
        (state.once, state.rounds) = (Some(Slot::B), 4);
        let text = slots(&Slots::of(&state, Slot::A));
        assert!(text.contains("next slot-b, once, then slot-a; all slots had lost all tries 4 times"), "{text}");
    }

    #[test]
    fn a_slot_without_an_image_has_no_counts() {
        let slot = |name: &str, has_image| SlotScrub {
            name: name.into(),
            has_image,
            read: 68_000,
            corrected: 3,
            ..SlotScrub::default()
        };
        let found = Scrubs {
            rounds: 1,
            reading: Some("slot-b".into()),
            slots: vec![slot("slot-a", true), slot("golden", false)],
        };
        let expected = "\
1 whole rounds since the agent's start; slot-b is read now

SLOT    BLOCKS READ  CORRECTED    COPIED      LOST
slot-a        68000          3         0         0
golden     no image   no image  no image  no image
";
        assert_eq!(scrubs(&found), expected);
    }

    #[test]
    fn the_largest_process_is_first() {
        let process = |pid, name: &str, cgroup: &str, pss_bytes| Process {
            pid,
            name: name.into(),
            cgroup: cgroup.into(),
            service: cgroup.strip_prefix("/perigee/").map(str::to_owned),
            pss_bytes,
            rss_bytes: pss_bytes,
            anonymous_bytes: pss_bytes / 2,
            swap_bytes: 0,
            cpu_ms: 90_000,
        };
        let text = processes(&Processes {
            now_ms: 132_000,
            memory_total_bytes: 480 * MIB,
            memory_available_bytes: 100 * MIB,
            cpu_busy_ms: 50,
            cpu_idle_ms: 150,
            disk_written_bytes: 20 * MIB,
            processes: vec![
                process(1, "init", "/", MIB),
                process(7, "demo", "/kubepods/besteffort/pod0c0/c1", 2 * MIB),
                process(200, "kube-controller", "/perigee/kube-controller-manager", 65 * MIB),
            ],
        });
        let expected = "\
memory: 100 MiB of 480 MiB available; PSS of all 68.0 MiB
processors: 25 % busy since boot; disks: 20.0 MiB written

PID  NAME             SERVICE                       PSS      ANON       CPU
200  kube-controller  kube-controller-manager  65.0 MiB  32.5 MiB  1 m 30 s
  7  demo             (pod)                     2.0 MiB   1.0 MiB  1 m 30 s
  1  init                                       1.0 MiB   512 KiB  1 m 30 s
";
        assert_eq!(text, expected, "\n{text}");
        assert_fits(&text);
    }

    #[test]
    fn facts_are_lists_with_their_counts() {
        let mount = |target: &str, options: &[&str]| Mount {
            target: target.into(),
            source: "/dev/vda6".into(),
            kind: "erofs".into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        };
        let text = inspection(&Inspection {
            kernel: "6.12.95".into(),
            command_line: "root=PARTLABEL=slot-a".into(),
            pid1_exe: "/sbin/init".into(),
            pid1_static: true,
            mounts: vec![mount("/", &["noatime", "ro"]), mount("/config", &["rw"])],
            elf_files: vec!["/sbin/init".into()],
            dynamic_files: vec![],
            setuid_files: vec![],
            shells: vec![],
            zombies: vec![42],
            cgroups: vec!["/perigee".into(), "/perigee/etcd".into()],
        });
        let expected = "\
kernel        6.12.95
PID 1         /sbin/init, static
ELF files     1
  /sbin/init
dynamic ones  none
setuid files  none
shells        none
zombies       1
  42
cgroups       2
mounts        2
  /        erofs  ro  /dev/vda6
  /config  erofs  rw  /dev/vda6
";
        assert_eq!(text, expected, "\n{text}");
    }
}
