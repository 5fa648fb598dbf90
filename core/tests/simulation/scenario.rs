//! What a seed stands for: a graph of services and how much goes wrong with them.

use std::time::Duration;

use perigee_core::spec::{Health, Hold, Kind, Log, Probe, Ready, Restart, Signal, Spec, Stop};

use crate::random::Random;

/// Chances in percent. Each is zero in half of the scenarios, so that faults are seen alone and together.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub spawn_fails: u64,
    /// A process ends by itself.
    pub exits: u64,
    /// A process stops doing anything, TERM included.
    pub hangs: u64,
    /// A process ignores TERM.
    pub deaf: u64,
    /// A process is never ready, or far too late.
    pub never_ready: u64,
    /// A process that ends leaves others in its cgroup.
    pub orphans: u64,
    /// Killed processes take long to be gone.
    pub stuck: u64,
    /// How long at most.
    pub stuck_for: Duration,
    /// A probe's answer is lost, or late on its way.
    pub lost_answers: u64,
    /// An event is told twice, the second time late.
    pub duplicates: u64,
    /// The edge sleeps longer than it should.
    pub late_ticks: u64,
}

impl Faults {
    fn random(random: &mut Random, stuck_for: Duration) -> Self {
        let mut chance = |most: u64| if random.percent(50) { 1 + random.below(most) } else { 0 };
        Self {
            spawn_fails: chance(40),
            exits: chance(80),
            hangs: chance(50),
            deaf: chance(50),
            never_ready: chance(40),
            orphans: chance(60),
            stuck: chance(20),
            stuck_for,
            lost_answers: chance(20),
            duplicates: chance(30),
            late_ticks: chance(50),
        }
    }
}

pub struct Scenario {
    pub specs: Vec<Spec>,
    pub roles: Vec<String>,
    pub faults: Faults,
    /// How long faults and wishes go on.
    pub chaos: Duration,
    /// Whether the shutdown comes in the middle of it.
    pub dies_in_chaos: bool,
    /// From Boot until data is mounted, if the shutdown does not come first.
    pub data_after: Duration,
    /// Mean time between two wishes (start, stop, restart).
    pub wishes: Duration,
}

/// Longest time that killed processes stay where everything must be well again in the end.
pub const LONGEST_STUCK: Duration = Duration::from_secs(12);
/// And where the node goes down anyway: as good as for ever.
const STUCK_FOR_EVER: Duration = Duration::from_secs(100_000);
const MOST_SERVICES: u64 = 12;

impl Scenario {
    pub fn random(random: &mut Random) -> Self {
        let count = 1 + random.below(MOST_SERVICES) as usize;
        // A service can come after those before it in this order, which has nothing to do with their names.
        let mut order: Vec<usize> = (0..count).collect();
        for place in (1..count).rev() {
            order.swap(place, random.index(place + 1));
        }
        let density = random.below(60);
        let specs = (0..count).map(|place| spec(random, &order, place, density)).collect();
        let roles = [&["control-plane", "worker"][..], &["worker"], &["control-plane"]];
        let dies_in_chaos = random.percent(50);
        let stuck_for = if dies_in_chaos && random.percent(50) { STUCK_FOR_EVER } else { LONGEST_STUCK };
        Self {
            specs,
            roles: random.pick(&roles).iter().map(|&role| role.to_owned()).collect(),
            faults: Faults::random(random, stuck_for),
            chaos: random.millis(1_000, 20_000),
            dies_in_chaos,
            data_after: random.millis(0, 30_000),
            wishes: random.millis(200, 10_000),
        }
    }
}

fn spec(random: &mut Random, order: &[usize], place: usize, density: u64) -> Spec {
    let name = |service: usize| format!("s{service:02}");
    let before = &order[..place];
    let after = before.iter().filter(|_| random.percent(density)).map(|&service| name(service)).collect();
    let hold = (!before.is_empty() && random.percent(20))
        .then(|| Hold { until: name(*random.pick(before)), at_most: random.millis(100, 10_000) });
    let kind = if random.percent(20) { Kind::Oneshot } else { Kind::Daemon };
    let probe = Probe::File("/run/x".to_owned());
    let (ready, health) = match kind {
        Kind::Oneshot => (Ready::Started, None),
        Kind::Daemon => (
            random.pick(&[Ready::Started, Ready::Notify, Ready::Probe(probe.clone())]).clone(),
            match random.below(3) {
                0 => None,
                1 => Some(Health::Watchdog(random.millis(200, 5_000))),
                _ => Some(Health::Probe {
                    probe,
                    period: random.millis(100, 3_000),
                    timeout: random.millis(100, 1_000),
                    failures: 1 + random.below(3) as u32,
                }),
            },
        ),
    };
    let min = random.millis(10, 500);
    Spec {
        name: name(order[place]),
        description: String::new(),
        kind,
        roles: random.pick(&[vec![], vec![], vec!["control-plane".to_owned()]]).clone(),
        exec: vec!["/usr/bin/x".to_owned()],
        env: [].into(),
        directories: random.pick(&[vec![], vec!["/run/x".to_owned()], vec!["/var/lib/x".to_owned()]]).clone(),
        after,
        hold,
        ready,
        ready_timeout: random.millis(500, 10_000),
        health,
        restart: Restart { min, max: min + random.millis(0, 5_000), reset: random.millis(500, 5_000) },
        stop: Stop {
            signal: *random.pick(&[Signal::Term, Signal::Int, Signal::Kill]),
            timeout: random.millis(50, 3_000),
        },
        limits: Default::default(),
        security: Default::default(),
        log: Log { ring_kib: 1, file_kib: 0, files: 0 },
    }
}
