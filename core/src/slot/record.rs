//! The boot state on the disk: one record, written whole.
//!
//! Numbers are unsigned and little-endian. A record has [`RECORD_BYTES`], eight sectors of 512 bytes: one that was cut
//! short has a wrong checksum.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `PGSTATE1`: the name, and the version 1 |
//! | 8 | 8 | sequence number: one more for each record that is written |
//! | 16 | 4 | starts so far |
//! | 20 | 1 | preferred: 1 slot A, 2 slot B |
//! | 21 | 1 | once: 0 none, 1 slot A, 2 slot B, 3 golden |
//! | 22 | 1 | last started: as once |
//! | 23 | 1 | rounds |
//! | 24 | 2 × 3 | for slots A, B and golden: 0 empty, 1 trying, 2 confirmed; tries left |
//! | 30 | 1 | entries of the ledger, at most 16 |
//! | 31 | 1 | whose confirmation sets the floor: 0 none, 1 slot A, 2 slot B |
//! | 32 | 8 | floor: the oldest release that is taken, as in a bundle's manifest |
//! | 40 | 8 | what the floor becomes then |
//! | 48 | 432 | zero |
//! | 480 | 224 × 16 | the ledger, the oldest entry first; what is not used is zero |
//! | 4064 | 32 | SHA-256 of all bytes before it |
//!
//! An entry of the ledger:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | which start |
//! | 4 | 4 | uptime, seconds |
//! | 8 | 1 | slot: 1 A, 2 B, 3 golden |
//! | 9 | 1 | cause: 1 unknown, 2 command, 3 watchdog, 4 panic, 5 rejected, 6 state lost, 16 and more: vitals data, agent, containerd, kubelet |
//! | 10 | 1 | bytes of words, at most 212 |
//! | 11 | 1 | zero |
//! | 12 | 212 | words, UTF-8; what is not used is zero |

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{Side, Slot, Standing, State};
use crate::reset::{Cause, Entry, LEDGER_ENTRIES, Ledger, WORDS_BYTES};
use crate::update::Release;
use crate::watchdog::Vital;

/// Bytes of a record.
pub const RECORD_BYTES: usize = 4096;
const MAGIC: &[u8; 8] = b"PGSTATE1";
const LEDGER: usize = 480;
const ENTRY_BYTES: usize = 12 + WORDS_BYTES;
const CHECKSUM: usize = RECORD_BYTES - 32;
const FIRST_VITAL: u8 = 16;

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Nothing was written here, or what was is gone.
    #[error("no record: it begins with other bytes than PGSTATE1")]
    Magic,
    /// Half of one, or one with flipped bits.
    #[error("a damaged record: its SHA-256 differs")]
    Checksum,
    /// Whole, and yet not what this version writes.
    #[error("a record with {value} as its {field}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it has.
        value: u8,
    },
}

/// A boot state with its sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The highest is the newest.
    pub sequence: u64,
    /// What it says.
    pub state: State,
}

impl Record {
    /// As it stands on the disk.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let State { preferred, once, standings, rounds, floor, next_floor, starts, last, ledger } = &self.state;
        let mut bytes = [0; RECORD_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&starts.to_le_bytes());
        bytes[20] = slot_code(Some(preferred.slot()));
        bytes[21] = slot_code(*once);
        bytes[22] = slot_code(*last);
        bytes[23] = *rounds;
        for (place, standing) in bytes[24..30].chunks_exact_mut(2).zip(standings) {
            place[0] = match standing {
                Standing::Empty => 0,
                Standing::Trying { .. } => 1,
                Standing::Confirmed { .. } => 2,
            };
            place[1] = standing.left();
        }
        for (place, entry) in bytes[LEDGER..CHECKSUM].chunks_exact_mut(ENTRY_BYTES).zip(ledger.entries()) {
            encode_entry(place, entry);
        }
        bytes[30] = ledger.entries().count() as u8;
        bytes[31] = slot_code(next_floor.map(|(side, _)| side.slot()));
        bytes[32..40].copy_from_slice(&floor.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&next_floor.unwrap_or((Side::A, Release::default())).1.0.to_le_bytes());
        let checksum = Sha256::digest(&bytes[..CHECKSUM]);
        bytes[CHECKSUM..].copy_from_slice(&checksum);
        bytes
    }

    /// What the bytes say.
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Result<Self, Error> {
        if !bytes.starts_with(MAGIC) {
            return Err(Error::Magic);
        }
        if Sha256::digest(&bytes[..CHECKSUM])[..] != bytes[CHECKSUM..] {
            return Err(Error::Checksum);
        }
        let preferred = side_of(bytes[20], "preferred slot")?;
        let preferred = preferred.ok_or(Error::Field { field: "preferred slot", value: bytes[20] })?;
        let next_floor = side_of(bytes[31], "slot that sets the floor")?;
        let mut standings = [Standing::Empty; 3];
        for (standing, place) in standings.iter_mut().zip(bytes[24..30].chunks_exact(2)) {
            *standing = match place {
                [0, 0] => Standing::Empty,
                [1, left] => Standing::Trying { left: *left },
                [2, left] => Standing::Confirmed { left: *left },
                [value, ..] => return Err(Error::Field { field: "standing", value: *value }),
                [] => return Err(Error::Field { field: "standing", value: 0 }),
            };
        }
        let entries = usize::from(bytes[30]);
        if entries > LEDGER_ENTRIES {
            return Err(Error::Field { field: "number of ledger entries", value: bytes[30] });
        }
        let mut ledger = Ledger::default();
        for place in bytes[LEDGER..CHECKSUM].chunks_exact(ENTRY_BYTES).take(entries) {
            ledger.push(decode_entry(place)?);
        }
        let state = State {
            preferred,
            once: slot_of(bytes[21])?,
            standings,
            rounds: bytes[23],
            floor: Release(u64_at(bytes, 32)),
            next_floor: next_floor.map(|side| (side, Release(u64_at(bytes, 40)))),
            starts: u32_at(bytes, 16),
            last: slot_of(bytes[22])?,
            ledger,
        };
        Ok(Self { sequence: u64_at(bytes, 8), state })
    }
}

fn encode_entry(place: &mut [u8], entry: &Entry) {
    let Entry { start, slot, cause, uptime_s, words } = entry;
    let words = words.as_str().as_bytes();
    place[0..4].copy_from_slice(&start.to_le_bytes());
    place[4..8].copy_from_slice(&uptime_s.to_le_bytes());
    place[8] = slot_code(Some(*slot));
    place[9] = cause_code(*cause);
    place[10] = words.len() as u8;
    place[12..12 + words.len()].copy_from_slice(words);
}

fn decode_entry(place: &[u8]) -> Result<Entry, Error> {
    let slot = slot_of(place[8])?.ok_or(Error::Field { field: "ledger's slot", value: 0 })?;
    let length = usize::from(place[10]);
    let wrong_words = Error::Field { field: "length of words", value: place[10] };
    let words = place.get(12..12 + length).ok_or(wrong_words)?;
    let words = str::from_utf8(words).map_err(|_| wrong_words)?;
    Ok(Entry::new(u32_at(place, 0), slot, cause_of(place[9])?, u32_at(place, 4), words))
}

fn slot_code(slot: Option<Slot>) -> u8 {
    slot.map_or(0, |slot| slot as u8 + 1)
}

fn side_of(code: u8, field: &'static str) -> Result<Option<Side>, Error> {
    let wrong = Error::Field { field, value: code };
    let slot = slot_of(code).map_err(|_| wrong)?;
    slot.map(|slot| Side::of(slot).ok_or(wrong)).transpose()
}

fn slot_of(code: u8) -> Result<Option<Slot>, Error> {
    match code {
        0 => Ok(None),
        1 => Ok(Some(Slot::A)),
        2 => Ok(Some(Slot::B)),
        3 => Ok(Some(Slot::Golden)),
        value => Err(Error::Field { field: "slot", value }),
    }
}

fn cause_code(cause: Cause) -> u8 {
    match cause {
        Cause::Unknown => 1,
        Cause::Command => 2,
        Cause::Watchdog => 3,
        Cause::Panic => 4,
        Cause::Rejected => 5,
        Cause::StateLost => 6,
        Cause::Vital(vital) => FIRST_VITAL + vital as u8,
    }
}

fn cause_of(code: u8) -> Result<Cause, Error> {
    let vital = code.checked_sub(FIRST_VITAL).and_then(|place| Vital::ALL.get(usize::from(place)));
    match (code, vital) {
        (1, _) => Ok(Cause::Unknown),
        (2, _) => Ok(Cause::Command),
        (3, _) => Ok(Cause::Watchdog),
        (4, _) => Ok(Cause::Panic),
        (5, _) => Ok(Cause::Rejected),
        (6, _) => Ok(Cause::StateLost),
        (_, Some(vital)) => Ok(Cause::Vital(*vital)),
        (value, None) => Err(Error::Field { field: "cause", value }),
    }
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, offset))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, offset))
}

fn bytes_at<const BYTES: usize>(bytes: &[u8], offset: usize) -> [u8; BYTES] {
    let mut found = [0; BYTES];
    found.copy_from_slice(&bytes[offset..offset + BYTES]);
    found
}
