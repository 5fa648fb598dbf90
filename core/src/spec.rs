//! Service files: what a service is, as written in `rootfs/services/<name>.toml`.
//!
//! A service's name is its file's name. Unknown keys are refused. Every mistake is an [`Error`] that names the
//! file, the line, what was expected, and an example.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// One service, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The file's name without `.toml`: lower-case letters, digits, `-`.
    pub name: String,
    /// Whether it runs until told otherwise or once.
    pub kind: Kind,
    /// Roles of nodes that run it; empty: every node.
    pub roles: Vec<String>,
    /// Program and arguments; `${NAME}` are variables of the mission.
    pub exec: Vec<String>,
    /// The whole environment (nothing is inherited), `${NAME}` expanded; PID 1 adds NOTIFY_SOCKET and WATCHDOG_USEC.
    pub env: BTreeMap<String, String>,
    /// Folders made before the start, mode 0700, owned by the service's user.
    pub directories: Vec<String>,
    /// Services that must be ready before each start of this one. Names not selected on this node are ignored.
    pub after: Vec<String>,
    /// A service to which this one leaves the processor at boot: it is held until that one is ready, or for a
    /// bounded time since boot.
    pub hold: Option<Hold>,
    /// When it counts as ready.
    pub ready: Ready,
    /// A start that is not ready after this long is a failure.
    pub ready_timeout: Duration,
    /// How a hang is found out once it is ready.
    pub health: Option<Health>,
    /// When to start again.
    pub restart: Restart,
    /// How it is ended.
    pub stop: Stop,
    /// Its cgroup's and process's limits.
    pub limits: Limits,
    /// What it may do.
    pub security: Security,
    /// What is kept of its output.
    pub log: Log,
}

/// Whether a service runs until told otherwise, or once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Restarted whenever it ends.
    Daemon,
    /// Ready when it ends with status 0; tried again with back-off until it does.
    Oneshot,
}

/// See [`Spec::hold`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The service that goes first.
    pub until: String,
    /// Longest time to wait for it, from PID 1's start.
    pub at_most: Duration,
}

/// When a service counts as ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// As soon as it has started (daemon), or ended with 0 (oneshot).
    Started,
    /// It sent `READY=1` to NOTIFY_SOCKET.
    Notify,
    /// A probe succeeds.
    Probe(Probe),
}

/// One question to a service, answered without blocking PID 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A unix stream socket at this path accepts.
    Unix(String),
    /// A gRPC server on the unix socket at this path sends its HTTP/2 SETTINGS: a stopped process does not.
    Grpc(String),
    /// `GET` on a local port answers 200: `127.0.0.1:10248/healthz`.
    Http {
        /// Port on 127.0.0.1.
        port: u16,
        /// Path with its leading slash.
        path: String,
    },
    /// A file exists.
    File(String),
}

/// How a hang is found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// `WATCHDOG=1` must arrive at least this often, once ready.
    Watchdog(Duration),
    /// A probe must succeed.
    Probe {
        /// What is asked.
        probe: Probe,
        /// How often.
        period: Duration,
        /// How long an answer may take.
        timeout: Duration,
        /// How many failures in a row count as a hang.
        failures: u32,
    },
}

/// Restart back-off: doubles from `min` to `max`, and starts over after `reset` of being ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// First delay.
    pub min: Duration,
    /// Longest delay.
    pub max: Duration,
    /// Ready for this long: the next delay is `min` again.
    pub reset: Duration,
}

/// How a service is ended: the signal to its main process, then after `timeout` its whole cgroup is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The polite request.
    pub signal: Signal,
    /// How long it is waited for.
    pub timeout: Duration,
}

/// Signals that a service file can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Term,
    /// SIGINT.
    Int,
    /// SIGKILL.
    Kill,
}

/// Limits of a service's cgroup and process.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Limits {
    /// memory.max in MiB; absent: no limit (a tidy test wants the reason in the file).
    pub memory_max_mib: Option<u32>,
    /// memory.low in MiB: protected from reclaim while others can give.
    pub memory_low_mib: Option<u32>,
    /// cpu.weight, 1 to 10,000; 100 is the kernel's default.
    pub cpu_weight: Option<u16>,
    /// cpu.weight until the service is ready for the first time.
    pub cpu_weight_starting: Option<u16>,
    /// pids.max.
    pub pids_max: Option<u32>,
    /// oom_score_adj, -1000 to 1000.
    pub oom_score_adj: i16,
    /// RLIMIT_NOFILE, both.
    pub nofile: Option<u32>,
    /// The service makes cgroups of its own below its own (none so far) or elsewhere (kubelet, containerd).
    pub delegate: bool,
}

/// What a service may do.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Security {
    /// Numeric user, which is its group, too; 0 is root.
    pub user: u32,
    /// Capabilities it keeps (`CAP_NET_ADMIN`); absent: all for root, none for others.
    pub capabilities: Option<Vec<String>>,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
}

/// What is kept of a service's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Ring in PID 1's memory, KiB.
    pub ring_kib: u32,
    /// A file on data is rotated at this size, KiB; 0: no file.
    pub file_kib: u32,
    /// How many rotated files are kept beside the current one.
    pub files: u32,
}
