//! The control protocol: what the agent asks PID 1, and what people ask the agent.
//!
//! One JSON object a line, each way, over a unix stream socket (`/run/perigee/init.sock`, `/run/perigee/agent.sock`)
//! or TLS. A line is at most [`MAX_LINE_BYTES`] long. Times are milliseconds since the kernel's start
//! (CLOCK_BOOTTIME), sizes are bytes.

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::inspect::{Inspection, Processes};
use crate::reset::Entry;
use crate::slot::{Slot, Standing, State};

/// Longest request line: a verb and a name; anything longer is a mistake or an attack.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024;
/// Longest response line: all services' status, or one log ring in JSON.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

/// PID 1 itself, where a service is named: it has a log, and drills.
pub const INIT: &str = "init";

/// What can be asked of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Everything about the node that PID 1 knows.
    Status,
    /// The newest output of one service (or of PID 1 itself: `init`).
    Logs {
        /// Whose.
        service: String,
    },
    /// End a service and start it again, without back-off.
    Restart {
        /// Which.
        service: String,
    },
    /// End a service and leave it ended.
    Stop {
        /// Which.
        service: String,
    },
    /// Start a service that was stopped.
    Start {
        /// Which.
        service: String,
    },
    /// A drill: do to a service what space does to it. PID 1 acts on it and knows nothing of it. With [`INIT`] PID 1 ends,
    /// or hangs, and does not answer.
    Fault {
        /// Which.
        service: String,
        /// What happens to it.
        fault: Fault,
    },
    /// Slots and how the last starts ended.
    Slots,
    /// Read every block of every slot now, without pauses; the agent answers, PID 1 refuses.
    Scrub,
    /// What reading the slots has found; the agent answers, PID 1 refuses.
    Scrubs,
    /// Orderly reboot.
    Reboot,
    /// Orderly reboot into a slot, once.
    RebootInto {
        /// Which: `slot-a`, `slot-b` or `golden`.
        slot: String,
    },
    /// Orderly power-off.
    PowerOff,
    /// Processes with their memory, and the node's counters; the agent answers, PID 1 refuses.
    Processes,
    /// Facts of the running node; the agent answers, PID 1 refuses.
    Inspect,
}

impl Request {
    /// Whether asking twice does no more than asking once.
    pub const fn is_question(&self) -> bool {
        matches!(self, Self::Status | Self::Logs { .. } | Self::Slots | Self::Scrubs | Self::Processes | Self::Inspect)
    }
}

/// What can happen to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Its main process gets SIGKILL.
    Kill,
    /// Its main process gets SIGSTOP: sockets accept, nobody answers.
    Stop,
    /// Its whole cgroup is frozen (cgroup.freeze; thawed by PID 1 before it is started again).
    Freeze,
}

/// PID 1's (or the agent's) answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Logs`]; invalid UTF-8 is replaced.
    Logs(String),
    /// To [`Request::Slots`].
    Slots(Slots),
    /// To [`Request::Scrubs`].
    Scrubs(Scrubs),
    /// To [`Request::Processes`].
    Processes(Processes),
    /// To [`Request::Inspect`].
    Inspect(Inspection),
    /// The request was taken; what it asks for happens now.
    Done,
    /// The request was refused, and why.
    Error(String),
}

/// What PID 1 knows of the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name in the mission.
    pub node: String,
    /// The image's version.
    pub version: String,
    /// The kernel's boot id: changes with every boot.
    pub boot_id: String,
    /// Now.
    pub now_ms: u64,
    /// When PID 1 started.
    pub pid1_started_ms: u64,
    /// The data partition.
    pub data: Data,
    /// Services in the order of their names.
    pub services: Vec<ServiceStatus>,
    /// Network interfaces that the mission names.
    pub links: Vec<Link>,
}

/// The data partition's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// How it came to be mounted.
    pub origin: DataOrigin,
    /// Size of the file system.
    pub size_bytes: u64,
    /// Free for root.
    pub free_bytes: u64,
}

/// How the data partition came to be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataOrigin {
    /// Mounted as it was.
    Clean,
    /// Mounted after e2fsck mended it.
    Repaired,
    /// Could not be mended: set aside and made new.
    New,
    /// No such partition: /data is a tmpfs, and is lost with the power.
    Volatile,
}

/// Which image runs, which starts next, and how the last starts ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// The one that runs.
    pub running: String,
    /// The one that is started first.
    pub preferred: String,
    /// The one that is started next, once.
    pub once: Option<String>,
    /// Starts so far.
    pub starts: u32,
    /// How often all slots had lost all their tries since one was confirmed.
    pub rounds: u8,
    /// All, in the order of the disk.
    pub slots: Vec<SlotStatus>,
    /// How the last starts ended, the oldest first.
    pub resets: Vec<Reset>,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// Its partition's name.
    pub name: String,
    /// `empty`, `trying` or `confirmed`.
    pub standing: String,
    /// Starts that it may still lose.
    pub tries_left: u8,
}

/// The end of one start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    /// Which start.
    pub start: u32,
    /// Of what.
    pub slot: String,
    /// Why it ended, in a word.
    pub cause: String,
    /// From the kernel's start to this end; 0 if nobody knows.
    pub uptime_s: u32,
    /// What was said last.
    pub words: String,
}

impl Slots {
    /// What `state` says, while `running` runs.
    pub fn of(state: &State, running: Slot) -> Self {
        let name = |slot: Slot| slot.name().to_owned();
        let slot = |slot: Slot| SlotStatus {
            name: name(slot),
            standing: match state.standing(slot) {
                Standing::Empty => "empty",
                Standing::Trying { .. } => "trying",
                Standing::Confirmed { .. } => "confirmed",
            }
            .to_owned(),
            tries_left: state.standing(slot).left(),
        };
        let reset = |entry: &Entry| Reset {
            start: entry.start,
            slot: name(entry.slot),
            cause: entry.cause.to_string(),
            uptime_s: entry.uptime_s,
            words: entry.words.as_str().to_owned(),
        };
        Self {
            running: name(running),
            preferred: name(state.preferred.slot()),
            once: state.once.map(name),
            starts: state.starts,
            rounds: state.rounds,
            slots: Slot::ALL.map(slot).into(),
            resets: state.ledger.entries().map(reset).collect(),
        }
    }
}

/// What reading the slots' blocks has found since the agent's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubs {
    /// Rounds over all slots that came to their end.
    pub rounds: u32,
    /// The slot that is being read.
    pub reading: Option<String>,
    /// All that could be read, in the order of the disk.
    pub slots: Vec<SlotScrub>,
}

/// One slot's blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotScrub {
    /// Its partition's name.
    pub name: String,
    /// Whether it has an image, or what was one, that its blocks can be checked against.
    pub has_image: bool,
    /// Blocks that were read.
    pub read: u64,
    /// Of them: wrong, and written anew from what the slot itself has.
    pub corrected: u64,
    /// Wrong, and written anew from the other slot.
    pub copied: u64,
    /// Wrong, and nothing has what they should be.
    pub lost: u64,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub state: ServiceState,
    /// Its main process, while there is one.
    pub pid: Option<i32>,
    /// Starts after the first.
    pub restarts: u32,
    /// When it came into its state.
    pub since_ms: u64,
    /// Its first exec of this boot.
    pub first_exec_ms: Option<u64>,
    /// When it was ready for the first time in this boot.
    pub first_ready_ms: Option<u64>,
    /// How it ended the last time.
    pub last_exit: Option<String>,
    /// memory.current of its cgroup.
    pub memory_bytes: u64,
    /// memory.peak of its cgroup.
    pub memory_peak_bytes: u64,
    /// CPU time of its cgroup, microseconds.
    pub cpu_usec: u64,
}

/// Where a service is; `core::service` has the table of moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// Told not to run.
    Stopped,
    /// Waits for the services it comes after.
    Waiting,
    /// Started, not ready.
    Starting,
    /// Ready (a daemon), or done with status 0 (a oneshot).
    Ready,
    /// Asked to end.
    Stopping,
    /// Ended by itself; starts again when its back-off is over.
    BackOff,
}

/// A network interface that the mission names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The kernel's name for it.
    pub name: String,
    /// Whether there is a carrier.
    pub carrier: bool,
    /// Whether its addresses and routes are set.
    pub configured: bool,
}
