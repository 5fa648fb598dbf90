//! Kernel settings, each with its reason.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::logs::Logs;

const ROOT: &str = "/proc/sys";

/// What a file below [`ROOT`] is set to; `*` stands for every folder.
struct Setting {
    path: &'static str,
    value: &'static str,
}

const fn set(path: &'static str, value: &'static str) -> Setting {
    Setting { path, value }
}

const SETTINGS: &[Setting] = &[
    // Pods' packets pass through the node.
    set("net/ipv4/ip_forward", "1"),
    // Service addresses work between pods on one bridge, too.
    set("net/bridge/bridge-nf-call-iptables", "1"),
    // Loose: replies may take another way than requests (a bond, host-gw), a spoofed local address still falls.
    set("net/ipv4/conf/*/rp_filter", "2"),
    // Nobody on the bus may change our routes.
    set("net/ipv4/conf/*/accept_redirects", "0"),
    set("net/ipv4/conf/*/send_redirects", "0"),
    set("net/ipv4/conf/*/accept_source_route", "0"),
    set("net/ipv6/conf/*/accept_redirects", "0"),
    // The mission's addresses are IPv4 and static: no router advertisement may add others.
    set("net/ipv6/conf/*/accept_ra", "0"),
    // A flood of half-open connections does not lock the agent out.
    set("net/ipv4/tcp_syncookies", "1"),
    // What kubelet's protectKernelDefaults asks for (pkg/kubelet/cm/container_manager_linux.go).
    set("vm/overcommit_memory", "1"),
    set("vm/panic_on_oom", "0"),
    // A kernel that cannot go on reboots: ten seconds for the console and pstore.
    set("kernel/panic", "10"),
    set("kernel/panic_on_oops", "1"),
    set("kernel/keys/root_maxkeys", "1000000"),
    set("kernel/keys/root_maxbytes", "25000000"),
    // kubelet, containerd and cAdvisor watch many files; the defaults end at a few dozen pods.
    set("fs/inotify/max_user_instances", "8192"),
    set("fs/inotify/max_user_watches", "524288"),
    // Kernel addresses and its log help an attacker only.
    set("kernel/kptr_restrict", "2"),
    set("kernel/dmesg_restrict", "1"),
    set("kernel/unprivileged_bpf_disabled", "1"),
    set("net/core/bpf_jit_harden", "2"),
    set("kernel/perf_event_paranoid", "3"),
    set("kernel/yama/ptrace_scope", "2"),
    set("kernel/kexec_load_disabled", "1"),
    // No terminal program of PID 1 reads a line discipline; none is loaded on request.
    set("dev/tty/ldisc_autoload", "0"),
    set("kernel/sysrq", "0"),
    // Ctrl-Alt-Del is SIGINT to PID 1, an orderly reboot.
    set("kernel/ctrl-alt-del", "0"),
    set("fs/suid_dumpable", "0"),
    // Files in shared folders cannot be used to fool another user's program.
    set("fs/protected_symlinks", "1"),
    set("fs/protected_hardlinks", "1"),
    set("fs/protected_fifos", "2"),
    set("fs/protected_regular", "2"),
];

/// Sets the network's, for cards to find when they come up.
pub fn set_network(logs: &mut Logs) {
    set_those(is_network, logs);
}

/// Sets the others.
pub fn set_others(logs: &mut Logs) {
    set_those(|path| !is_network(path), logs);
}

fn is_network(path: &str) -> bool {
    path.starts_with("net/")
}

/// What this kernel does not have is passed over; what it refuses is an event.
fn set_those(wanted: impl Fn(&str) -> bool, logs: &mut Logs) {
    for Setting { path, value } in SETTINGS.iter().filter(|setting| wanted(setting.path)) {
        for path in expand(Path::new(ROOT), path) {
            match fs::write(&path, value) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => logs.event(format_args!("sysctl={} value={value} error=\"{error}\"", path.display())),
            }
        }
    }
}

/// A path with `*` is one for each folder there. For a network interface's settings these are `all` and `default`,
/// which govern those to come, and each card that is there already, which neither reaches in every case.
fn expand(root: &Path, path: &str) -> Vec<PathBuf> {
    match path.split_once("/*/") {
        None => vec![root.join(path)],
        Some((folder, file)) => {
            let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
            entries.map(|entry| entry.path().join(file)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_is_made_twice_and_all_are_paths() {
        for (index, setting) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[..index].iter().all(|earlier| earlier.path != setting.path), "{}", setting.path);
            assert!(!setting.path.starts_with('/') && setting.path.contains('/') && !setting.path.contains('.'));
            assert!(!setting.value.is_empty());
        }
    }

    #[test]
    fn a_star_is_every_folder() {
        let root = std::env::temp_dir().join(format!("perigee-init-sysctl-{}", std::process::id()));
        for link in ["all", "eth0"] {
            fs::create_dir_all(root.join("conf").join(link)).unwrap();
        }
        let mut paths = expand(&root, "conf/*/accept_ra");
        paths.sort();
        assert_eq!(paths, [root.join("conf/all/accept_ra"), root.join("conf/eth0/accept_ra")]);
        assert_eq!(expand(&root, "vm/x"), [root.join("vm/x")]);
        assert_eq!(expand(&root, "absent/*/x"), [] as [PathBuf; 0]);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn kubelet_finds_the_kernel_defaults_that_it_protects() {
        for (path, value) in [
            ("vm/overcommit_memory", "1"),
            ("vm/panic_on_oom", "0"),
            ("kernel/panic", "10"),
            ("kernel/panic_on_oops", "1"),
            ("kernel/keys/root_maxkeys", "1000000"),
            ("kernel/keys/root_maxbytes", "25000000"),
        ] {
            assert!(SETTINGS.iter().any(|setting| setting.path == path && setting.value == value), "{path}");
        }
    }
}
