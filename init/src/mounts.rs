//! The file systems that every boot has, in order.

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use crate::logs::Logs;

/// One mount.
struct Mount {
    target: &'static str,
    kind: &'static str,
    flags: MountFlags,
    options: &'static str,
}

/// No device files, no setuid programs, no programs at all.
const DATA_ONLY: MountFlags = MountFlags::NODEV.union(MountFlags::NOSUID).union(MountFlags::NOEXEC);

/// What everything else is done with. In this order, as are [`NEXT`] and [`LAST`] after it: later ones are inside
/// earlier ones. The targets are folders of the image or of an earlier mount.
const FIRST: &[Mount] = &[
    Mount { target: "/proc", kind: "proc", flags: DATA_ONLY, options: "" },
    Mount { target: "/sys", kind: "sysfs", flags: DATA_ONLY, options: "" },
    // The kernel has mounted it already where DEVTMPFS_MOUNT is set.
    Mount { target: "/dev", kind: "devtmpfs", flags: MountFlags::NOSUID, options: "mode=755" },
];

/// What services are started in. Each tmpfs could fill the memory of the node; together they cannot fill half of it.
const NEXT: &[Mount] = &[
    // runc keeps an executable of itself below /run: no NOEXEC.
    Mount {
        target: "/run",
        kind: "tmpfs",
        flags: MountFlags::NODEV.union(MountFlags::NOSUID),
        options: "mode=755,size=20%",
    },
    Mount { target: "/tmp", kind: "tmpfs", flags: DATA_ONLY, options: "mode=1777,size=10%" },
    Mount {
        target: "/sys/fs/cgroup",
        kind: "cgroup2",
        flags: DATA_ONLY,
        // Not memory_recursiveprot: memory.low protects the services that ask for it, not all of them.
        options: "nsdelegate",
    },
];

/// What only pods, and PID 1 itself later on, look for.
const LAST: &[Mount] = &[
    Mount {
        target: "/dev/pts",
        kind: "devpts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: "mode=620,ptmxmode=666,gid=5",
    },
    Mount { target: "/dev/shm", kind: "tmpfs", flags: DATA_ONLY, options: "mode=1777,size=10%" },
    Mount { target: "/dev/mqueue", kind: "mqueue", flags: DATA_ONLY, options: "" },
    Mount { target: "/sys/fs/bpf", kind: "bpf", flags: DATA_ONLY, options: "mode=700" },
    Mount { target: "/sys/fs/pstore", kind: "pstore", flags: DATA_ONLY, options: "" },
    Mount { target: "/sys/kernel/security", kind: "securityfs", flags: DATA_ONLY, options: "" },
];

/// Mounts what the rest of the start needs.
pub fn mount_first(logs: &mut Logs) {
    mount_each(FIRST, logs);
}

/// Mounts what services need from their first instruction on.
pub fn mount_next(logs: &mut Logs) {
    mount_each(NEXT, logs);
    // kubelet's and containerd's mounts must be seen in each other's and in the pods' namespaces, and so must what is
    // mounted from now on: it is shared as what it is mounted on.
    if let Err(error) = mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC) {
        logs.event(format_args!("mount=/ propagation=shared error=\"{error}\""));
    }
}

/// Mounts the rest, which no service waits for.
pub fn mount_last(logs: &mut Logs) {
    mount_each(LAST, logs);
}

/// One that cannot be mounted is an event, not an end: the services that need it say so.
fn mount_each(mounts: &[Mount], logs: &mut Logs) {
    for Mount { target, kind, flags, options } in mounts {
        // Folders inside /dev, absent until devtmpfs is there; elsewhere they exist and this fails.
        let _ = std::fs::create_dir(target);
        let options = std::ffi::CString::new(*options).unwrap_or_default();
        match mount(*kind, *target, *kind, *flags, Some(options.as_c_str())) {
            // EBUSY: the kernel was first.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => logs.event(format_args!("mount={target} type={kind} error=\"{error}\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<&'static Mount> {
        FIRST.iter().chain(NEXT).chain(LAST).collect()
    }

    #[test]
    fn what_is_inside_another_mount_comes_after_it() {
        for (index, outer) in all().into_iter().enumerate() {
            for earlier in &all()[..index] {
                assert!(!earlier.target.starts_with(&format!("{}/", outer.target)), "{}", earlier.target);
                assert_ne!(earlier.target, outer.target);
            }
        }
    }

    #[test]
    fn every_tmpfs_has_a_limit_and_together_they_leave_half_of_the_memory() {
        let percent: u32 = all()
            .iter()
            .filter(|mount| mount.kind == "tmpfs")
            .map(|mount| mount.options.split("size=").nth(1).unwrap().trim_end_matches('%').parse::<u32>().unwrap())
            .sum();
        assert!(percent <= 50);
    }

    #[test]
    fn nothing_brings_setuid_programs() {
        assert!(all().iter().all(|mount| mount.flags.contains(MountFlags::NOSUID)));
    }
}
