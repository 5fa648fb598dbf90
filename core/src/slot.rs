//! Which image a node starts: the boot state, and what starts, failures and confirmations do to it.
//!
//! The loader takes a try off a slot before it starts it; a slot whose vitals hold is confirmed and has all its tries
//! again. So whatever goes wrong in between, the next start knows that one more try was lost:
//!
//! | slot is | at a start | its vitals hold | written anew |
//! |---|---|---|---|
//! | [`Standing::Empty`] | passed over | cannot be | `Trying`, [`TRIES`] left |
//! | [`Standing::Trying`], some left | one less | `Confirmed`, [`TRIES`] left | `Trying`, [`TRIES`] left |
//! | [`Standing::Confirmed`], some left | one less | `Confirmed`, [`TRIES`] left | `Trying`, [`TRIES`] left |
//! | either, none left | passed over | `Confirmed`, [`TRIES`] left | `Trying`, [`TRIES`] left |
//! | `Confirmed`, none left, another one is confirmed | passed over | one left | |
//!
//! The preferred slot comes first, then the other one, then golden. When none has a try left, each that has an image
//! gets one more, after a pause that grows: a node never gives up, and never boots in circles at full rate.
//!
//! How it stands on the disk is in [`record`], how the copies are read and written is in [`copies`], what is in a slot
//! is in [`header`], how its blocks are checked and mended is in [`verity`], who looks for the wrong ones in [`scrub`],
//! and how a slot is written in [`writing`].

use core::time::Duration;

use crate::reset::{Cause, Entry, Ledger};
use crate::update::Release;

pub mod copies;
pub mod header;
pub mod record;
pub mod reed_solomon;
pub mod scrub;
pub mod verity;
pub mod writing;

/// How often a slot is started in a row without its vitals holding. One lost start is bad luck (a power cut, a bit
/// that flipped in memory), two can be; three are the slot.
pub const TRIES: u8 = 3;
/// The first pause before tries are given again; it doubles each round.
pub const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest: a pass of a low orbit takes some 90 minutes, and one start for each is what a mission can follow.
pub const LONGEST_PAUSE: Duration = Duration::from_mins(90);
/// How long golden runs at first: two passes, so that the ground sees it and can say what to do.
pub const FIRST_STAY: Duration = Duration::from_hours(3);
/// The longest, however often: a mission without Kubernetes is none, and a day's heat and light differ from another's.
pub const LONGEST_STAY: Duration = Duration::from_hours(24);

/// A place for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// One of the two that updates go to in turn.
    A,
    /// The other.
    B,
    /// Written on the ground: agent and command link, no Kubernetes.
    Golden,
}

impl Slot {
    /// All, in the order of the disk.
    pub const ALL: [Self; 3] = [Self::A, Self::B, Self::Golden];

    /// Its partition's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "slot-a",
            Self::B => "slot-b",
            Self::Golden => "golden",
        }
    }
}

/// One of the two slots that updates go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// [`Slot::A`].
    A,
    /// [`Slot::B`].
    B,
}

impl Side {
    /// As a slot.
    pub const fn slot(self) -> Slot {
        match self {
            Self::A => Slot::A,
            Self::B => Slot::B,
        }
    }

    /// The one that `slot` is; `None` for golden.
    pub const fn of(slot: Slot) -> Option<Self> {
        match slot {
            Slot::A => Some(Self::A),
            Slot::B => Some(Self::B),
            Slot::Golden => None,
        }
    }

    /// The one that is not this one.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// What is known of a slot's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is none, or half of one.
    Empty,
    /// Written, and never yet seen to live.
    Trying {
        /// Starts that it may still lose.
        left: u8,
    },
    /// Its vitals held.
    Confirmed {
        /// Starts that it may still lose.
        left: u8,
    },
}

impl Standing {
    /// Starts that it may still lose.
    pub const fn left(self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Trying { left } | Self::Confirmed { left } => left,
        }
    }

    fn with(self, left: u8) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Trying { .. } => Self::Trying { left },
            Self::Confirmed { .. } => Self::Confirmed { left },
        }
    }
}

/// Everything that the next start depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Started first.
    pub preferred: Side,
    /// Started before that one, the next time only.
    pub once: Option<Slot>,
    /// What is known of each slot's image, in the order of [`Slot::ALL`].
    pub standings: [Standing; 3],
    /// How often tries had to be given again since the vitals of [`Slot::A`] or [`Slot::B`] held.
    pub rounds: u8,
    /// The oldest release that an update may bring, unless it says that it goes back.
    pub floor: Release,
    /// What the floor becomes when an updated slot is confirmed.
    pub next_floor: Option<(Side, Release)>,
    /// Starts so far.
    pub starts: u32,
    /// What was started last.
    pub last: Option<Slot>,
    /// How the last starts ended.
    pub ledger: Ledger,
}

/// What the loader is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Start a slot, after a pause.
    Start {
        /// Which.
        slot: Slot,
        /// Zero, unless no slot had a try left.
        pause: Duration,
    },
    /// Nothing here can be started: reset the machine after the pause, as a card's controller may need it.
    Reset {
        /// How long to wait before.
        pause: Duration,
    },
}

/// Slots that this start has found to be no good, and why is in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejected([bool; 3]);

impl Rejected {
    /// Adds one.
    pub fn add(&mut self, slot: Slot) {
        self.0[slot as usize] = true;
    }

    /// Whether it is one of them.
    pub const fn contains(self, slot: Slot) -> bool {
        self.0[slot as usize]
    }
}

impl State {
    /// A disk as it leaves the ground, or one whose boot state is lost: the slots that have an image are to be tried.
    pub fn new(preferred: Side, has_image: [bool; 3]) -> Self {
        Self {
            preferred,
            once: None,
            standings: has_image.map(|has| if has { Standing::Trying { left: TRIES } } else { Standing::Empty }),
            rounds: 0,
            floor: Release::default(),
            next_floor: None,
            starts: 0,
            last: None,
            ledger: Ledger::default(),
        }
    }

    /// What is known of a slot's image.
    pub const fn standing(&self, slot: Slot) -> Standing {
        self.standings[slot as usize]
    }

    /// Chooses what to start, and takes a try off it: to be written before it is done.
    pub fn choose(&mut self, rejected: Rejected) -> Choice {
        let standings = self.standings;
        let startable = move |slot: &Slot| standings[*slot as usize] != Standing::Empty && !rejected.contains(*slot);
        // What was asked for needs no try left: somebody wants to see it.
        if let Some(slot) = self.once.take().filter(startable) {
            return self.start(slot, Duration::ZERO);
        }
        let order = [self.preferred.slot(), self.preferred.other().slot(), Slot::Golden];
        let candidates = order.into_iter().filter(startable);
        if let Some(slot) = candidates.clone().find(|slot| standings[*slot as usize].left() > 0) {
            return self.start(slot, Duration::ZERO);
        }
        let first = candidates.clone().next();
        let pause = self.next_round();
        match first {
            Some(slot) => self.start(slot, pause),
            None => Choice::Reset { pause },
        }
    }

    fn start(&mut self, slot: Slot, pause: Duration) -> Choice {
        let standing = self.standing(slot);
        self.standings[slot as usize] = standing.with(standing.left().saturating_sub(1));
        self.starts = self.starts.saturating_add(1);
        self.last = Some(slot);
        Choice::Start { slot, pause }
    }

    /// Gives each image one more try; tells how long to wait before.
    fn next_round(&mut self) -> Duration {
        let doubled = 2_u32.saturating_pow(u32::from(self.rounds));
        self.rounds = self.rounds.saturating_add(1);
        self.standings = self.standings.map(|standing| standing.with(standing.left().max(1)));
        FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
    }

    /// The vitals of the running slot held. Golden's say nothing of the others: their pauses go on growing.
    ///
    /// With the others', slots that have lived before get one try again: what ended them may have been the power. One
    /// that has never lived stays passed over. An updated slot that lives raises the floor as its bundle said.
    pub fn confirm(&mut self, slot: Slot) {
        if let Some((_, floor)) = self.next_floor.take_if(|(side, _)| side.slot() == slot) {
            self.floor = self.floor.max(floor);
        }
        if slot != Slot::Golden {
            self.rounds = 0;
            self.standings = self.standings.map(|standing| match standing {
                Standing::Confirmed { left: 0 } => Standing::Confirmed { left: 1 },
                other => other,
            });
        }
        self.standings[slot as usize] = Standing::Confirmed { left: TRIES };
    }

    /// A slot is about to be written: until it is whole, it is not to be started.
    pub fn clear(&mut self, side: Side) {
        self.standings[side.slot() as usize] = Standing::Empty;
        self.once = self.once.filter(|once| *once != side.slot());
        self.next_floor = self.next_floor.filter(|(next, _)| *next != side);
    }

    /// A slot was written and is whole. `floor` is what its bundle says of older releases.
    pub fn written(&mut self, side: Side, floor: Release) {
        self.standings[side.slot() as usize] = Standing::Trying { left: TRIES };
        self.next_floor = Some((side, floor));
    }

    /// An updated slot is to be started first from now on.
    pub fn prefer(&mut self, side: Side) {
        self.preferred = side;
        self.once = None;
    }

    /// How long golden runs before it gives the others another try, if nobody tells it what to do.
    pub fn golden_stay(&self) -> Duration {
        let doubled = 2_u32.saturating_pow(u32::from(self.rounds));
        FIRST_STAY.saturating_mul(doubled).min(LONGEST_STAY)
    }

    /// Gives each image one more try, after golden has run for [`State::golden_stay`].
    pub fn retry(&mut self) {
        self.next_round();
    }

    /// Says how the last start ended, unless somebody has: the first thing that the loader does. `device` is what the
    /// machine's own registers tell of it.
    pub fn account(&mut self, device: Option<Cause>) {
        if let Some(slot) = self.last
            && !self.ledger.tells_end_of(self.starts)
        {
            self.ledger.push(Entry::new(self.starts, slot, device.unwrap_or(Cause::Unknown), 0, ""));
        }
    }

    /// Writes down that the boot state was lost, and is made anew.
    pub fn lost(&mut self, why: &str) {
        self.ledger.push(Entry::new(self.starts, self.preferred.slot(), Cause::StateLost, 0, why));
    }

    /// Writes down how the running start ends, `uptime_s` seconds after the kernel's start; `words` are the last ones.
    pub fn end(&mut self, cause: Cause, uptime_s: u32, words: &str) {
        if let Some(slot) = self.last {
            self.ledger.push(Entry::new(self.starts, slot, cause, uptime_s, words));
        }
    }

    /// Writes down why the loader did not start `slot`, whose try is lost.
    pub fn reject(&mut self, slot: Slot, why: &str) {
        self.ledger.push(Entry::new(self.starts, slot, Cause::Rejected, 0, why));
    }
}
