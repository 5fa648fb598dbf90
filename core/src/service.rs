//! The service graph: `step(now, event, &mut actions)`. No clock, no process, no file.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::control::ServiceState;
use crate::spec::{Probe, Signal, Spec};

/// A service's place in the graph; stable for the graph's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u16);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Code(i32),
    /// By this signal's number.
    Signal(i32),
}

/// What happened outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// PID 1 has finished its own set-up: start what is to start.
    Boot,
    /// The time that [`Graph::deadline`] named has come (or not quite: an early tick is harmless).
    Tick,
    /// The main process was started.
    Spawned(Id),
    /// The main process could not be started.
    SpawnFailed(Id),
    /// The main process ended.
    Exited(Id, Exit),
    /// The service's cgroup has no process left (after a kill, before a restart).
    Empty(Id),
    /// The service sent READY=1.
    NotifiedReady(Id),
    /// The service sent WATCHDOG=1.
    NotifiedAlive(Id),
    /// A probe that was asked for answered (`true`), failed or timed out (`false`).
    Probed(Id, bool),
    /// Someone asks for a service to run.
    Start(Id),
    /// Someone asks for a service to end.
    Stop(Id),
    /// Someone asks for a service to end and start again at once.
    Restart(Id),
    /// The node goes down: end everything, in reverse order.
    Shutdown,
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the main process in its cgroup; answer with Spawned or SpawnFailed.
    Spawn(Id),
    /// Send a signal to the main process.
    Signal(Id, Signal),
    /// Kill every process in the cgroup (cgroup.kill); answer with Exited (if the main process lived) and Empty.
    Kill(Id),
    /// Ask, without blocking, within `timeout`; answer with Probed.
    Probe(Id, Probe, Duration),
    /// The service became ready for the first time or again (for the log, the timeline and cpu.weight).
    Ready(Id),
    /// Everything has ended after a Shutdown.
    Down,
    /// For the log: why a service was ended or will be started again.
    Note(Id, Note),
}

/// Why something was done to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// It ended by itself; it starts again after this long.
    Ended(Exit, Duration),
    /// It could not be started; it is tried again after this long.
    SpawnFailed(Duration),
    /// It was not ready in time and is killed.
    NotReadyInTime,
    /// Its watchdog or its probes ran out and it is killed.
    Hung,
    /// It did not end in time when asked to, and is killed.
    NotEndedInTime,
}

/// A graph that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// `after` or `hold` names no service at all.
    #[error("{service}: `{name}` in `{key}` is no service; expected one of: {known}")]
    UnknownName {
        /// Where.
        service: String,
        /// `after` or `hold`.
        key: &'static str,
        /// What it says.
        name: String,
        /// What it could say.
        known: String,
    },
    /// Services wait for each other.
    #[error("these services wait for each other and none could start: {0}; remove one `after`")]
    Cycle(String),
}

/// The services of one node and where each is.
#[derive(Clone, Debug)]
pub struct Graph {
    _todo: (),
}
#[allow(missing_docs, unused_variables)]
impl Graph {
    /// A graph of `specs` (all that are in the image), of which those run whose roles match the node's.
    pub fn new(specs: Vec<Spec>, roles: &[String]) -> Result<Self, GraphError> {
        Ok(Self { _todo: () })
    }
    /// Takes one event at `now` (time since the kernel's start); appends what is to be done.
    pub fn step(&mut self, now: Duration, event: Event, actions: &mut Vec<Action>) {}
    /// When `step` wants a Tick, if ever.
    pub fn deadline(&self) -> Option<Duration> {
        None
    }
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (0..0).map(Id)
    }
    pub fn find(&self, name: &str) -> Option<Id> {
        None
    }
    pub fn spec(&self, id: Id) -> &Spec {
        loop {}
    }
    pub fn state(&self, id: Id) -> ServiceState {
        ServiceState::Stopped
    }
    /// When it came into its state.
    pub fn since(&self, id: Id) -> Duration {
        Duration::ZERO
    }
    pub fn restarts(&self, id: Id) -> u32 {
        0
    }
    pub fn last_exit(&self, id: Id) -> Option<Exit> {
        None
    }
}
