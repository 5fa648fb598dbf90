//! One service's life: its state, what events do to it, and what its desired state does to it.
//!
//! The table of current and desired states is in [`super`].

use alloc::vec::Vec;
use core::time::Duration;

use super::{Action, Event, Exit, Id, Note};
use crate::control::ServiceState;
use crate::spec::{Health, Kind, Probe, Ready, Spec};

/// How often a service that becomes ready by a probe is asked: short against any start, and a few system calls each.
const STARTING_PERIOD: Duration = Duration::from_millis(250);
/// How long such an answer may take: a service that starts is slow.
const STARTING_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer that is this late after its own timeout was lost on the way; the next question is asked.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// How long killed processes may take to be gone. A kill is over in milliseconds, unless a process hangs in the kernel.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// What someone wants of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Desired {
    Running,
    /// Running, but not by this process.
    Again,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Spawning,
    Starting { deadline: Duration, probing: Option<Probing> },
    Ready { since: Duration, watch: Watch },
    Done,
    Stopping { deadline: Duration },
    Killing { deadline: Duration, tries: u32, awaited: Awaited, back_off: Option<Duration> },
    BackOff { until: Duration },
}

/// How a hang of a ready service is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    Nothing,
    Watchdog { deadline: Duration },
    Probing(Probing),
}

/// When the next question is due, and how many failed in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probing {
    at: Duration,
    failures: u32,
}

/// What a killed service has not yet shown of being gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Both,
    Exited,
    Empty,
}

/// A question without its answer. It can outlive the process that it was for, so it is no part of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    run: u32,
    lost_at: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Life {
    id: Id,
    spec: Spec,
    desired: Desired,
    state: State,
    /// The next back-off.
    delay: Duration,
    /// How often it was started.
    runs: u32,
    was_ready: bool,
    last_exit: Option<Exit>,
    asked: Option<Asked>,
}

impl Life {
    pub fn new(id: Id, spec: Spec) -> Self {
        Self {
            id,
            desired: Desired::Running,
            state: State::Idle,
            delay: spec.restart.min,
            runs: 0,
            was_ready: false,
            last_exit: None,
            asked: None,
            spec,
        }
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    pub fn restarts(&self) -> u32 {
        self.runs.saturating_sub(1)
    }

    pub fn last_exit(&self) -> Option<Exit> {
        self.last_exit
    }

    /// Whether it was ever ready in this boot.
    pub fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// Whether those that come after it may start.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. } | State::Done)
    }

    /// Whether there is nothing of it.
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Its state for people.
    pub fn shown(&self) -> ServiceState {
        match (self.state, self.desired) {
            (State::Idle, Desired::Stopped) => ServiceState::Stopped,
            (State::Idle, Desired::Running | Desired::Again) => ServiceState::Waiting,
            (State::Spawning | State::Starting { .. }, _) => ServiceState::Starting,
            (State::Ready { .. } | State::Done, _) => ServiceState::Ready,
            (State::Stopping { .. } | State::Killing { .. }, _) => ServiceState::Stopping,
            (State::BackOff { .. }, _) => ServiceState::BackOff,
        }
    }

    /// When a Tick is due.
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Idle | State::Spawning | State::Done => None,
            State::Starting { deadline, probing: None } => Some(deadline),
            State::Starting { deadline, probing: Some(probing) } => Some(deadline.min(self.probe_due(probing))),
            State::Ready { watch: Watch::Nothing, .. } => None,
            State::Ready { watch: Watch::Watchdog { deadline }, .. } => Some(deadline),
            State::Ready { watch: Watch::Probing(probing), .. } => Some(self.probe_due(probing)),
            State::Stopping { deadline } | State::Killing { deadline, .. } => Some(deadline),
            State::BackOff { until } => Some(until),
        }
    }

    /// Someone wants it to run.
    pub fn start(&mut self) {
        if self.desired == Desired::Stopped {
            self.desired = Desired::Running;
        }
    }

    /// Someone wants it to end.
    pub fn stop(&mut self) {
        self.desired = Desired::Stopped;
        self.delay = self.spec.restart.min;
    }

    /// Someone wants it to end and start again.
    pub fn restart(&mut self) {
        self.desired = Desired::Again;
        self.delay = self.spec.restart.min;
    }

    /// One step towards an end, if one is desired; `allowed`: nothing that comes after it keeps it.
    pub fn end(&mut self, now: Duration, allowed: bool, actions: &mut Vec<Action>) {
        if self.desired == Desired::Running {
            return;
        }
        self.state = match self.state {
            State::Starting { .. } | State::Ready { .. } if allowed => {
                actions.push(Action::Signal(self.id, self.spec.stop.signal));
                State::Stopping { deadline: now.saturating_add(self.spec.stop.timeout) }
            }
            State::Done if allowed => self.kill(now, Awaited::Empty, None, actions),
            State::BackOff { .. } => State::Idle,
            state => state,
        };
        if self.desired == Desired::Again && self.is_idle() {
            self.desired = Desired::Running;
        }
    }

    /// Starts it, if that is desired and there is nothing of it.
    pub fn spawn(&mut self, actions: &mut Vec<Action>) {
        if self.desired == Desired::Running && self.is_idle() {
            self.runs = self.runs.saturating_add(1);
            actions.push(Action::Spawn(self.id));
            self.state = State::Spawning;
        }
    }

    /// Something happened to it.
    pub fn event(&mut self, now: Duration, event: &Event, actions: &mut Vec<Action>) {
        self.state = match (self.state, event) {
            (State::Spawning, Event::Spawned(_)) => self.spawned(now, actions),
            (State::Spawning, Event::SpawnFailed(_)) => {
                let delay = self.next_delay(now);
                self.note(Note::SpawnFailed(delay), actions);
                State::BackOff { until: now.saturating_add(delay) }
            }
            (State::Starting { .. }, Event::NotifiedReady(_)) if self.spec.ready == Ready::Notify => {
                self.ready(now, actions)
            }
            (State::Ready { since, watch: Watch::Watchdog { .. } }, Event::NotifiedAlive(_)) => {
                State::Ready { since, watch: self.watch(now) }
            }
            (state, Event::Probed(_, good)) => {
                let run = self.asked.take().map(|asked| asked.run);
                if run == Some(self.runs) { self.answered(now, *good, actions) } else { state }
            }
            (_, Event::Exited(_, exit)) => self.exited(now, *exit, actions),
            (State::Killing { awaited: Awaited::Empty, back_off, .. }, Event::Empty(_)) => gone(now, back_off),
            (State::Killing { awaited: Awaited::Both, deadline, tries, back_off }, Event::Empty(_)) => {
                State::Killing { awaited: Awaited::Exited, deadline, tries, back_off }
            }
            (state, _) => state,
        };
    }

    /// Time has passed; `giving_up`: processes that do not die are left behind.
    pub fn tick(&mut self, now: Duration, giving_up: bool, actions: &mut Vec<Action>) {
        if let Some(lost) = self.asked.take_if(|asked| asked.lost_at <= now)
            && lost.run == self.runs
        {
            self.state = self.answered(now, false, actions);
        }
        self.state = match self.state {
            State::Starting { deadline, .. } if deadline <= now => {
                self.note(Note::NotReadyInTime, actions);
                self.fail(now, Awaited::Both, actions)
            }
            State::Ready { watch: Watch::Watchdog { deadline }, .. } if deadline <= now => self.hung(now, actions),
            State::Stopping { deadline } if deadline <= now => {
                self.note(Note::NotEndedInTime, actions);
                self.kill(now, Awaited::Both, None, actions)
            }
            State::Killing { deadline, tries, awaited, back_off } if deadline <= now => {
                self.not_killed(now, giving_up, (tries, awaited, back_off), actions)
            }
            State::BackOff { until } if until <= now => State::Idle,
            state => state,
        };
        self.probe(now, actions);
    }

    fn note(&self, note: Note, actions: &mut Vec<Action>) {
        actions.push(Action::Note(self.id, note));
    }

    fn spawned(&mut self, now: Duration, actions: &mut Vec<Action>) -> State {
        let probing = match (&self.spec.ready, self.spec.kind) {
            (Ready::Started, Kind::Daemon) => return self.ready(now, actions),
            (Ready::Probe(_), _) => Some(Probing { at: now.saturating_add(STARTING_PERIOD), failures: 0 }),
            (Ready::Started, Kind::Oneshot) | (Ready::Notify, _) => None,
        };
        State::Starting { deadline: now.saturating_add(self.spec.ready_timeout), probing }
    }

    fn ready(&mut self, now: Duration, actions: &mut Vec<Action>) -> State {
        self.was_ready = true;
        actions.push(Action::Ready(self.id));
        State::Ready { since: now, watch: self.watch(now) }
    }

    /// The watch over a service that has just shown that it is alive.
    fn watch(&self, now: Duration) -> Watch {
        match &self.spec.health {
            None => Watch::Nothing,
            Some(Health::Watchdog(period)) => Watch::Watchdog { deadline: now.saturating_add(*period) },
            Some(Health::Probe { period, .. }) => {
                Watch::Probing(Probing { at: now.saturating_add(*period), failures: 0 })
            }
        }
    }

    fn exited(&mut self, now: Duration, exit: Exit, actions: &mut Vec<Action>) -> State {
        let state = match self.state {
            State::Starting { .. } if self.spec.kind == Kind::Oneshot && exit == Exit::Code(0) => {
                self.was_ready = true;
                actions.push(Action::Ready(self.id));
                State::Done
            }
            State::Starting { .. } | State::Ready { .. } => {
                let state = self.fail(now, Awaited::Empty, actions);
                if let (State::Killing { back_off: Some(delay), .. }, Desired::Running) = (state, self.desired) {
                    self.note(Note::Ended(exit, delay), actions);
                }
                state
            }
            State::Stopping { .. } => self.kill(now, Awaited::Empty, None, actions),
            State::Killing { awaited: Awaited::Both, deadline, tries, back_off } => {
                State::Killing { awaited: Awaited::Empty, deadline, tries, back_off }
            }
            State::Killing { awaited: Awaited::Exited, back_off, .. } => gone(now, back_off),
            stale @ (State::Idle
            | State::Spawning
            | State::Done
            | State::Killing { awaited: Awaited::Empty, .. }
            | State::BackOff { .. }) => return stale,
        };
        self.last_exit = Some(exit);
        state
    }

    fn hung(&mut self, now: Duration, actions: &mut Vec<Action>) -> State {
        self.note(Note::Hung, actions);
        self.fail(now, Awaited::Both, actions)
    }

    /// Kills what is left of it, and lets it start again after its back-off.
    fn fail(&mut self, now: Duration, awaited: Awaited, actions: &mut Vec<Action>) -> State {
        let delay = self.next_delay(now);
        self.kill(now, awaited, Some(delay), actions)
    }

    fn kill(&self, now: Duration, awaited: Awaited, back_off: Option<Duration>, actions: &mut Vec<Action>) -> State {
        actions.push(Action::Kill(self.id));
        State::Killing { deadline: now.saturating_add(KILL_PATIENCE), tries: 0, awaited, back_off }
    }

    fn not_killed(
        &self,
        now: Duration,
        giving_up: bool,
        (tries, awaited, back_off): (u32, Awaited, Option<Duration>),
        actions: &mut Vec<Action>,
    ) -> State {
        if awaited == Awaited::Exited {
            // The cgroup is empty, so the process is gone, whatever became of the word of it.
            return gone(now, back_off);
        }
        // Said once, and once more when it is left behind.
        if tries == 0 || giving_up {
            self.note(Note::NotKilledInTime, actions);
        }
        if giving_up {
            return State::Idle;
        }
        actions.push(Action::Kill(self.id));
        State::Killing {
            deadline: now.saturating_add(KILL_PATIENCE),
            tries: tries.saturating_add(1),
            awaited,
            back_off,
        }
    }

    /// The back-off of a failure now; the next one is twice as long.
    fn next_delay(&mut self, now: Duration) -> Duration {
        let restart = self.spec.restart;
        if let State::Ready { since, .. } = self.state
            && now.saturating_sub(since) >= restart.reset
        {
            self.delay = restart.min;
        }
        let delay = self.delay;
        self.delay = delay.saturating_mul(2).min(restart.max);
        delay
    }

    /// When something is due with a question: its answer, or the next one.
    fn probe_due(&self, probing: Probing) -> Duration {
        self.asked.map_or(probing.at, |asked| asked.lost_at)
    }

    /// Asks, if a question is due and none is without its answer.
    fn probe(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let (probing, probe, timeout): (Probing, &Probe, Duration) = match (self.state, &self.spec) {
            // An answer after the deadline would only keep the next start from asking.
            (State::Starting { probing: Some(probing), deadline }, Spec { ready: Ready::Probe(probe), .. }) => {
                (probing, probe, STARTING_TIMEOUT.min(deadline.saturating_sub(now)))
            }
            (
                State::Ready { watch: Watch::Probing(probing), .. },
                Spec { health: Some(Health::Probe { probe, timeout, .. }), .. },
            ) => (probing, probe, *timeout),
            _ => return,
        };
        if self.asked.is_none() && probing.at <= now {
            actions.push(Action::Probe(self.id, probe.clone(), timeout));
            let lost_at = now.saturating_add(timeout).saturating_add(ANSWER_GRACE);
            self.asked = Some(Asked { run: self.runs, lost_at });
        }
    }

    /// The answer to a question about the process that is there now.
    fn answered(&mut self, now: Duration, good: bool, actions: &mut Vec<Action>) -> State {
        match (self.state, &self.spec.health) {
            (State::Starting { probing: Some(_), .. }, _) if good => self.ready(now, actions),
            (State::Starting { probing: Some(probing), deadline }, _) => {
                let probing = Probing { at: now.saturating_add(STARTING_PERIOD), ..probing };
                State::Starting { probing: Some(probing), deadline }
            }
            (State::Ready { since, watch: Watch::Probing(_) }, _) if good => {
                State::Ready { since, watch: self.watch(now) }
            }
            (
                State::Ready { since, watch: Watch::Probing(probing) },
                Some(Health::Probe { period, failures: limit, .. }),
            ) => {
                let failures = probing.failures.saturating_add(1);
                if failures >= *limit {
                    return self.hung(now, actions);
                }
                let at = now.saturating_add(*period);
                State::Ready { since, watch: Watch::Probing(Probing { at, failures }) }
            }
            (state, _) => state,
        }
    }
}

/// Nothing is left of a service that was killed.
fn gone(now: Duration, back_off: Option<Duration>) -> State {
    match back_off {
        Some(delay) => State::BackOff { until: now.saturating_add(delay) },
        None => State::Idle,
    }
}
