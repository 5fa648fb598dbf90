//! The world outside: processes that start late, end, hang, ignore signals and leave orphans, and an edge that tells
//! of them what the real one tells.

use std::collections::BTreeMap;
use std::time::Duration;

use perigee_core::service::{Action, Event, Exit, Id};
use perigee_core::spec::{Health, Kind, Ready, Signal, Spec};

use crate::random::Random;
use crate::scenario::Faults;

/// Longest time after which an event is told again.
pub const LATEST_DUPLICATE: Duration = Duration::from_secs(3);
/// Longest time that the edge takes from one thing to the next when nothing is wrong.
pub const EDGE_DELAY: Duration = Duration::from_millis(5);
/// Longest time that a process that serves takes to answer.
const ANSWER_DELAY: Duration = Duration::from_millis(50);

/// One service's cgroup.
#[derive(Clone, Debug, Default)]
pub struct Cgroup {
    /// Counts processes, so that what was planned for one never happens to the next.
    run: u64,
    pub main: Option<Main>,
    /// The run that left processes behind.
    orphans_of: Option<u64>,
    /// How the last main process ended.
    pub exit: Option<Exit>,
    stuck_until: Duration,
}

#[derive(Clone, Debug, Default)]
pub struct Main {
    /// A probe would succeed, and READY=1 was sent.
    pub serving: bool,
    hung: bool,
    deaf: bool,
}

impl Main {
    /// Whether it answers no probe and says nothing.
    pub fn is_mute(&self) -> bool {
        self.hung || !self.serving
    }
}

impl Cgroup {
    pub fn is_empty(&self) -> bool {
        self.main.is_none() && self.orphans_of.is_none()
    }
}

#[derive(Clone, Debug)]
enum Happening {
    Tell(Event),
    /// The same once more.
    TellAgain(Event),
    /// The answer to a Spawn.
    Spawn(Id),
    Serving(Id, u64),
    Alive(Id, u64),
    Hang(Id, u64),
    /// It ends by itself.
    Crash(Id, u64, Exit),
    Exit(Id, u64, Exit),
    Killed(Id, u64),
    /// What a probe found: what it is when the answer comes, or what it was when it was asked.
    Answer(Id, u64, Option<bool>),
}

pub struct World {
    pub faults: Faults,
    pub cgroups: Vec<Cgroup>,
    specs: Vec<Spec>,
    queue: BTreeMap<(Duration, u64), Happening>,
    planned: u64,
}

impl World {
    pub fn new(specs: Vec<Spec>, faults: Faults) -> Self {
        Self { faults, cgroups: vec![Cgroup::default(); specs.len()], specs, queue: BTreeMap::new(), planned: 0 }
    }

    /// When something happens next.
    pub fn next(&self) -> Option<Duration> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets it happen; what the edge tells of it, if anything.
    pub fn happen(&mut self, random: &mut Random) -> Option<Event> {
        let ((now, _), happening) = self.queue.pop_first()?;
        match happening {
            Happening::Tell(event) => return self.tell(now, event, random),
            Happening::TellAgain(event) => return self.is_true(&event).then_some(event),
            Happening::Spawn(id) => return Some(self.spawn(now, id, random)),
            Happening::Serving(id, run) => {
                let main = self.main(id, run)?;
                if main.hung {
                    return None;
                }
                main.serving = true;
                if self.spec(id).ready == Ready::Notify {
                    self.plan(now, Happening::Tell(Event::NotifiedReady(id)));
                }
                self.alive(now, id, run);
            }
            Happening::Alive(id, run) => {
                if self.main(id, run).is_some_and(|main| !main.hung) {
                    self.alive(now, id, run);
                }
            }
            Happening::Hang(id, run) if self.faults.hangs > 0 => self.main(id, run)?.hung = true,
            Happening::Crash(id, run, exit) if self.faults.exits > 0 => self.plan(now, Happening::Exit(id, run, exit)),
            // The time of faults is over.
            Happening::Hang(..) | Happening::Crash(..) => {}
            Happening::Exit(id, run, exit) => {
                self.main(id, run)?;
                let cgroup = &mut self.cgroups[usize::from(id.0)];
                (cgroup.main, cgroup.exit) = (None, Some(exit));
                if random.percent(self.faults.orphans) {
                    cgroup.orphans_of = Some(run);
                } else if std::mem::take(&mut cgroup.stuck_until) > now || random.percent(50) {
                    // The edge may see the cgroup empty before it sees the process end, or after; unasked, it need not
                    // look.
                    self.plan(now + random.up_to(EDGE_DELAY), Happening::Tell(Event::Empty(id)));
                }
                self.plan(now + random.up_to(EDGE_DELAY), Happening::Tell(Event::Exited(id, exit)));
            }
            Happening::Killed(id, run) => {
                let cgroup = &mut self.cgroups[usize::from(id.0)];
                if cgroup.run == run && cgroup.main.take().is_some() {
                    cgroup.exit = Some(Exit::Signal(9));
                    self.plan(now + random.up_to(EDGE_DELAY), Happening::Tell(Event::Exited(id, Exit::Signal(9))));
                }
                let cgroup = &mut self.cgroups[usize::from(id.0)];
                cgroup.orphans_of = cgroup.orphans_of.filter(|&orphans| orphans > run);
                cgroup.stuck_until = Duration::ZERO;
                self.plan(now + random.up_to(EDGE_DELAY), Happening::Tell(Event::Empty(id)));
            }
            Happening::Answer(id, run, found) => {
                let good = found.unwrap_or_else(|| self.main(id, run).is_some_and(|main| !main.is_mute()));
                return self.tell(now, Event::Probed(id, good), random);
            }
        }
        None
    }

    /// Does what the graph wants done.
    pub fn act(&mut self, now: Duration, action: &Action, random: &mut Random) {
        match action {
            // Almost always at once: the edge starts processes itself.
            Action::Spawn(id) => {
                let delay = if random.percent(90) { Duration::ZERO } else { random.up_to(EDGE_DELAY) };
                self.plan(now + delay, Happening::Spawn(*id));
            }
            Action::Signal(id, signal) => {
                let cgroup = &self.cgroups[usize::from(id.0)];
                let (run, patience) = (cgroup.run, self.spec(*id).stop.timeout * 4 / 5);
                match &cgroup.main {
                    Some(_) if *signal == Signal::Kill => self.plan(now, Happening::Exit(*id, run, Exit::Signal(9))),
                    Some(main) if !main.hung && !main.deaf => {
                        let exit = *random.pick(&[Exit::Code(0), Exit::Signal(15)]);
                        self.plan(now + random.up_to(patience), Happening::Exit(*id, run, exit));
                    }
                    _ => {}
                }
            }
            Action::Kill(id) => {
                let stuck = random.percent(self.faults.stuck).then(|| now + random.up_to(self.faults.stuck_for));
                let cgroup = &mut self.cgroups[usize::from(id.0)];
                if !cgroup.is_empty() {
                    cgroup.stuck_until = cgroup.stuck_until.max(stuck.unwrap_or_default());
                }
                let (run, stuck_until) = (cgroup.run, cgroup.stuck_until);
                self.plan(stuck_until.max(now + random.up_to(EDGE_DELAY)), Happening::Killed(*id, run));
            }
            Action::Probe(id, _, timeout) => {
                if random.percent(self.faults.lost_answers) {
                    return;
                }
                let cgroup = &self.cgroups[usize::from(id.0)];
                let (run, serves) = (cgroup.run, cgroup.main.as_ref().is_some_and(|main| !main.is_mute()));
                // An answer that is late on its way may be about a process that is no more.
                let late = random.percent(self.faults.lost_answers);
                let takes = if serves && !late { ANSWER_DELAY.min(*timeout) } else { *timeout };
                self.plan(now + random.up_to(takes), Happening::Answer(*id, run, late.then_some(serves)));
            }
            Action::Ready(_) | Action::Down | Action::Note(..) => {}
        }
    }

    fn spec(&self, id: Id) -> &Spec {
        &self.specs[usize::from(id.0)]
    }

    fn plan(&mut self, at: Duration, happening: Happening) {
        self.planned += 1;
        self.queue.insert((at, self.planned), happening);
    }

    fn main(&mut self, id: Id, run: u64) -> Option<&mut Main> {
        let cgroup = &mut self.cgroups[usize::from(id.0)];
        cgroup.main.as_mut().filter(|_| cgroup.run == run)
    }

    fn tell(&mut self, now: Duration, event: Event, random: &mut Random) -> Option<Event> {
        if !self.is_true(&event) {
            return None;
        }
        if random.percent(self.faults.duplicates) {
            self.plan(now + random.up_to(LATEST_DUPLICATE), Happening::TellAgain(event.clone()));
        }
        Some(event)
    }

    /// The edge looks before it says that a cgroup is empty.
    fn is_true(&self, event: &Event) -> bool {
        !matches!(event, Event::Empty(id) if !self.cgroups[usize::from(id.0)].is_empty())
    }

    fn alive(&mut self, now: Duration, id: Id, run: u64) {
        if let Some(Health::Watchdog(period)) = self.spec(id).health {
            self.plan(now, Happening::Tell(Event::NotifiedAlive(id)));
            // systemd's advice for daemons (sd_watchdog_enabled(3)): half of the time.
            self.plan(now + period / 2, Happening::Alive(id, run));
        }
    }

    fn spawn(&mut self, now: Duration, id: Id, random: &mut Random) -> Event {
        if random.percent(self.faults.spawn_fails) {
            return Event::SpawnFailed(id);
        }
        let spec = self.spec(id).clone();
        let deaf = random.percent(self.faults.deaf);
        let cgroup = &mut self.cgroups[usize::from(id.0)];
        cgroup.run += 1;
        cgroup.main = Some(Main { deaf, ..Main::default() });
        let run = cgroup.run;
        if self.faults.duplicates == 0 && spec.ready == Ready::Notify && random.percent(50) {
            // It says that it is alive before it is ready.
            self.alive(now, id, run);
        }
        let in_time = now + random.up_to(spec.ready_timeout / 2);
        let some_time = now + random.up_to(2 * spec.ready_timeout);
        if random.percent(self.faults.hangs) {
            self.plan(some_time, Happening::Hang(id, run));
        }
        if random.percent(self.faults.exits) {
            let exit = *random.pick(&[Exit::Code(0), Exit::Code(1), Exit::Signal(11)]);
            self.plan(now + random.up_to(spec.ready_timeout), Happening::Crash(id, run, exit));
        }
        if random.percent(self.faults.never_ready) {
            return Event::Spawned(id);
        }
        match (spec.kind, &spec.ready) {
            (Kind::Oneshot, _) => self.plan(in_time, Happening::Exit(id, run, Exit::Code(0))),
            (Kind::Daemon, Ready::Started) => self.plan(now, Happening::Serving(id, run)),
            (Kind::Daemon, _) => self.plan(in_time, Happening::Serving(id, run)),
        }
        Event::Spawned(id)
    }
}
