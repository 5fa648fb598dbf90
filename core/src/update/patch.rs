//! A patch: how the bytes of a new image come from those of an old one.
//!
//! It has three streams. The first has steps, the second differences, the third bytes that are new. A step says: take so
//! many bytes of the old image as they are, then so many with a difference added to each (modulo 256), then so many new
//! ones, and go on reading the old image so many bytes further or back. Programs that are linked anew have most of their
//! bytes, with addresses that moved: differences that repeat, which a compressor makes short (Percival, "Naive Differences
//! of Executable Code", 2003).
//!
//! A step is four numbers: copied, added, new, moved. Each is in groups of seven bits, the lowest first; the highest bit
//! of a byte says that another follows (LEB128). The last is zigzag: 2 n, or −2 n − 1 for negative n. No step says that
//! the patch is over: the new image's length is known.

use alloc::vec::Vec;

use thiserror::Error;

/// Bytes before a payload's first stream.
pub const HEAD_BYTES: usize = 8;

/// How a payload's streams are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lzma {
    /// Literal context bits, literal position bits, position bits. Programs and differences have no period that position
    /// bits would see; one more literal context bit than usual makes the news of a release a hundredth shorter.
    pub lc_lp_pb: [u8; 3],
    /// Dictionaries of steps, differences and news, in bytes: what applying a patch costs in memory.
    pub dictionaries: [u32; 3],
}

/// The one way that there is.
pub const LZMA: Lzma = Lzma { lc_lp_pb: [4, 0, 0], dictionaries: [1 << 20, 4 << 20, 8 << 20] };

/// Why a patch makes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// A stream ends too soon, or cannot be decompressed.
    #[error("its {0} end too soon or are damaged")]
    Stream(&'static str),
    /// A number with more than 64 bits.
    #[error("a step has a number that is too large")]
    Number,
    /// A step that makes nothing: a patch of such steps would never end.
    #[error("a step makes nothing")]
    Nothing,
    /// A step reads where the old image is not.
    #[error("a step reads outside of the old image")]
    Old,
}

/// Where a patch's bytes come from. Each fills all of what it is given, or gives false.
pub trait Sources {
    /// The next bytes of the steps.
    fn steps(&mut self, into: &mut [u8]) -> bool;
    /// The next differences.
    fn differences(&mut self, into: &mut [u8]) -> bool;
    /// The next new bytes.
    fn news(&mut self, into: &mut [u8]) -> bool;
    /// The old image's bytes from `at` on; false, too, if it has none there.
    fn old(&mut self, at: u64, into: &mut [u8]) -> bool;
}

/// One step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the old image, as they are.
    pub copied: u64,
    /// Bytes of the old image that a difference is added to.
    pub added: u64,
    /// New bytes.
    pub new: u64,
    /// How much further, or back, the old image is read after this.
    pub moved: i64,
}

impl Step {
    /// Appends it to a stream of steps.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let zigzag = (self.moved << 1 ^ self.moved >> 63).cast_unsigned();
        for mut number in [self.copied, self.added, self.new, zigzag] {
            while number > 0x7f {
                to.push(number as u8 | 0x80);
                number >>= 7;
            }
            to.push(number as u8);
        }
    }

    fn decode(sources: &mut impl Sources) -> Result<Self, Error> {
        let mut numbers = [0_u64; 4];
        for number in &mut numbers {
            let mut shift = 0;
            loop {
                let mut byte = [0];
                if !sources.steps(&mut byte) {
                    return Err(Error::Stream("steps"));
                }
                let bits = u64::from(byte[0] & 0x7f);
                if shift > 63 || (shift == 63 && bits > 1) {
                    return Err(Error::Number);
                }
                *number |= bits << shift;
                shift += 7;
                if byte[0] & 0x80 == 0 {
                    break;
                }
            }
        }
        let [copied, added, new, zigzag] = numbers;
        if (copied, added, new) == (0, 0, 0) {
            return Err(Error::Nothing);
        }
        let moved = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
        Ok(Self { copied, added, new, moved })
    }
}

/// A patch on its way: what it makes comes out in the new image's order, as much at a time as is asked for.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    /// What is left of the step.
    step: Step,
    /// Where the old image is read.
    at: u64,
}

impl Patch {
    /// The next bytes of the new image.
    pub fn fill(&mut self, sources: &mut impl Sources, mut into: &mut [u8]) -> Result<(), Error> {
        while !into.is_empty() {
            let Step { copied, added, new, moved } = self.step;
            let left = [copied, added, new].into_iter().find(|left| *left > 0);
            let Some(left) = left else {
                self.at = self.at.checked_add_signed(moved).ok_or(Error::Old)?;
                self.step = Step::decode(sources)?;
                continue;
            };
            let length = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (bytes, rest) = into.split_at_mut(length);
            into = rest;
            let length = length as u64;
            if copied > 0 {
                self.old(sources, bytes)?;
                self.step.copied -= length;
            } else if added > 0 {
                self.sum(sources, bytes)?;
                self.step.added -= length;
            } else {
                if !sources.news(bytes) {
                    return Err(Error::Stream("new bytes"));
                }
                self.step.new -= length;
            }
        }
        Ok(())
    }

    fn old(&mut self, sources: &mut impl Sources, into: &mut [u8]) -> Result<(), Error> {
        if !sources.old(self.at, into) {
            return Err(Error::Old);
        }
        self.at = self.at.checked_add(into.len() as u64).ok_or(Error::Old)?;
        Ok(())
    }

    fn sum(&mut self, sources: &mut impl Sources, into: &mut [u8]) -> Result<(), Error> {
        let mut differences = [0; 1024];
        for bytes in into.chunks_mut(differences.len()) {
            let differences = &mut differences[..bytes.len()];
            if !sources.differences(differences) {
                return Err(Error::Stream("differences"));
            }
            self.old(sources, bytes)?;
            for (byte, difference) in bytes.iter_mut().zip(differences) {
                *byte = byte.wrapping_add(*difference);
            }
        }
        Ok(())
    }
}
