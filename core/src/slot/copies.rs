//! The boot state's copies: three partitions far apart, with two places each that are written in turn.
//!
//! A record of sequence n stands at place n modulo 2, so writing it never touches the one before it. It is written to
//! the partitions one after the other. Whatever is cut short or lost, the newest whole record is the state:
//!
//! | what is lost | what is read |
//! |---|---|
//! | power, while n is written to the first partition | n − 1, from its other place and from the other partitions |
//! | power, later | n |
//! | one or two partitions | n, from what is left |
//! | n in one partition, by flipped bits | n, from the others |
//! | n in all | n − 1: as if the last write had not been |
//! | everything | [`Lost::All`]; the caller makes a new state from the slots' own headers |
//! | two whole records of the same sequence differ | what two say against one, else [`Lost::Disagreement`] |

use thiserror::Error;

use super::State;
use super::record::{RECORD_BYTES, Record};

/// How many partitions have a copy.
pub const COPIES: usize = 3;
/// Their names.
pub const NAMES: [&str; COPIES] = ["state-0", "state-1", "state-2"];
/// Places in a partition, one behind the other from its start.
pub const PLACES: usize = 2;

/// What one partition has; `None` where it could not be read.
pub type Places = [Option<[u8; RECORD_BYTES]>; PLACES];

/// Why there is no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Lost {
    /// No whole record.
    #[error("none of the boot state's copies is whole")]
    All,
    /// Copies contradict each other, and there is no majority.
    #[error("the boot state's copies contradict each other at sequence {sequence}")]
    Disagreement {
        /// Of the newest ones.
        sequence: u64,
    },
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The newest state.
    pub record: Record,
    /// Which partitions do not have it: the next write mends them.
    pub stale: [bool; COPIES],
}

/// Finds the newest state that the copies agree on.
pub fn read(copies: &[Places; COPIES]) -> Result<Found, Lost> {
    let whole =
        || copies.iter().enumerate().flat_map(|(copy, places)| records(places).map(move |record| (copy, record)));
    let sequence = whole().map(|(_, record)| record.sequence).max().ok_or(Lost::All)?;
    let newest = || whole().filter(|(_, record)| record.sequence == sequence);
    let votes = |record: &Record| newest().filter(|(_, other)| other == record).count();
    let (_, record) = newest().max_by_key(|(_, record)| votes(record)).ok_or(Lost::All)?;
    if votes(&record) * 2 <= newest().count() {
        return Err(Lost::Disagreement { sequence });
    }
    let mut stale = [true; COPIES];
    for (copy, _) in newest().filter(|(_, other)| *other == record) {
        stale[copy] = false;
    }
    Ok(Found { record, stale })
}

/// A partition's whole records that stand where they belong.
fn records(places: &Places) -> impl Iterator<Item = Record> {
    let decoded = |bytes: &Option<[u8; RECORD_BYTES]>| bytes.as_ref().and_then(|bytes| Record::decode(bytes).ok());
    places.iter().enumerate().filter_map(move |(place, bytes)| {
        let record = decoded(bytes)?;
        (place_of(record.sequence) == place).then_some(record)
    })
}

/// At which place of each partition a record stands.
pub const fn place_of(sequence: u64) -> usize {
    (sequence % PLACES as u64) as usize
}

impl Record {
    /// The first state of a disk.
    pub fn first(state: State) -> Self {
        Self { sequence: 1, state }
    }

    /// The one that follows this one.
    pub fn followed_by(&self, state: State) -> Self {
        Self { sequence: self.sequence.wrapping_add(1), state }
    }
}
