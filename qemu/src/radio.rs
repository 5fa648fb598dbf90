//! A simulated radio link: which frame arrives, and when. No clock and no thread here; [`channel`] has them.
//!
//! Each way is a modem with a queue: a frame leaves when those before it have left, takes its bits divided by the rate, and
//! is then in the air. What comes while the link is down, or would still be leaving when the pass ends, is dropped: the
//! stations have no memory of their own between passes. Frames that are lost have taken their time like the others.

pub mod channel;
pub mod link;

use std::fmt;
use std::time::Duration;

pub use channel::Channel;
pub use link::{Link, Window};

use crate::random::Random;
use link::MILLION;

/// The queue of a slow link: a TCP window without scaling, so that one connection does not overflow it.
const MIN_QUEUE_BYTES: u64 = 64 << 10;
/// The queue of a fast one, in seconds of its rate.
const QUEUE_S: u64 = 2;
/// Frames that wait or are in the air at most, one way: 100 MB, for links with a delay and no rate.
const MAX_FLIGHTS: usize = 1 << 16;

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the ground.
    Uplink,
    /// To the ground.
    Downlink,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is no radio: it is there.
    Pass,
    /// It is on its way.
    Deliver(Flight),
    /// It is dropped.
    Drop(Reason),
}

/// A frame on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// When it arrives, by the clock of [`Radio::frame`].
    pub at: Duration,
    direction: Direction,
    bytes: usize,
    /// How often the link had been cut when it set out.
    cuts: u32,
}

/// Why a frame does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// At random.
    Lost,
    /// The link was down, or went down before the frame was through.
    Down,
    /// The queue was full.
    QueueFull,
}

/// Frames, and their bytes from the destination's address to the end of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub frames: u64,
    /// Their sum.
    pub bytes: u64,
}

/// What one way had to carry and what became of it. What is missing in the sum is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Given to the link.
    pub sent: Amount,
    /// Arrived.
    pub delivered: Amount,
    /// See [`Reason::Lost`].
    pub lost: Amount,
    /// See [`Reason::Down`].
    pub down: Amount,
    /// See [`Reason::QueueFull`].
    pub queue_full: Amount,
}

/// Both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// From the ground.
    pub uplink: Traffic,
    /// To the ground.
    pub downlink: Traffic,
}

/// A link and its state.
#[derive(Clone, Debug)]
pub struct Radio {
    /// By the host's clock.
    link: Link,
    queue_bytes: u64,
    state: State,
    cuts: u32,
    uplink: Lane,
    downlink: Lane,
}

/// Who decides whether frames pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The link, whose first pass began then.
    Link { since: Duration },
    /// Nothing passes.
    Cut,
    /// Everything passes, at once.
    Open,
}

/// One way.
#[derive(Clone, Debug)]
struct Lane {
    /// When what was queued has left.
    free_at: Duration,
    /// Frames on their way.
    flights: usize,
    random: Random,
    traffic: Traffic,
}

impl Radio {
    /// A link whose first pass begins now, at 0.
    pub fn new(link: &Link) -> Self {
        let mut random = Random::new(link.seed);
        Self {
            link: link.compressed(),
            queue_bytes: MIN_QUEUE_BYTES.max(link.rate_bps.unwrap_or(0).saturating_mul(QUEUE_S) / 8),
            state: State::Link { since: Duration::ZERO },
            cuts: 0,
            // What is lost one way does not depend on how much goes the other way.
            uplink: Lane::new(random.fork()),
            downlink: Lane::new(random.fork()),
        }
    }

    /// Nothing passes from now on; what is on its way is lost.
    pub fn cut(&mut self) {
        self.state = State::Cut;
        self.cuts = self.cuts.wrapping_add(1);
        self.uplink.free_at = Duration::ZERO;
        self.downlink.free_at = Duration::ZERO;
    }

    /// The link as it is meant to be from now on, beginning with a pass.
    pub fn restore(&mut self, now: Duration) {
        self.state = State::Link { since: now };
    }

    /// Everything passes at once from now on, as if there were no radio; it is not counted.
    pub fn open(&mut self) {
        self.state = State::Open;
    }

    /// Whether frames pass.
    pub fn is_up(&self, now: Duration) -> bool {
        self.up_until(now).is_some()
    }

    /// A frame of `bytes` is to go in `direction`; `now` never goes back. Tell of it with [`Radio::arrive`] when it is there.
    pub fn frame(&mut self, now: Duration, bytes: usize, direction: Direction) -> Verdict {
        if self.state == State::Open {
            return Verdict::Pass;
        }
        self.lane(direction).traffic.sent.add(bytes);
        match self.pass(now, bytes, direction) {
            Ok(at) => {
                self.lane(direction).flights += 1;
                Verdict::Deliver(Flight { at, direction, bytes, cuts: self.cuts })
            }
            Err(reason) => {
                self.lane(direction).dropped(reason, bytes);
                Verdict::Drop(reason)
            }
        }
    }

    /// A flight's time has come: whether the frame is there, or was on its way when the link was cut.
    pub fn arrive(&mut self, flight: Flight) -> bool {
        let arrives = flight.cuts == self.cuts;
        let lane = self.lane(flight.direction);
        lane.flights -= 1;
        if arrives {
            lane.traffic.delivered.add(flight.bytes);
        } else {
            lane.dropped(Reason::Down, flight.bytes);
        }
        arrives
    }

    /// What was carried so far.
    pub fn counters(&self) -> Counters {
        Counters { uplink: self.uplink.traffic, downlink: self.downlink.traffic }
    }

    fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::Uplink => &mut self.uplink,
            Direction::Downlink => &mut self.downlink,
        }
    }

    /// When a frame arrives.
    fn pass(&mut self, now: Duration, bytes: usize, direction: Direction) -> Result<Duration, Reason> {
        let until = self.up_until(now).ok_or(Reason::Down)?;
        let queue_bytes = self.queue_bytes;
        let Link { rate_bps, loss_ppm, delay, .. } = self.link;
        let lane = self.lane(direction);
        if lane.flights >= MAX_FLIGHTS {
            return Err(Reason::QueueFull);
        }
        let begin = lane.free_at.max(now);
        let end = match rate_bps {
            Some(rate) if queued(begin - now, rate) + bytes as u64 > queue_bytes => return Err(Reason::QueueFull),
            Some(rate) => begin + air_time(bytes, rate),
            None => begin,
        };
        if end > until {
            return Err(Reason::Down);
        }
        lane.free_at = end;
        if lane.random.below(u64::from(MILLION)) < u64::from(loss_ppm) {
            return Err(Reason::Lost);
        }
        Ok(end + delay)
    }

    /// When the link goes down, if it is up.
    fn up_until(&self, now: Duration) -> Option<Duration> {
        match (self.state, self.link.window) {
            (State::Cut, _) => None,
            (State::Open, _) | (State::Link { .. }, None) => Some(Duration::MAX),
            (State::Link { since }, Some(window)) => window.up_until(now.saturating_sub(since)).map(|end| since + end),
        }
    }
}

impl Window {
    /// The end of the pass that is at `at`, if one is; both since the first one's beginning.
    fn up_until(self, at: Duration) -> Option<Duration> {
        let into_period = Duration::from_nanos_u128(at.as_nanos() % self.period.as_nanos().max(1));
        (into_period < self.up).then(|| at - into_period + self.up)
    }
}

/// How long a frame takes to leave.
fn air_time(bytes: usize, rate_bps: u64) -> Duration {
    Duration::from_nanos_u128(bytes as u128 * 8 * 1_000_000_000 / u128::from(rate_bps.max(1)))
}

/// Bytes that leave within `wait`.
fn queued(wait: Duration, rate_bps: u64) -> u64 {
    u64::try_from(wait.as_nanos() * u128::from(rate_bps) / 8_000_000_000).unwrap_or(u64::MAX)
}

impl Lane {
    fn new(random: Random) -> Self {
        Self { free_at: Duration::ZERO, flights: 0, random, traffic: Traffic::default() }
    }

    fn dropped(&mut self, reason: Reason, bytes: usize) {
        let amount = match reason {
            Reason::Lost => &mut self.traffic.lost,
            Reason::Down => &mut self.traffic.down,
            Reason::QueueFull => &mut self.traffic.queue_full,
        };
        amount.add(bytes);
    }
}

impl Amount {
    fn add(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames ({} bytes)", self.frames, self.bytes)
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, delivered, lost, down, queue_full } = self;
        write!(f, "sent {sent}, delivered {delivered}, lost at random {lost}, ")?;
        write!(f, "dropped while down {down}, dropped by the full queue {queue_full}")
    }
}

#[cfg(test)]
mod tests;
