//! The way down: services in reverse order, pods, what is left of both, the storage; each with a deadline, so that
//! the machine reboots whatever hangs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::{RebootCommand, reboot};

use crate::cgroup::{self, Group};

/// Cgroups nest this deep at the most: kubepods, quality of service, pod, container, and what is inside.
const DEPTH: u32 = 8;

/// What comes after the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The machine starts again.
    Reboot,
    /// The machine is switched off.
    PowerOff,
}

/// What is being ended, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The services, in reverse order, each within its own time.
    Services,
    /// The pods are asked to end.
    Pods,
    /// All that is left is killed.
    Remains,
    /// File systems are written out and unmounted.
    Storage,
    /// Nothing is left to do but the goal.
    Over,
}

impl Phase {
    /// How long it may take.
    fn patience(self) -> Duration {
        Duration::from_secs(match self {
            // The longest chain of services, the API server before etcd, may take 20 s each; the rest ends beside it.
            Self::Services => 60,
            // Not the pods' own grace periods: power may go, or the watchdog bite, any time.
            Self::Pods => 5,
            // A kill takes milliseconds, unless the kernel hangs on a dead card.
            Self::Remains => 3,
            // What the card's cache and ours hold: tens of MB at a few MB/s.
            Self::Storage => 15,
            Self::Over => 0,
        })
    }

    fn next(self) -> Self {
        match self {
            Self::Services => Self::Pods,
            Self::Pods => Self::Remains,
            Self::Remains => Self::Storage,
            Self::Storage | Self::Over => Self::Over,
        }
    }
}

/// A shutdown under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// What comes after it.
    pub goal: Goal,
    /// Where it is.
    pub phase: Phase,
    /// When the phase is over whether or not it is done.
    pub deadline: Duration,
}

impl Shutdown {
    /// Begins.
    pub fn new(goal: Goal, now: Duration) -> Self {
        let phase = Phase::Services;
        Self { goal, phase, deadline: now + phase.patience() }
    }

    /// Goes on if the phase is done or its time is over. Some: this phase begins.
    pub fn advance(&mut self, now: Duration, done: bool) -> Option<Phase> {
        if self.phase == Phase::Over || (!done && now < self.deadline) {
            return None;
        }
        self.phase = self.phase.next();
        self.deadline = now + self.phase.patience();
        Some(self.phase)
    }
}

/// Asks every pod's processes to end.
pub fn ask_pods() {
    ask(Path::new(cgroup::PODS), DEPTH);
}

fn ask(folder: &Path, depth: u32) {
    for pid in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
            // It may have ended meanwhile. Should its number be another's by now, that one is a pod's, too: all
            // services have ended.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            ask(&entry.path(), depth);
        }
    }
}

/// Whether no process of a pod is left.
pub fn pods_are_gone() -> bool {
    is_empty(cgroup::PODS)
}

/// Kills pods and shims.
pub fn kill_remains() {
    for path in [cgroup::PODS, cgroup::SHIMS] {
        if let Ok(group) = Group::open(Path::new(path)) {
            // It is tried once; what cannot be killed ends with the machine.
            let _ = group.kill();
        }
    }
}

/// Whether no process of a pod and no shim is left.
pub fn remains_are_gone() -> bool {
    is_empty(cgroup::PODS) && is_empty(cgroup::SHIMS)
}

fn is_empty(path: &str) -> bool {
    Group::open(Path::new(path)).map_or(true, |group| !group.populated())
}

/// Writes everything out and unmounts what is on data. Blocks as long as the card does: the caller is a child of
/// PID 1. Returns its exit status.
pub fn leave_storage() -> i32 {
    rustix::fs::sync();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for target in to_unmount(&mounts) {
        // Busy, or gone with another: the remount below covers it.
        let _ = unmount(target.as_str(), UnmountFlags::empty());
    }
    // Still mounted only if something on it could not be ended.
    let _ = mount_remount("/data", MountFlags::RDONLY, c"");
    rustix::fs::sync();
    0
}

/// Ends the machine. Returns only if the kernel refuses.
pub fn end(goal: Goal) -> Errno {
    let command = match goal {
        Goal::Reboot => RebootCommand::Restart,
        Goal::PowerOff => RebootCommand::PowerOff,
    };
    match reboot(command) {
        Ok(()) => Errno::INVAL,
        Err(error) => error,
    }
}

/// Mount points that hold data, the last mounted first: on /data and /var, and containers' below /run.
fn to_unmount(mountinfo: &str) -> Vec<String> {
    let is_ours = |target: &String| {
        ["/data", "/var"]
            .iter()
            .any(|root| target.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
            || target.starts_with("/run/")
    };
    // The fifth field (proc_pid_mountinfo(5)).
    let targets = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut targets: Vec<_> = targets.filter(is_ours).collect();
    targets.reverse();
    targets
}

/// Space, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        text.push(code.map_or('\\', char::from));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_early_goes_on_at_once() {
        let mut shutdown = Shutdown::new(Goal::Reboot, Duration::ZERO);
        for phase in [Phase::Pods, Phase::Remains, Phase::Storage, Phase::Over] {
            assert_eq!(shutdown.advance(Duration::ZERO, false), None);
            assert_eq!(shutdown.advance(Duration::ZERO, true), Some(phase));
        }
        assert_eq!(shutdown.advance(Duration::MAX, true), None);
    }

    #[test]
    fn whatever_hangs_the_machine_is_down_in_a_minute_and_a_half() {
        let mut now = Duration::from_secs(1000);
        let begin = now;
        let mut shutdown = Shutdown::new(Goal::PowerOff, now);
        while shutdown.phase != Phase::Over {
            now = shutdown.deadline;
            assert!(shutdown.advance(now, false).is_some());
        }
        assert!(now - begin <= Duration::from_secs(90));
    }

    #[test]
    fn mounts_are_undone_backwards_and_only_where_data_is() {
        let mountinfo = "21 1 254:6 / / ro - erofs /dev/root ro\n\
            22 21 0:5 / /run rw - tmpfs tmpfs rw\n\
            23 21 254:10 / /data rw - ext4 /dev/vda10 rw\n\
            24 21 254:10 /var /var rw - ext4 /dev/vda10 rw\n\
            25 24 0:30 / /var/lib/kubelet/pods/a\\040b/volumes rw - tmpfs tmpfs rw\n\
            26 22 0:31 / /run/containerd/x/rootfs rw - overlay overlay rw\n\
            27 21 0:32 / /database rw - tmpfs tmpfs rw\n";
        assert_eq!(
            to_unmount(mountinfo),
            ["/run/containerd/x/rootfs", "/var/lib/kubelet/pods/a b/volumes", "/var", "/data"]
        );
    }

    #[test]
    fn escapes_are_undone_and_anything_else_is_kept() {
        assert_eq!(unescape("a\\040b\\134c"), "a b\\c");
        assert_eq!(unescape("a\\04"), "a\\04");
        assert_eq!(unescape("\\xyz\\"), "\\xyz\\");
        assert_eq!(unescape("\\é40"), "\\é40");
    }
}
