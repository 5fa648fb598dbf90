//! When PID 1 may stroke the watchdog, and what it does about a vital that does not hold.
//!
//! PID 1's own loop needs no vital: it strokes, so a loop that hangs does not. A vital that is lost has time to come
//! back while its service is restarted, then once more after its group was; then the node is rebooted, and from there
//! on only as many strokes follow as an orderly end may take.
//!
//! | phase | vital reported to hold | its time is over |
//! |---|---|---|
//! | [`Phase::Holding`] | `Holding` | cannot be: it has none |
//! | [`Phase::Lost`] | `Holding` | `Regrouped`, [`Order::RestartGroup`] |
//! | [`Phase::Regrouped`] | `Holding` | ending, [`Order::Reboot`] |

use core::fmt;
use core::time::Duration;

/// Without a stroke for so long the machine is reset. From the loader's last one to PID 1's first the kernel starts: under
/// emulation that takes 10 s, on a busy host three times that. PID 1's own longest turn (a dozen forks) takes under a second.
pub const WINDOW: Duration = Duration::from_secs(60);

/// What must hold on this node, whatever is with the others and with the ground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vital {
    /// The data partition can be written to.
    Data,
    /// The agent sends its heartbeat.
    Agent,
    /// containerd answers.
    Containerd,
    /// The kubelet's local healthz answers.
    Kubelet,
}

impl Vital {
    /// All of a node's.
    pub const ALL: [Self; 4] = [Self::Data, Self::Agent, Self::Containerd, Self::Kubelet];
    /// Those of golden, which has no Kubernetes.
    pub const GOLDEN: [Self; 2] = [Self::Data, Self::Agent];

    /// The service that it is the vital of; none restarts a disk.
    pub const fn service(self) -> Option<&'static str> {
        match self {
            Self::Data => None,
            Self::Agent => Some("agent"),
            Self::Containerd => Some("containerd"),
            Self::Kubelet => Some("kubelet"),
        }
    }
}

impl fmt::Display for Vital {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.service().unwrap_or("data"))
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// From PID 1's start until a vital holds for the first time.
    pub first: Duration,
    /// Until a vital that was lost holds again.
    pub again: Duration,
    /// For how long all vitals hold without a gap before the slot is confirmed.
    pub confirm: Duration,
    /// For an orderly end, after which nobody strokes any more.
    pub end: Duration,
}

impl Times {
    /// With what the kernel's command line says instead: `perigee.first_s=`, `perigee.again_s=`, `perigee.confirm_s=`,
    /// seconds. It is signed with its slot. What is no number, or zero, is as if it were not there.
    pub fn with(mut self, command_line: &str) -> Self {
        for word in command_line.split_ascii_whitespace() {
            let Some((name, value)) = word.split_once('=') else { continue };
            let time = match name {
                "perigee.first_s" => &mut self.first,
                "perigee.again_s" => &mut self.again,
                "perigee.confirm_s" => &mut self.confirm,
                _ => continue,
            };
            match value.parse() {
                Ok(seconds @ 1..) => *time = Duration::from_secs(seconds),
                _ => continue,
            }
        }
        self
    }
}

/// What PID 1 is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Restart the vital's service and all that come after it.
    RestartGroup(Vital),
    /// Write the cause to the ledger and reboot in order.
    Reboot(Vital),
    /// Confirm the running slot. Comes once.
    Confirm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Holding,
    Lost { until: Duration },
    Regrouped { until: Duration },
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    vital: Vital,
    phase: Phase,
}

/// The vitals over time. Times are since any fixed moment, the same for all calls, and never go back.
#[derive(Clone, Debug)]
pub struct Watchdog {
    times: Times,
    /// As many as there are vitals on this node.
    watched: [Option<Watched>; Vital::ALL.len()],
    /// Since when all hold.
    healthy_since: Option<Duration>,
    confirmed: bool,
    /// When strokes end, once an end has begun.
    ending: Option<Duration>,
}

impl Watchdog {
    /// Begins to watch `vitals`; none holds yet.
    pub fn new(vitals: &[Vital], times: Times, now: Duration) -> Self {
        let phase = Phase::Lost { until: now.saturating_add(times.first) };
        let mut watched = [None; Vital::ALL.len()];
        for (place, vital) in watched.iter_mut().zip(vitals) {
            *place = Some(Watched { vital: *vital, phase });
        }
        Self { times, watched, healthy_since: None, confirmed: false, ending: None }
    }

    /// Says whether a vital holds now; what is not on this node is nobody's concern.
    pub fn report(&mut self, vital: Vital, holds: bool, now: Duration) {
        let again = now.saturating_add(self.times.again);
        for watched in self.watched.iter_mut().flatten().filter(|watched| watched.vital == vital) {
            watched.phase = match watched.phase {
                _ if holds => Phase::Holding,
                Phase::Holding => Phase::Lost { until: again },
                lost => lost,
            };
        }
        let all_hold = self.watched.iter().flatten().all(|watched| watched.phase == Phase::Holding);
        self.healthy_since = if all_hold { self.healthy_since.or(Some(now)) } else { None };
    }

    /// An end was begun, by whomever: it has [`Times::end`].
    pub fn end(&mut self, now: Duration) {
        self.ending = self.ending.or(Some(now.saturating_add(self.times.end)));
    }

    /// Whether to stroke now.
    pub fn may_stroke(&self, now: Duration) -> bool {
        self.ending.is_none_or(|until| now < until)
    }

    /// What is due, one thing at a time: ask until there is nothing.
    pub fn next_order(&mut self, now: Duration) -> Option<Order> {
        if self.ending.is_some() {
            return None;
        }
        let again = now.saturating_add(self.times.again);
        for watched in self.watched.iter_mut().flatten() {
            match watched.phase {
                Phase::Lost { until } if now >= until && watched.vital.service().is_some() => {
                    watched.phase = Phase::Regrouped { until: again };
                    return Some(Order::RestartGroup(watched.vital));
                }
                Phase::Lost { until } | Phase::Regrouped { until } if now >= until => {
                    let vital = watched.vital;
                    self.end(now);
                    return Some(Order::Reboot(vital));
                }
                _ => {}
            }
        }
        let held = self.healthy_since.is_some_and(|since| now.saturating_sub(since) >= self.times.confirm);
        let due = held && !self.confirmed;
        self.confirmed |= due;
        due.then_some(Order::Confirm)
    }

    /// When [`Watchdog::next_order`] has something new to say, if nothing is reported until then.
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.ending.is_some() {
            return None;
        }
        let phases = self.watched.iter().flatten().filter_map(|watched| match watched.phase {
            Phase::Holding => None,
            Phase::Lost { until } | Phase::Regrouped { until } => Some(until),
        });
        let confirm =
            self.healthy_since.filter(|_| !self.confirmed).map(|since| since.saturating_add(self.times.confirm));
        phases.chain(confirm).min()
    }
}
