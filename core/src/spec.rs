//! Service files: what a service is, as written in `rootfs/services/<name>.toml`.
//!
//! A service's name is its file's name. Unknown keys are refused. Every mistake is an [`Error`] that names the
//! file, the line, what was expected, and an example. All keys, with what stands for them when they are absent:
//!
//! ```toml
//! description = "etcd: the cluster's memory"      # must be there: why the service exists, in a line
//! kind = "daemon"                                 # or "oneshot"; daemon unless said
//! roles = ["control-plane"]                       # absent: every node
//! exec = ["/usr/bin/etcd", "--name=${NODE_NAME}"] # must be there; variables of the mission; `$${` is a plain `${`
//! env = { GOGC = "50" }                           # absent: empty
//! directories = ["/var/lib/etcd"]                 # absent: none; below /data or /var: it waits for the data partition
//! after = ["containerd"]                          # absent: none
//! hold = { until = "kube-apiserver", at_most_s = 180 }
//!
//! [ready]             # a daemon's has exactly one of the first five; a oneshot's has none of them
//! notify = true       # it sends READY=1
//! unix = "/run/x.sock"
//! grpc = "/run/x.sock"
//! http = "127.0.0.1:10248/healthz"
//! file = "/run/x"
//! timeout_s = 120     # 120 unless said
//!
//! [health]            # absent: its end is noticed, a hang is not
//! watchdog_s = 30     # it sends WATCHDOG=1; or one of unix, grpc, http, file, as above, with:
//! period_s = 15       # 15 unless said
//! timeout_s = 10      # 10 unless said
//! failures = 3        # 3 unless said
//!
//! [restart]           # 500, 60 and 120 unless said
//! min_ms = 500
//! max_s = 60
//! reset_s = 120
//!
//! [stop]
//! signal = "TERM"     # or INT, KILL; TERM unless said
//! timeout_s = 10      # 10 unless said
//!
//! [limits]            # absent: none
//! memory_max_mib = 96
//! memory_low_mib = 32
//! cpu_weight = 100
//! cpu_weight_starting = 1000    # until it is ready; cpu_weight, or 100, unless said
//! pids_max = 200
//! oom_score_adj = -500
//! nofile = 65536
//! delegate = false
//!
//! [security]
//! user = 0            # 0 unless said
//! capabilities = ["CAP_NET_ADMIN"]
//! no_new_privs = true # false unless said
//!
//! [log]               # 16, 256 and 2 unless said
//! ring_kib = 16
//! file_kib = 256
//! files = 2
//! ```

mod capability;
mod parse;
mod sections;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

pub use self::capability::CAPABILITIES;
pub use self::parse::parse;
pub use crate::document::Error;

/// One service, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The file's name without `.toml`: lower-case letters, digits, `-`.
    pub name: String,
    /// Why it exists, in a line.
    pub description: String,
    /// Whether it runs until told otherwise or once.
    pub kind: Kind,
    /// Roles of nodes that run it; empty: every node.
    pub roles: Vec<String>,
    /// Program and arguments; `${NAME}` are variables of the mission.
    pub exec: Vec<String>,
    /// The whole environment (nothing is inherited), `${NAME}` expanded; PID 1 adds NOTIFY_SOCKET and WATCHDOG_USEC.
    pub env: BTreeMap<String, String>,
    /// Folders made before the start, mode 0700, owned by the service's user. See [`Spec::needs_data`].
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

/// Where what lies on the data partition is seen.
const ON_DATA: [&str; 2] = ["/data/", "/var/"];

impl Spec {
    /// Whether one of its folders lies on the data partition, so that it cannot start before that is mounted.
    pub fn needs_data(&self) -> bool {
        self.directories.iter().any(|folder| ON_DATA.iter().any(|data| folder.starts_with(data)))
    }
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
    /// cpu.weight from each start until the service is ready: the others wait for it.
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
