//! Deterministic simulation of `core::service`: random graphs, random faults, random wishes, then a shutdown.
//!
//! A seed decides everything. A failing one prints itself; to see all that happens in it:
//! `PERIGEE_SEED=<seed> cargo test -p perigee-core --test simulation -- --nocapture`.
//! `PERIGEE_SEEDS=<count>` runs more of them.

mod oracle;
#[path = "../random/mod.rs"]
mod random;
mod scenario;
mod world;

use std::time::Duration;

use perigee_core::service::{Action, Event, Graph, Id};

use crate::oracle::{Oracle, TICK_DELAY};
use crate::random::Random;
use crate::scenario::{Faults, Scenario};
use crate::world::World;

/// Enough to find each of the faults that were put in by hand, and quick enough to run with every test.
const SEEDS: u64 = 5_000;
/// How long the last faults can be felt: an event is told again for 3 s, a lost answer is given up
/// after 10 s.
const AFTERMATH: Duration = Duration::from_secs(11);
/// How long everything must stay as it is once all is well.
const QUIET: Duration = Duration::from_secs(10);

struct Simulation {
    random: Random,
    graph: Graph,
    world: World,
    oracle: Oracle,
    now: Duration,
    trace: bool,
    steps: u64,
}

impl Simulation {
    fn new(seed: u64, trace: bool) -> (Self, Scenario) {
        let mut random = Random::new(seed);
        let scenario = Scenario::random(&mut random);
        let graph = Graph::new(scenario.specs.clone(), &scenario.roles).expect("names are known and there is no cycle");
        let specs: Vec<_> = graph.ids().map(|id| graph.spec(id).clone()).collect();
        if trace {
            println!("{:#?}\n{:#?}", specs, scenario.faults);
        }
        let world = World::new(specs.clone(), scenario.faults.clone());
        let now = random.millis(0, 5_000);
        (Self { random, graph, world, oracle: Oracle::new(specs, &scenario.faults), now, trace, steps: 0 }, scenario)
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        self.steps += 1;
        if self.trace {
            println!("{:>12.6?} {event:?}", self.now);
        }
        self.oracle.event(self.now, &event);
        let mut actions = Vec::new();
        self.graph.step(self.now, event.clone(), &mut actions);
        for action in &actions {
            if self.trace {
                println!("{:>12.6?}     {action:?}", self.now);
            }
            self.oracle.action(self.now, action, &self.world)?;
            self.world.act(self.now, action, &mut self.random);
        }
        if event == Event::Tick && self.graph.deadline().is_some_and(|deadline| deadline <= self.now) {
            return Err("after a Tick another one is due at once".to_owned());
        }
        self.oracle.check(self.now, &self.graph, &self.world)
    }

    /// Goes on to the next thing that happens, `until` at the latest; false: nothing happens before.
    fn advance(&mut self, until: Duration) -> Result<bool, String> {
        let late = self.random.percent(self.world.faults.late_ticks);
        let late = if late { self.random.up_to(TICK_DELAY) } else { Duration::ZERO };
        let tick = self.graph.deadline().map(|deadline| deadline.max(self.now) + late);
        let happening = self.world.next();
        match (happening, tick) {
            (Some(at), tick) if at <= until && tick.is_none_or(|tick| at <= tick) => {
                self.now = self.now.max(at);
                if let Some(event) = self.world.happen(&mut self.random) {
                    self.step(event)?;
                }
            }
            (_, Some(tick)) if tick <= until => {
                self.now = tick;
                self.step(Event::Tick)?;
            }
            _ => {
                self.now = until;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn run_until(&mut self, until: Duration) -> Result<(), String> {
        while self.advance(until)? {}
        Ok(())
    }

    fn wish(&mut self) -> Result<(), String> {
        let ids: Vec<Id> = self.graph.ids().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = *self.random.pick(&ids);
        let wish = match self.random.below(8) {
            0..3 => Event::Restart(id),
            3..5 => Event::Stop(id),
            5..7 => Event::Start(id),
            _ => Event::Tick,
        };
        self.step(wish)
    }

    fn chaos(&mut self, scenario: &Scenario) -> Result<(), String> {
        let end = self.now + scenario.chaos;
        let mut data_at = Some(self.now + scenario.data_after);
        while self.now < end {
            let next = self.now + self.random.up_to(2 * scenario.wishes);
            if let Some(at) = data_at.take_if(|at| *at <= next.min(end)) {
                self.run_until(at)?;
                self.step(Event::DataMounted)?;
            }
            self.run_until(next.min(end))?;
            self.wish()?;
        }
        Ok(())
    }

    /// No more faults: everything that is wanted gets ready, and stays so.
    fn calm(&mut self) -> Result<(), String> {
        self.world.faults = Faults::default();
        self.step(Event::DataMounted)?;
        self.run_until(self.now + AFTERMATH)?;
        let end = self.now + self.oracle.calm_bound();
        while !self.oracle.is_settled(&self.world) {
            if !self.advance(end)? {
                let states: Vec<_> = self.graph.ids().map(|id| self.graph.state(id)).collect();
                return Err(format!("no faults any more, and still not as wanted: {states:?}"));
            }
        }
        let restarts = |graph: &Graph| graph.ids().map(|id| graph.restarts(id)).sum::<u32>();
        let before = restarts(&self.graph);
        self.run_until(self.now + QUIET)?;
        if restarts(&self.graph) != before {
            return Err("something was restarted although nothing was wrong".to_owned());
        }
        Ok(())
    }

    fn shutdown(&mut self) -> Result<(), String> {
        self.step(Event::Shutdown)?;
        while !self.oracle.down {
            // The oracle bounds how long this goes on.
            if self.random.percent(5) {
                self.wish()?;
            }
            if !self.advance(self.now + Duration::from_secs(3600))? && !self.oracle.down {
                return Err("nothing happens any more, and not everything has ended".to_owned());
            }
        }
        // Nothing is done any more, whatever else comes; the oracle checks it.
        self.step(Event::Shutdown)?;
        for _ in 0..3 {
            self.wish()?;
        }
        self.run_until(self.now + Duration::from_secs(60))
    }

    fn run(&mut self, scenario: &Scenario) -> Result<(), String> {
        if self.random.percent(10) {
            self.wish()?;
        }
        self.step(Event::Boot)?;
        self.chaos(scenario)?;
        if !scenario.dies_in_chaos {
            self.calm()?;
        }
        self.shutdown()
    }
}

/// Prints the seed of a run that ends in a panic.
struct Announce(u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("seed {seed} failed; to see it alone:");
            eprintln!("PERIGEE_SEED={seed} cargo test -p perigee-core --test simulation -- --nocapture");
        }
    }
}

/// Runs one seed; the number of its steps.
fn run(seed: u64, trace: bool) -> u64 {
    let _announce = Announce(seed);
    let (mut simulation, scenario) = Simulation::new(seed, trace);
    if let Err(why) = simulation.run(&scenario) {
        panic!("seed {seed}, at {:?}: {why}", simulation.now);
    }
    simulation.steps
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: expected a whole number, found {text:?}")))
}

#[test]
fn whatever_goes_wrong_every_service_is_kept_as_wanted() {
    if let Some(seed) = number("PERIGEE_SEED") {
        run(seed, true);
        return;
    }
    let seeds = number("PERIGEE_SEEDS").unwrap_or(SEEDS);
    let steps: u64 = (0..seeds).map(|seed| run(seed, false)).sum();
    println!("{seeds} seeds, {steps} steps");
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..20 {
        assert_eq!(run(seed, false), run(seed, false));
    }
}

/// Events as no edge would tell them: any event to any service at any time, times at the end of all time included.
#[test]
fn no_order_of_events_panics_or_keeps_the_graph_from_going_down() {
    for seed in 0..500 {
        let _announce = Announce(seed);
        let mut random = Random::new(seed);
        let scenario = Scenario::random(&mut random);
        let mut graph = Graph::new(scenario.specs, &scenario.roles).expect("a graph");
        let mut now = Duration::ZERO;
        let mut actions = Vec::new();
        for _ in 0..300 {
            now = if random.percent(1) { Duration::MAX } else { now.saturating_add(random.millis(0, 2_000)) };
            let id = Id(random.below(16) as u16);
            graph.step(now, any_event(&mut random, id), &mut actions);
        }
        graph.step(now, Event::Shutdown, &mut actions);
        for _ in 0..100 {
            for id in graph.ids().collect::<Vec<_>>() {
                for event in [Event::SpawnFailed(id), Event::Exited(id, any_exit(&mut random)), Event::Empty(id)] {
                    graph.step(now, event, &mut actions);
                }
            }
            now = now.saturating_add(Duration::from_secs(1000));
            graph.step(now, Event::Tick, &mut actions);
        }
        assert_eq!(actions.iter().filter(|&action| *action == Action::Down).count(), 1, "seed {seed}");
    }
}

fn any_event(random: &mut Random, id: Id) -> Event {
    match random.below(40) {
        0 => random.pick(&[Event::Boot, Event::DataMounted]).clone(),
        1..5 => Event::Tick,
        5..12 => Event::Spawned(id),
        12..14 => Event::SpawnFailed(id),
        14..18 => Event::Exited(id, any_exit(random)),
        18..22 => Event::Empty(id),
        22..26 => Event::NotifiedReady(id),
        26..28 => Event::NotifiedAlive(id),
        28..32 => Event::Probed(id, random.percent(50)),
        32..34 => Event::Start(id),
        34..36 => Event::Stop(id),
        36..39 => Event::Restart(id),
        _ => {
            if random.percent(5) {
                Event::Shutdown
            } else {
                Event::Boot
            }
        }
    }
}

fn any_exit(random: &mut Random) -> perigee_core::service::Exit {
    use perigee_core::service::Exit;
    *random.pick(&[Exit::Code(0), Exit::Code(i32::MIN), Exit::Signal(9)])
}
