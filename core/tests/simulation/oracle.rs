//! What must hold, whatever happens: checked after each step against the world, not against the graph's own idea.

use std::time::Duration;

use perigee_core::control::ServiceState;
use perigee_core::service::{Action, Event, Exit, Graph, Id, Note};
use perigee_core::spec::{Health, Kind, Ready, Spec};

use crate::scenario::{Faults, LONGEST_STUCK};
use crate::world::{EDGE_DELAY, LATEST_DUPLICATE, Main, World};

/// Longest time by which a Tick is late.
pub const TICK_DELAY: Duration = Duration::from_millis(20);
/// What a bound allows beyond the sum of its parts: a few of the edge's delays.
const SLACK: Duration = Duration::from_millis(100);
/// The graph's own patience with processes that do not die, and with answers that do not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of one service without asking the graph.
#[derive(Clone, Debug, Default)]
struct Seen {
    wanted: bool,
    /// Ready was said, and neither Signal nor Kill since.
    up: bool,
    was_up: bool,
    /// Spawn was said without an answer.
    spawning: bool,
    was_spawned: bool,
    /// Signal was said, and the process lives; Kill was said.
    signalled: bool,
    killed: bool,
    /// A probe was asked for, and its time is not over.
    asked_until: Option<Duration>,
    /// A restart was wished, and nothing started since.
    again: bool,
    /// The last failure that nobody's wish has overtaken.
    failed_at: Option<Duration>,
    /// Left behind by a shutdown.
    given_up: bool,
    /// Since when each of the [`Bound`]s runs.
    since: [Option<Duration>; 4],
}

/// What may last only so long.
#[derive(Clone, Copy, Debug)]
enum Bound {
    /// Wanted, nothing in its way, nothing of it there.
    Lost,
    /// There, not ready.
    Starting,
    /// Ready and hung.
    Hung,
    /// Asked to end, not ended, not killed.
    Ending,
}

pub struct Oracle {
    specs: Vec<Spec>,
    /// Places in `specs`.
    after: Vec<Vec<usize>>,
    seen: Vec<Seen>,
    /// Whether events are told twice.
    duplicates: bool,
    boot: Option<Duration>,
    data_mounted: bool,
    shutdown: Option<Duration>,
    pub down: bool,
}

type Verdict = Result<(), String>;

fn must(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}

impl Oracle {
    /// `specs`: those that run on the node, in the order of their names.
    pub fn new(specs: Vec<Spec>, faults: &Faults) -> Self {
        let place = |name: &String| specs.iter().position(|spec| spec.name == *name);
        Self {
            after: specs.iter().map(|spec| spec.after.iter().filter_map(place).collect()).collect(),
            seen: vec![Seen { wanted: true, ..Seen::default() }; specs.len()],
            specs,
            duplicates: faults.duplicates > 0,
            boot: None,
            data_mounted: false,
            shutdown: None,
            down: false,
        }
    }

    /// An event, before the graph sees it.
    pub fn event(&mut self, now: Duration, event: &Event) {
        match event {
            Event::Boot => self.boot = self.boot.or(Some(now)),
            Event::DataMounted => self.data_mounted = true,
            Event::Shutdown => self.shutdown = self.shutdown.or(Some(now)),
            Event::Spawned(id) | Event::SpawnFailed(id) => self.seen(id).spawning = false,
            Event::Probed(id, _) => self.seen(id).asked_until = None,
            Event::Start(id) if self.shutdown.is_none() => self.seen(id).wanted = true,
            Event::Stop(id) | Event::Restart(id) if self.shutdown.is_none() => {
                let seen = self.seen(id);
                seen.wanted = matches!(event, Event::Restart(_));
                seen.again = seen.wanted;
                seen.failed_at = None;
            }
            _ => {}
        }
    }

    /// An action, before the world sees it.
    pub fn action(&mut self, now: Duration, action: &Action, world: &World) -> Verdict {
        must(!self.down, || "after Down there is nothing to do".to_owned())?;
        match action {
            Action::Spawn(id) => self.spawn(now, *id, world),
            Action::Signal(id, signal) => {
                let (shutdown, spec) = (self.shutdown.is_some(), &self.specs[usize::from(id.0)]);
                must(*signal == spec.stop.signal, || format!("{signal:?} is not its signal"))?;
                for (place, after) in self.after.iter().enumerate() {
                    let holds = !shutdown || !after.contains(&usize::from(id.0));
                    let gone = world.cgroups[place].is_empty() || self.seen[place].given_up;
                    must(holds || gone, || format!("asked to end before {}", self.specs[place].name))?;
                }
                let seen = self.seen(id);
                must(!seen.signalled && !seen.killed, || "asked to end twice".to_owned())?;
                (seen.up, seen.signalled) = (false, true);
                Ok(())
            }
            Action::Kill(id) => {
                let seen = self.seen(id);
                (seen.up, seen.killed) = (false, true);
                Ok(())
            }
            Action::Probe(id, _, timeout) => {
                let seen = self.seen(id);
                let asked = seen.asked_until.replace(now + *timeout);
                must(asked.is_none_or(|until| until < now), || "asked while another question is open".to_owned())
            }
            Action::Ready(id) => self.ready(*id, world),
            Action::Down => {
                self.down = true;
                must(self.shutdown.is_some(), || "Down without a Shutdown".to_owned())?;
                let left =
                    self.seen.iter().zip(&world.cgroups).filter(|(seen, group)| !seen.given_up && !group.is_empty());
                must(left.count() == 0, || "Down while processes are alive".to_owned())
            }
            Action::Note(id, note) => self.note(now, *id, note, world),
        }
        .map_err(|why| format!("{action:?}: {why}"))
    }

    /// What must hold between steps.
    pub fn check(&mut self, now: Duration, graph: &Graph, world: &World) -> Verdict {
        for place in 0..self.specs.len() {
            let id = Id(place as u16);
            let (state, up) = (graph.state(id), self.seen[place].up);
            let name = &self.specs[place].name;
            must((state == ServiceState::Ready) == up, || format!("{name} is said to be {state:?}"))?;
            must(graph.since(id) <= now, || format!("{name} is in its state since a time to come"))?;
            self.bounds(now, place, world)?;
        }
        if let Some(shutdown) = self.shutdown.filter(|_| !self.down) {
            let each = |spec: &Spec| spec.stop.timeout + 2 * PATIENCE + SLACK;
            let bound: Duration = self.specs.iter().map(each).sum();
            must(now <= shutdown + bound, || format!("not down {bound:?} after the Shutdown"))?;
        }
        Ok(())
    }

    /// How long after the last fault everything must be as wanted.
    pub fn calm_bound(&self) -> Duration {
        let each = |spec: &Spec| {
            let hold = spec.hold.as_ref().map_or(Duration::ZERO, |hold| hold.at_most);
            let parts = [hung_bound(spec), 2 * spec.ready_timeout, spec.stop.timeout, 2 * spec.restart.max, hold];
            parts.iter().sum::<Duration>() + LONGEST_STUCK + PATIENCE
        };
        self.specs.iter().map(each).sum::<Duration>() + LATEST_DUPLICATE
    }

    /// Whether each service is as it is wanted, or waits for one that is not wanted.
    pub fn is_settled(&self, world: &World) -> bool {
        (0..self.specs.len()).all(|place| {
            let (seen, cgroup) = (&self.seen[place], &world.cgroups[place]);
            let hung = self.specs[place].health.is_some() && cgroup.main.as_ref().is_some_and(Main::is_mute);
            let gone = cgroup.is_empty() && !seen.spawning;
            match seen.wanted {
                true => (seen.up && !hung) || (gone && self.is_blocked(place)),
                false => gone,
            }
        })
    }

    /// Whether it is down, and waits for one that is not wanted, or is blocked itself.
    fn is_blocked(&self, place: usize) -> bool {
        !self.seen[place].up
            && self.after[place]
                .iter()
                .any(|&other| !self.seen[other].up && (!self.seen[other].wanted || self.is_blocked(other)))
    }

    fn seen(&mut self, id: &Id) -> &mut Seen {
        &mut self.seen[usize::from(id.0)]
    }

    fn is_held(&self, now: Duration, place: usize) -> bool {
        let Some((hold, boot)) = self.specs[place].hold.as_ref().zip(self.boot) else { return false };
        let until = self.specs.iter().position(|spec| spec.name == hold.until);
        let released = until.is_none_or(|until| self.seen[until].was_up) || now >= boot + hold.at_most;
        !self.seen[place].was_spawned && !released
    }

    fn lacks_data(&self, place: usize) -> bool {
        !self.data_mounted && self.specs[place].directories == ["/var/lib/x"]
    }

    fn spawn(&mut self, now: Duration, id: Id, world: &World) -> Verdict {
        let place = usize::from(id.0);
        must(self.boot.is_some() && self.shutdown.is_none(), || "not up".to_owned())?;
        must(world.cgroups[place].is_empty(), || "there are processes of it".to_owned())?;
        must(self.after[place].iter().all(|&other| self.seen[other].up), || {
            "what it comes after is not ready".to_owned()
        })?;
        must(!self.is_held(now, place), || "it is held".to_owned())?;
        must(!self.lacks_data(place), || "its folders are not there".to_owned())?;
        let min = self.specs[place].restart.min;
        let seen = self.seen(&id);
        must(seen.wanted && !seen.spawning && !seen.up, || format!("{seen:?}"))?;
        must(seen.failed_at.is_none_or(|failed| now >= failed + min), || "no back-off".to_owned())?;
        (seen.spawning, seen.was_spawned) = (true, true);
        (seen.signalled, seen.killed, seen.again) = (false, false, false);
        Ok(())
    }

    fn ready(&mut self, id: Id, world: &World) -> Verdict {
        let place = usize::from(id.0);
        let spec = &self.specs[place];
        // A late READY=1 or answer of the process before cannot be told from this one's.
        if !self.duplicates && spec.kind == Kind::Daemon && spec.ready != Ready::Started {
            let serving = world.cgroups[place].main.as_ref().is_none_or(|main| main.serving);
            must(serving, || "it never said so".to_owned())?;
        }
        if !self.duplicates && spec.kind == Kind::Oneshot {
            must(world.cgroups[place].exit == Some(Exit::Code(0)), || "it did not end well".to_owned())?;
        }
        let seen = self.seen(&id);
        must(!seen.up && !seen.spawning && seen.was_spawned && !seen.killed && !seen.signalled, || {
            format!("{seen:?}")
        })?;
        (seen.up, seen.was_up) = (true, true);
        Ok(())
    }

    fn note(&mut self, now: Duration, id: Id, note: &Note, world: &World) -> Verdict {
        let alone = self.duplicates || world.cgroups[usize::from(id.0)].main.is_none();
        must(alone || !matches!(note, Note::Ended(..)), || "another process of it lives".to_owned())?;
        let (restart, shutdown) = (self.specs[usize::from(id.0)].restart, self.shutdown.is_some());
        let seen = self.seen(&id);
        match note {
            Note::Ended(_, delay) | Note::SpawnFailed(delay) => {
                seen.failed_at = Some(now).filter(|_| !seen.again);
                must((restart.min..=restart.max).contains(delay), || "back-off out of bounds".to_owned())
            }
            Note::NotReadyInTime | Note::Hung => {
                seen.failed_at = Some(now).filter(|_| !seen.again);
                Ok(())
            }
            Note::NotEndedInTime => must(seen.signalled, || "it was never asked to".to_owned()),
            Note::NotKilledInTime => {
                seen.given_up = shutdown;
                must(seen.killed, || "it was never killed".to_owned())
            }
        }
    }

    fn bounds(&mut self, now: Duration, place: usize, world: &World) -> Verdict {
        let (spec, cgroup, seen) = (&self.specs[place], &world.cgroups[place], &self.seen[place]);
        let running = self.boot.is_some() && self.shutdown.is_none() && seen.wanted && !seen.spawning;
        let free = !self.is_held(now, place)
            && !self.lacks_data(place)
            && self.after[place].iter().all(|&other| self.seen[other].up);
        let done = spec.kind == Kind::Oneshot && seen.up;
        let there = cgroup.main.is_some() && !seen.killed;
        let hung = spec.health.is_some() && cgroup.main.as_ref().is_some_and(Main::is_mute);
        let stop_bound = spec.stop.timeout;
        let limits = [
            (Bound::Lost, running && free && !done && cgroup.is_empty(), spec.restart.max + PATIENCE),
            (Bound::Starting, there && !seen.spawning && !seen.up && !seen.signalled, spec.ready_timeout),
            (Bound::Hung, there && hung && seen.up, hung_bound(spec)),
            (Bound::Ending, there && seen.signalled, stop_bound),
        ];
        let name = spec.name.clone();
        for (bound, holds, limit) in limits {
            let since = &mut self.seen[place].since[bound as usize];
            let from = *since.get_or_insert(now);
            if !holds {
                *since = None;
            } else if now > from + limit + SLACK {
                return Err(format!("{name}: {bound:?} since {from:?}, longer than {limit:?}"));
            }
        }
        Ok(())
    }
}

/// How long a hang may stay unnoticed. Lost answers and late answers of the process before can each cost a round.
fn hung_bound(spec: &Spec) -> Duration {
    let round = match &spec.health {
        None => Duration::ZERO,
        Some(Health::Watchdog(period)) => *period,
        Some(Health::Probe { period, timeout, failures, .. }) => (*period + *timeout + PATIENCE) * (failures + 1),
    };
    2 * round + LATEST_DUPLICATE + EDGE_DELAY
}
