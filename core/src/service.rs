//! The service graph: `step(now, event, &mut actions)`. No clock, no process, no file.
//!
//! Each service has a current state and a desired one. Its state is changed by events and, after each event, by what is
//! desired:
//!
//! | state    | what there is                | desired Running                  | desired Stopped, or Again¹            |
//! |----------|------------------------------|----------------------------------|---------------------------------------|
//! | Idle     | nothing                      | `after` ready, no hold, data there if it needs it: Spawn → Spawning | rests (Again: is Running now) |
//! | Spawning | a Spawn without its answer   | waits for the answer             | waits for the answer                  |
//! | Starting | a process, not ready         | waits; at its deadline: Kill → Killing | Signal → Stopping ²             |
//! | Ready    | a process, ready             | waits; when it hangs: Kill → Killing   | Signal → Stopping ²             |
//! | Done     | a oneshot that ended with 0  | rests                            | Kill → Killing ²                      |
//! | Stopping | a process asked to end       | waits; at its deadline: Kill → Killing | as on the left                  |
//! | Killing  | a cgroup that was killed     | waits until all of it is gone; then Idle, or BackOff after a failure | as on the left |
//! | BackOff  | nothing                      | waits until its time is over → Idle    | → Idle                          |
//!
//! ¹ Again is Running, but not by this process: a restart. It turns into Running in the state Idle.
//! ² During a shutdown only when all services that come after it are Idle.
//!
//! A process that ends by itself in Starting or Ready is a failure (but a oneshot with status 0 is Done): what is left
//! in its cgroup is killed, and it starts again after its back-off. `after` is an order, not a bond: the end of a
//! service leaves those that come after it alone.
//!
//! What the edge has to keep: a Spawn is answered before anything else is told of its process; a Kill is answered
//! with Empty when the cgroup has no process left, even if it had none before, and Empty is never told while there is
//! one; a Tick comes after all other events that have already happened, so that no watchdog bites because PID 1 itself
//! was late. Events that are late, that come twice, or that nobody asked for are ignored or cost at most a restart.

mod life;
mod order;

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use self::life::Life;
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
    /// PID 1 has finished its own set-up: start what is to start, but what needs data.
    Boot,
    /// The data partition, or what stands for it, is mounted: start the rest.
    DataMounted,
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
    /// Not all of its processes were gone in time after a kill. They are killed again; during a shutdown they are left
    /// behind.
    NotKilledInTime,
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
    #[error("these services wait for each other and none could start: {0}; remove one `after` or `hold`")]
    Cycle(String),
    /// Two services have one name.
    #[error("{0}: two services have this name; rename one")]
    Twice(String),
    /// More services than a node can hold.
    #[error("{0} services; expected at most {MAX_SERVICES}")]
    TooMany(usize),
}

/// Most services in an image: ten times what a node runs, and few enough that each step can look at all of them.
pub const MAX_SERVICES: usize = 128;

/// The services of one node and where each is.
#[derive(Clone, Debug)]
pub struct Graph {
    /// In the order of their names; an [`Id`] is a place in it.
    members: Vec<Member>,
    /// Every service before those that come after it.
    order: Vec<Id>,
    phase: Phase,
    data_mounted: bool,
}

#[derive(Clone, Debug)]
struct Member {
    life: Life,
    /// Those of `spec.after` that run on this node.
    after: Vec<Id>,
    /// Those that come after this one.
    before: Vec<Id>,
    /// What is left of `spec.hold`: it counts for the first start only.
    hold: Option<Held>,
    /// What [`Graph::state`] says, and since when.
    shown: ServiceState,
    since: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    until: Id,
    /// Since Boot.
    at_most: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing starts before PID 1 says Boot.
    BeforeBoot,
    Up {
        boot: Duration,
    },
    /// Everything ends; nothing starts any more.
    GoingDown,
    /// Everything has ended, and Down was said.
    Down,
}

impl Graph {
    /// A graph of `specs` (all that are in the image), of which those run whose roles match the node's.
    ///
    /// # Errors
    /// What only all service files together can have wrong: names that are none, and services that wait for each other.
    /// Services that do not run on this node are checked, too.
    pub fn new(mut specs: Vec<Spec>, roles: &[String]) -> Result<Self, GraphError> {
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        order::check(&specs)?;
        specs.retain(|spec| spec.roles.is_empty() || spec.roles.iter().any(|role| roles.contains(role)));
        let order = order::sorted(&specs, order::after)?;
        let mut members: Vec<_> = specs
            .iter()
            .enumerate()
            .map(|(place, spec)| Member {
                after: order::after(spec).filter_map(|name| order::find(&specs, name)).collect(),
                before: Vec::new(),
                hold: spec
                    .hold
                    .as_ref()
                    .and_then(|hold| Some(Held { until: order::find(&specs, &hold.until)?, at_most: hold.at_most })),
                life: Life::new(order::id(place), spec.clone()),
                shown: ServiceState::Waiting,
                since: Duration::ZERO,
            })
            .collect();
        for &id in &order {
            let after = members.get(id.place()).map_or_else(Vec::new, |member| member.after.clone());
            for other in after {
                if let Some(other) = members.get_mut(other.place()) {
                    other.before.push(id);
                }
            }
        }
        Ok(Self { members, order, phase: Phase::BeforeBoot, data_mounted: false })
    }

    /// Takes one event at `now` (time since the kernel's start); appends what is to be done.
    pub fn step(&mut self, now: Duration, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Boot => {
                if self.phase == Phase::BeforeBoot {
                    self.phase = Phase::Up { boot: now };
                }
            }
            Event::DataMounted => self.data_mounted = true,
            Event::Shutdown => {
                if self.phase != Phase::Down {
                    self.phase = Phase::GoingDown;
                    self.members.iter_mut().for_each(|member| member.life.stop());
                }
            }
            Event::Tick => {
                let giving_up = self.phase == Phase::GoingDown;
                self.members.iter_mut().for_each(|member| member.life.tick(now, giving_up, actions));
            }
            Event::Start(id) => self.asked(id, Life::start),
            Event::Stop(id) => self.asked(id, Life::stop),
            Event::Restart(id) => self.asked(id, Life::restart),
            Event::Spawned(id)
            | Event::SpawnFailed(id)
            | Event::Exited(id, _)
            | Event::Empty(id)
            | Event::NotifiedReady(id)
            | Event::NotifiedAlive(id)
            | Event::Probed(id, _) => {
                if let Some(member) = self.members.get_mut(id.place()) {
                    member.life.event(now, &event, actions);
                }
            }
        }
        self.end_what_is_to_end(now, actions);
        self.start_what_can_start(now, actions);
        for member in &mut self.members {
            let state = member.life.shown();
            if member.shown != state {
                (member.shown, member.since) = (state, now);
            }
        }
    }

    /// When `step` wants a Tick, if ever. After a Tick it is later than that Tick.
    pub fn deadline(&self) -> Option<Duration> {
        let lives = self.members.iter().filter_map(|member| member.life.deadline());
        let holds = self.members.iter().filter_map(|member| self.held_until(member));
        lives.chain(holds).min()
    }

    /// All services of this node, in the order of their names.
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (0..self.members.len()).map(order::id)
    }

    /// The service of that name, if it runs on this node.
    pub fn find(&self, name: &str) -> Option<Id> {
        self.ids().find(|&id| self.spec(id).name == name)
    }

    /// What the service is.
    ///
    /// # Panics
    /// With an id of another graph, as all that take an id but [`Graph::step`].
    pub fn spec(&self, id: Id) -> &Spec {
        self.member(id).life.spec()
    }

    /// Where it is.
    pub fn state(&self, id: Id) -> ServiceState {
        self.member(id).shown
    }

    /// When it came into its state.
    pub fn since(&self, id: Id) -> Duration {
        self.member(id).since
    }

    /// Starts after the first.
    pub fn restarts(&self, id: Id) -> u32 {
        self.member(id).life.restarts()
    }

    /// How it ended the last time.
    pub fn last_exit(&self, id: Id) -> Option<Exit> {
        self.member(id).life.last_exit()
    }

    /// A service and all that come after it, directly or not, in the order in which they start.
    pub fn group(&self, id: Id) -> Vec<Id> {
        let mut group = Vec::from([id]);
        for &later in &self.order {
            if !group.contains(&later) && self.member(later).after.iter().any(|other| group.contains(other)) {
                group.push(later);
            }
        }
        group
    }

    fn member(&self, id: Id) -> &Member {
        &self.members[id.place()]
    }

    /// Someone's wish; during a shutdown there are none.
    fn asked(&mut self, id: Id, wish: fn(&mut Life)) {
        if let (Phase::BeforeBoot | Phase::Up { .. }, Some(member)) = (self.phase, self.members.get_mut(id.place())) {
            wish(&mut member.life);
        }
    }

    fn end_what_is_to_end(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let ordered = self.phase == Phase::GoingDown;
        for place in self.order.iter().rev().map(|id| id.place()) {
            let Some(member) = self.members.get(place) else { continue };
            let allowed = !ordered || member.before.iter().all(|&id| self.member(id).life.is_idle());
            if let Some(member) = self.members.get_mut(place) {
                member.life.end(now, allowed, actions);
            }
        }
        if self.phase == Phase::GoingDown && self.members.iter().all(|member| member.life.is_idle()) {
            self.phase = Phase::Down;
            actions.push(Action::Down);
        }
    }

    fn start_what_can_start(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Up { .. }) {
            return;
        }
        for place in self.order.iter().map(|id| id.place()) {
            let Some(member) = self.members.get(place) else { continue };
            let held = self.held_until(member).is_some_and(|until| now < until);
            let ready = member.after.iter().all(|&id| self.member(id).life.is_ready())
                && (self.data_mounted || !member.life.spec().needs_data());
            if let Some(member) = self.members.get_mut(place)
                && !held
            {
                member.hold = None;
                if ready {
                    member.life.spawn(actions);
                }
            }
        }
    }

    /// How long the service is held back, if it still is.
    fn held_until(&self, member: &Member) -> Option<Duration> {
        let hold = member.hold.filter(|hold| !self.member(hold.until).life.was_ready())?;
        match self.phase {
            Phase::Up { boot } => Some(boot.saturating_add(hold.at_most)),
            Phase::BeforeBoot | Phase::GoingDown | Phase::Down => None,
        }
    }
}

impl Id {
    fn place(self) -> usize {
        usize::from(self.0)
    }
}
