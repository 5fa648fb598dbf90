//! How starts ended, and what to do about it: the reset ledger and the ladder.
//!
//! A failure is handled at the lowest rung that works. The upper three need nobody to climb them: the loader does,
//! because tries run out ([`crate::slot`]).
//!
//! | rung | who | when |
//! |---|---|---|
//! | service | [`crate::service`] | it ended or hangs |
//! | group | PID 1 | a vital does not hold in spite of that: its service and all that come after it |
//! | reboot | PID 1, or the watchdog | a vital does not hold in spite of that, or nobody is there to tell |
//! | other slot | the loader | the slot has lost all its tries |
//! | golden | the loader | the other one has, too |
//! | safe mode | the loader | so has golden: one try each after a pause that grows |

use core::fmt;

use crate::slot::{Choice, Rejected, Slot, State};
use crate::watchdog::Vital;

/// Ends that the ledger remembers: two for every try of every slot, with some to spare.
pub const LEDGER_ENTRIES: usize = 16;
/// Bytes of an entry's last words, UTF-8: a kernel's panic line, or a service's last one.
pub const WORDS_BYTES: usize = 212;

/// Why a start ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nobody was able to say: power went, or the machine reset itself.
    Unknown,
    /// Somebody asked for it.
    Command,
    /// The watchdog was not stroked.
    Watchdog,
    /// The kernel panicked.
    Panic,
    /// PID 1 saw that this does not hold, and that restarting does not help.
    Vital(Vital),
    /// The loader did not start it.
    Rejected,
    /// Not an end: the boot state was lost and made anew.
    StateLost,
}

impl Cause {
    /// Whether it is how a start ended, and not what came before one.
    const fn is_end(self) -> bool {
        !matches!(self, Self::Rejected | Self::StateLost)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Command => f.write_str("command"),
            Self::Watchdog => f.write_str("watchdog"),
            Self::Panic => f.write_str("panic"),
            Self::Vital(vital) => write!(f, "vital-{vital}"),
            Self::Rejected => f.write_str("rejected"),
            Self::StateLost => f.write_str("state-lost"),
        }
    }
}

/// The end of one start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which start, counted by [`State::starts`].
    pub start: u32,
    /// Of what.
    pub slot: Slot,
    /// Why it ended.
    pub cause: Cause,
    /// Seconds from the kernel's start to this end; 0 if nobody knows.
    pub uptime_s: u32,
    /// What was said last.
    pub words: Words,
}

impl Entry {
    /// An entry; of `words` as much is kept as there is room for, from the start.
    pub fn new(start: u32, slot: Slot, cause: Cause, uptime_s: u32, words: &str) -> Self {
        Self { start, slot, cause, uptime_s, words: Words::new(words) }
    }
}

/// A short text of fixed size.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Words {
    len: u8,
    bytes: [u8; WORDS_BYTES],
}

impl Words {
    /// As much of `text` as there is room for.
    pub fn new(text: &str) -> Self {
        let kept = &text.as_bytes()[..text.floor_char_boundary(WORDS_BYTES)];
        let mut bytes = [0; WORDS_BYTES];
        bytes[..kept.len()].copy_from_slice(kept);
        // WORDS_BYTES is below 256.
        Self { len: kept.len() as u8, bytes }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Made from a str and cut between characters.
        str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The last ends, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    entries: [Option<Entry>; LEDGER_ENTRIES],
}

impl Ledger {
    /// Adds the newest, and forgets the oldest if there is no room.
    pub fn push(&mut self, entry: Entry) {
        match self.entries.iter_mut().find(|slot| slot.is_none()) {
            Some(free) => *free = Some(entry),
            None => {
                self.entries.rotate_left(1);
                self.entries[LEDGER_ENTRIES - 1] = Some(entry);
            }
        }
    }

    /// The oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter().flatten()
    }

    /// Whether somebody has said how that start ended.
    pub fn tells_end_of(&self, start: u32) -> bool {
        self.entries().any(|entry| entry.start == start && entry.cause.is_end())
    }

    /// Tells more of the last end, if nobody was able to explain it then: what the kernel had time to leave in memory.
    pub fn amend(&mut self, cause: Cause, words: &str) {
        if let Some(last) = self.entries.iter_mut().flatten().rev().find(|entry| entry.cause.is_end())
            && matches!(last.cause, Cause::Unknown | Cause::Watchdog)
        {
            (last.cause, last.words) = (cause, Words::new(words));
        }
    }
}

/// What a failure is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Its service is started again.
    Service,
    /// Its service and all that come after it.
    Group,
    /// The same slot.
    Reboot,
    /// The other one.
    OtherSlot,
    /// Without Kubernetes.
    Golden,
    /// After a pause.
    Safe,
}

/// What was done about a failure in this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// Nothing yet, or it is not known whether it helps.
    Nothing,
    /// Its service was started again, and that did not help.
    Service,
    /// So were all that come after it.
    Group,
}

/// The next rung. `state` tells what a reboot would come to.
pub fn climb(tried: Tried, state: &State) -> Rung {
    match tried {
        Tried::Nothing => Rung::Service,
        Tried::Service => Rung::Group,
        Tried::Group => match state.clone().choose(Rejected::default()) {
            Choice::Start { pause, .. } if !pause.is_zero() => Rung::Safe,
            Choice::Start { slot, .. } if Some(slot) == state.last => Rung::Reboot,
            Choice::Start { slot: Slot::Golden, .. } => Rung::Golden,
            Choice::Start { .. } => Rung::OtherSlot,
            Choice::Reset { .. } => Rung::Safe,
        },
    }
}
