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
use crate::update::Release;

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
    /// A slot is about to be written: it is not to be started. PID 1 takes it from the agent alone, as the next two.
    SlotClear {
        /// Which: `slot-a` or `slot-b`, and not the one that runs.
        slot: String,
    },
    /// A slot was written and is whole.
    SlotWritten {
        /// Which.
        slot: String,
        /// With it confirmed, no older release is taken any more.
        floor: Release,
    },
    /// A slot is to be started first from now on.
    SlotPrefer {
        /// Which.
        slot: String,
    },
    /// An update begins, or goes on; the agent answers, as the next four, PID 1 refuses.
    UpdateBegin {
        /// The bundle's manifest, in hexadecimal digits.
        manifest: String,
    },
    /// A piece of the update's payload. Its bytes follow the line.
    UpdatePut {
        /// Where it stands in the payload: a multiple of 1,024.
        at: u64,
        /// Its length, at most [`crate::update::pieces::PIECE_BYTES`].
        bytes: u64,
    },
    /// How far the update is.
    Update,
    /// Start the updated slot as soon as it is whole, or at a time by the node's clock.
    UpdateActivate {
        /// Seconds since 1970-01-01T00:00:00Z; at once unless said.
        at: Option<u64>,
    },
    /// Forget the update; a slot that was written stays as it is, and is not started.
    UpdateCancel,
    /// Processes with their memory, and the node's counters; the agent answers, PID 1 refuses.
    Processes,
    /// Facts of the running node; the agent answers, PID 1 refuses.
    Inspect,
}

impl Request {
    /// Whether asking twice does no more than asking once.
    pub const fn is_question(&self) -> bool {
        matches!(
            self,
            Self::Status
                | Self::Logs { .. }
                | Self::Slots
                | Self::Scrubs
                | Self::Update
                | Self::Processes
                | Self::Inspect
        )
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
    /// To [`Request::Update`], [`Request::UpdateBegin`] and [`Request::UpdatePut`].
    Update(Update),
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
    /// Not yet: it is being mounted, checked or made new.
    Pending,
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
    /// The oldest release that an update may bring.
    pub floor: Release,
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
            floor: state.floor,
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

/// How far an update is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Where it is.
    pub phase: UpdatePhase,
    /// Which bundle: [`crate::update::manifest::id`], in hexadecimal digits.
    pub bundle: Option<String>,
    /// The image's version.
    pub version: Option<String>,
    /// The slot that it goes to.
    pub slot: Option<String>,
    /// Length of its payload.
    pub payload_bytes: u64,
    /// Of them, what has come.
    pub here_bytes: u64,
    /// What has not, from its start on: first byte, and the one behind the last. At most [`MAX_GAPS`] such gaps.
    pub missing: Vec<(u64, u64)>,
    /// While the slot is written and read again: blocks done, and all of them.
    pub blocks: Option<(u64, u64)>,
    /// When it is started by itself, seconds since 1970 by the node's clock.
    pub activate_at: Option<u64>,
    /// Why it failed.
    pub reason: Option<String>,
    /// Images that a patch can be for.
    pub bases: Vec<Base>,
    /// The oldest release that is taken.
    pub floor: Option<Release>,
}

/// Gaps in a payload that one answer tells of.
pub const MAX_GAPS: usize = 256;

/// An image that a patch can be for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The slot that has it.
    pub slot: String,
    /// Its version.
    pub version: String,
}

/// Where an update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdatePhase {
    /// There is none.
    None,
    /// Its payload is on the way.
    Receiving,
    /// All of it is here; the slot is being written, then read.
    Writing,
    /// The slot is whole, and waits to be started.
    Ready,
    /// It is being tried.
    Activated,
    /// It runs, and its vitals hold.
    Confirmed,
    /// It was refused, or did not live.
    Failed,
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
