//! What a node has of a payload: symbols of [`SYMBOL_BYTES`], in any order, kept over power cuts.
//!
//! For each symbol there is a number on the node's disk: 0 while it is missing, then its CRC-32 (and 1 where that is 0).
//! The symbol is on the medium before its number is. So what was cut short is missing, and of a payload that is not what
//! was signed it can be told which symbols the medium has changed.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Bytes of a symbol; the payload's last one is filled up with zeros. With what stands around it in a datagram it fits
/// into a telecommand frame of 1,115 bytes (CCSDS 232.0-B).
pub const SYMBOL_BYTES: usize = 1024;
/// What is sent at once over a link that answers: two seconds of 64 kbit/s, so that what is said with each piece is a
/// 300th of it.
pub const PIECE_BYTES: u64 = 16 * 1024;

/// Which symbols of a payload are here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    payload_bytes: u64,
    marks: Vec<u32>,
    missing: usize,
}

impl Pieces {
    /// Nothing of a payload.
    pub fn none(payload_bytes: u64) -> Self {
        let symbols = payload_bytes.div_ceil(SYMBOL_BYTES as u64) as usize;
        Self { payload_bytes, marks: vec![0; symbols], missing: symbols }
    }

    /// What the bytes on the disk say; bytes that are missing say nothing.
    pub fn decode(payload_bytes: u64, bytes: &[u8]) -> Self {
        let mut pieces = Self::none(payload_bytes);
        for (mark, bytes) in pieces.marks.iter_mut().zip(bytes.as_chunks().0) {
            *mark = u32::from_le_bytes(*bytes);
            pieces.missing -= usize::from(*mark != 0);
        }
        pieces
    }

    /// As they stand on the disk: those of some symbols, for the place 4 × the first.
    pub fn encode(&self, symbols: Range<usize>) -> Vec<u8> {
        self.marks.get(symbols).unwrap_or_default().iter().flat_map(|mark| mark.to_le_bytes()).collect()
    }

    /// How many symbols the payload has.
    pub fn symbols(&self) -> usize {
        self.marks.len()
    }

    /// Whether a symbol is here.
    pub fn has(&self, symbol: usize) -> bool {
        self.marks.get(symbol).is_some_and(|mark| *mark != 0)
    }

    /// Where a symbol stands in the payload.
    pub fn place(&self, symbol: usize) -> Range<u64> {
        let start = (symbol * SYMBOL_BYTES) as u64;
        start..(start + SYMBOL_BYTES as u64).min(self.payload_bytes)
    }

    /// The symbols that `bytes` at `at` in the payload are whole; `None` if they are not in it or begin within one.
    pub fn whole(&self, at: u64, bytes: u64) -> Option<Range<usize>> {
        let end = at.checked_add(bytes).filter(|end| *end <= self.payload_bytes)?;
        if !at.is_multiple_of(SYMBOL_BYTES as u64) {
            return None;
        }
        let symbol = SYMBOL_BYTES as u64;
        let last = if end == self.payload_bytes { end.div_ceil(symbol) } else { end / symbol };
        Some((at / symbol) as usize..last as usize)
    }

    /// A symbol is on the medium: these are its bytes.
    pub fn add(&mut self, symbol: usize, bytes: &[u8]) {
        if let Some(place) = self.marks.get_mut(symbol) {
            self.missing -= usize::from(*place == 0);
            *place = mark(bytes);
        }
    }

    /// Takes a symbol off whose bytes are these now, if they are not what came; gives whether it did.
    pub fn drop_changed(&mut self, symbol: usize, bytes: &[u8]) -> bool {
        match self.marks.get_mut(symbol) {
            Some(place) if *place != 0 && *place != mark(bytes) => {
                *place = 0;
                self.missing += 1;
                true
            }
            _ => false,
        }
    }

    /// Whether all are here.
    pub fn are_all(&self) -> bool {
        self.missing == 0
    }

    /// Bytes of the payload that are here.
    pub fn bytes(&self) -> u64 {
        (0..self.marks.len())
            .filter(|symbol| self.has(*symbol))
            .map(|symbol| self.place(symbol))
            .map(|place| place.end - place.start)
            .sum()
    }

    /// What is missing, in bytes of the payload, from its start on.
    pub fn missing(&self) -> impl Iterator<Item = Range<u64>> {
        let mut from = 0;
        core::iter::from_fn(move || {
            let first = from + self.marks.get(from..)?.iter().position(|mark| *mark == 0)?;
            let length = self.marks[first..].iter().position(|mark| *mark != 0);
            from = length.map_or(self.marks.len(), |length| first + length);
            Some(self.place(first).start..self.place(from - 1).end)
        })
    }
}

fn mark(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes).max(1)
}

/// What is missing, cut into pieces for sending.
pub fn cut(missing: impl IntoIterator<Item = Range<u64>>) -> impl Iterator<Item = Range<u64>> {
    missing.into_iter().flat_map(|range| {
        let starts = range.clone().step_by(PIECE_BYTES as usize);
        starts.map(move |start| start..range.end.min(start + PIECE_BYTES))
    })
}
