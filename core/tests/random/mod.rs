//! SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): all that a seed decides.
//!
//! Each test crate uses what it needs of it.
#![allow(dead_code)]

use std::time::Duration;

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `end` - 1.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True so many times in a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Milliseconds from `min` to `max`.
    pub fn millis(&mut self, min: u64, max: u64) -> Duration {
        Duration::from_millis(min + self.below(max - min + 1))
    }

    /// Anything up to `max`.
    pub fn up_to(&mut self, max: Duration) -> Duration {
        Duration::from_micros(self.below(max.as_micros() as u64 + 1))
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// Does to bytes what space and people do: flips, losses, doublings, pieces moved, ends cut off.
    pub fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let (at, len) = (self.index(bytes.len() + 1), self.index(24));
            let piece = at.min(bytes.len())..(at + len).min(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(piece)),
                2 => {
                    let copy = bytes[piece].to_vec();
                    let to = self.index(bytes.len() + 1);
                    drop(bytes.splice(to..to, copy));
                }
                3 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << self.below(8)),
                4 => bytes.insert(at, self.next() as u8),
                _ => bytes.insert(at, *self.pick(b"\"'[]{}=#.,\\\n -_0$")),
            }
        }
    }
}
