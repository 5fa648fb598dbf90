//! Control groups (v2): `/sys/fs/cgroup/perigee/<service>` for services, `init` for PID 1, `shims` for what
//! outlives containerd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use perigee_core::spec::Limits;
use rustix::fs::{Mode, OFlags, inotify, mkdir, openat};
use rustix::io::Errno;

use crate::logs::Logs;

const ROOT: &str = "/sys/fs/cgroup";
const SERVICES: &str = "/sys/fs/cgroup/perigee";
const OWN: &str = "/sys/fs/cgroup/perigee/init";
/// containerd.toml's ShimCgroup: a restart of containerd kills its own cgroup, and the pods go on.
pub const SHIMS: &str = "/sys/fs/cgroup/shims";
/// kubelet's.
pub const PODS: &str = "/sys/fs/cgroup/kubepods";
/// What kubelet uses for pods. One that the kernel lacks is passed over.
const POD_CONTROLLERS: &[&str] = &["cpu", "memory", "pids", "io", "cpuset", "hugetlb"];
/// What the services' limits use: each costs memory and start-up time in each group.
const SERVICE_CONTROLLERS: &[&str] = &["cpu", "memory", "pids"];
/// Services against all pods together (whose weight kubelet sets to about 40 per processor): what keeps the node
/// alive goes first, and cannot starve the pods.
const SERVICES_CPU_WEIGHT: &str = "1000";
/// PID 1 and its log writer, twice over: never short of the pages they run on.
const OWN_MEMORY_MIN: &str = "4194304";
/// The kernel's (CGROUP_WEIGHT_DFL).
pub const USUAL_CPU_WEIGHT: u16 = 100;
/// Longest file that is read: cpu.stat.
const LONGEST: usize = 2048;

/// A control group, by its folder.
#[derive(Debug)]
pub struct Group(OwnedFd);

impl Group {
    /// Opens the group at `path`, making it if it is not there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make(path: &Path) -> Result<Self, Errno> {
        match mkdir(path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Self::open(path),
            Err(error) => Err(error),
        }
    }

    /// Opens a group that is there.
    ///
    /// # Errors
    /// ENOENT when it is not.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Writes one of its files.
    ///
    /// # Errors
    /// ENOENT when the controller is not there, EINVAL for what it does not take.
    pub fn write(&self, file: &str, value: &str) -> Result<(), Errno> {
        let file = openat(&self.0, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, value.as_bytes()).map(drop)
    }

    /// Reads one of its files, as much as a figure needs.
    fn read(&self, file: &str) -> Option<String> {
        let file = openat(&self.0, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut bytes = [0; LONGEST];
        let length = rustix::io::read(&file, &mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// A file with one number.
    pub fn number(&self, file: &str) -> u64 {
        self.read(file).and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    }

    /// CPU time of all its processes since it was made, microseconds.
    pub fn cpu_usec(&self) -> u64 {
        self.read("cpu.stat").and_then(|text| value(&text, "usage_usec")).unwrap_or_default()
    }

    /// Whether any process, zombies aside, is in it or below it. A group that cannot be read is gone.
    pub fn populated(&self) -> bool {
        self.read("cgroup.events").and_then(|text| value(&text, "populated")) == Some(1)
    }

    /// Kills every process in it and below it, at once and without a race.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&self) -> Result<(), Errno> {
        self.write("cgroup.kill", "1")
    }

    /// Sets a service's limits. Returns what could not be set.
    pub fn limit(&self, limits: &Limits) -> Vec<(&'static str, Errno)> {
        let mib = |mib: u32| (u64::from(mib) << 20).to_string();
        // A weight for its starts is set at each of them.
        let weight = limits.cpu_weight.filter(|_| limits.cpu_weight_starting.is_none());
        let wanted = [
            ("memory.max", limits.memory_max_mib.map(mib)),
            ("memory.low", limits.memory_low_mib.map(mib)),
            ("cpu.weight", weight.map(|weight| weight.to_string())),
            ("pids.max", limits.pids_max.map(|most| most.to_string())),
            // Half a service is no service: it is killed whole and started again. Not where strangers may be inside.
            ("memory.oom.group", (!limits.delegate).then(|| "1".to_owned())),
        ];
        wanted
            .into_iter()
            .filter_map(|(file, value)| self.write(file, &value?).err().map(|error| (file, error)))
            .collect()
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `key value` lines.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The service in whose group a process is, from its /proc/<pid>/cgroup.
pub fn service_of(proc_cgroup: &str) -> Option<&str> {
    let path = proc_cgroup.lines().find_map(|line| line.strip_prefix("0::/perigee/"))?;
    path.split('/').next().filter(|name| !name.is_empty())
}

/// Where a service's group is.
pub fn path_of(service: &str) -> PathBuf {
    Path::new(SERVICES).join(service)
}

/// Makes the group that the services' are in, and turns the controllers on. PID 1 and what it has begun (the data
/// partition's mount) are in the root: whoever starts now gets the processor when those have no use for it.
pub fn prepare(logs: &mut Logs) {
    let (Some(root), Some(services)) = (make(ROOT, logs), make(SERVICES, logs)) else { return };
    let there = root.read("cgroup.controllers").unwrap_or_default();
    // One write for all: each waits until every processor has seen it (RCU).
    set(&root, "cgroup.subtree_control", &enable(POD_CONTROLLERS, &there), logs);
    set(&services, "cgroup.subtree_control", &enable(SERVICE_CONTROLLERS, &there), logs);
    set(&services, "cpu.weight", "1", logs);
    // What is asked for below must be granted here first.
    set(&services, "memory.low", "max", logs);
    set(&services, "memory.min", OWN_MEMORY_MIN, logs);
}

/// Makes the other groups that are always there, moves PID 1 into its own, and puts services before pods.
pub fn settle(logs: &mut Logs) {
    make(SHIMS, logs);
    if let Some(services) = make(SERVICES, logs) {
        set(&services, "cpu.weight", SERVICES_CPU_WEIGHT, logs);
    }
    if let Some(own) = make(OWN, logs) {
        set(&own, "cgroup.procs", "0", logs);
        set(&own, "memory.min", OWN_MEMORY_MIN, logs);
    }
}

fn make(path: &str, logs: &mut Logs) -> Option<Group> {
    Group::make(Path::new(path)).inspect_err(|error| logs.event(format_args!("cgroup={path} error=\"{error}\""))).ok()
}

fn set(group: &Group, file: &str, value: &str, logs: &mut Logs) {
    if let Err(error) = group.write(file, value) {
        logs.event(format_args!("cgroup_file={file} value={value} error=\"{error}\""));
    }
}

/// What turns on those of `wanted` that the kernel has.
fn enable(wanted: &[&str], there: &str) -> String {
    let has = |wanted: &&&str| there.split_whitespace().any(|one| one == **wanted);
    wanted.iter().filter(|wanted| has(wanted)).map(|wanted| format!("+{wanted} ")).collect()
}

/// Tells when a group becomes empty.
pub struct Watch(OwnedFd);

impl Watch {
    /// # Errors
    /// The kernel's: out of descriptors.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self(inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?))
    }

    /// Watches the group at `path`.
    ///
    /// # Errors
    /// ENOENT when it is not there.
    pub fn add(&self, path: &Path) -> Result<(), Errno> {
        inotify::add_watch(&self.0, path.join("cgroup.events"), inotify::WatchFlags::MODIFY).map(drop)
    }

    /// Forgets what was reported: which groups it was about is read from the groups.
    pub fn drain(&self) {
        let mut bytes = [0; LONGEST];
        while matches!(rustix::io::read(&self.0, &mut bytes), Ok(1..)) {}
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_group() {
        assert_eq!(service_of("0::/perigee/etcd\n"), Some("etcd"));
        assert_eq!(service_of("0::/perigee/kubelet/helper\n"), Some("kubelet"));
        assert_eq!(service_of("1:name=x:/\n0::/perigee/etcd\n"), Some("etcd"));
    }

    #[test]
    fn a_pod_is_no_service_whatever_it_calls_its_group() {
        assert_eq!(service_of("0::/kubepods/perigee/etcd\n"), None);
        assert_eq!(service_of("0::/perigee/\n"), None);
        assert_eq!(service_of("0::/../perigee/etcd\n"), None);
        assert_eq!(service_of(""), None);
    }

    #[test]
    fn controllers_that_the_kernel_lacks_are_passed_over() {
        assert_eq!(enable(SERVICE_CONTROLLERS, "cpuset cpu io memory hugetlb pids rdma\n"), "+cpu +memory +pids ");
        assert_eq!(enable(POD_CONTROLLERS, "memory\n"), "+memory ");
        assert_eq!(enable(POD_CONTROLLERS, ""), "");
    }

    #[test]
    fn figures_are_found_by_their_whole_key() {
        assert_eq!(value("usage_usec 12\nuser_usec 5\n", "user_usec"), Some(5));
        assert_eq!(value("xpopulated 1\npopulated 0\n", "populated"), Some(0));
        assert_eq!(value("populated x\n", "populated"), None);
    }
}
