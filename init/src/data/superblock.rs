//! The few fields of ext4's superblock that decide what is done with the partition.
//!
//! It begins 1,024 bytes into the partition; all fields are little endian (Documentation/filesystems/ext4/super.rst):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0x04 | 4 | blocks, low half |
//! | 0x18 | 4 | block size is 1,024 shifted left by this |
//! | 0x38 | 2 | magic, 0xEF53 |
//! | 0x3A | 2 | state; bit 1: errors were found |
//! | 0x60 | 4 | incompatible features; bit 7: 64 bit |
//! | 0x150 | 4 | blocks, high half, with that feature |

/// Where it begins in the partition.
pub const OFFSET: u64 = 1024;
/// How much of it is needed.
pub const LENGTH: usize = 1024;

const MAGIC: u16 = 0xEF53;
const STATE_ERRORS: u16 = 1 << 1;
const INCOMPAT_64BIT: u32 = 1 << 7;
/// 64 KiB, ext4's largest block.
const LARGEST_SHIFT: u32 = 6;

/// What the superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Size of the file system in blocks.
    pub blocks: u64,
    /// Size of a block.
    pub block_bytes: u64,
    /// The kernel met an error and noted it.
    pub errors: bool,
}

impl Superblock {
    /// None if these bytes are no superblock of ext4.
    pub fn parse(bytes: &[u8; LENGTH]) -> Option<Self> {
        let half = |offset: usize| u16::from_le_bytes([bytes[offset], bytes[offset + 1]]);
        let word = |offset: usize| u32::from(half(offset)) | u32::from(half(offset + 2)) << 16;
        let shift = word(0x18);
        if half(0x38) != MAGIC || shift > LARGEST_SHIFT {
            return None;
        }
        let high = if word(0x60) & INCOMPAT_64BIT != 0 { word(0x150) } else { 0 };
        Some(Self {
            blocks: u64::from(high) << 32 | u64::from(word(0x04)),
            block_bytes: 1024 << shift,
            errors: half(0x3A) & STATE_ERRORS != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0x04..0x08].copy_from_slice(&16384_u32.to_le_bytes());
        bytes[0x18] = 2;
        bytes[0x38..0x3A].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[0x3A] = 1;
        bytes
    }

    #[test]
    fn a_sound_one_is_read() {
        let expected = Superblock { blocks: 16384, block_bytes: 4096, errors: false };
        assert_eq!(Superblock::parse(&example()), Some(expected));
    }

    #[test]
    fn noted_errors_are_seen() {
        let mut bytes = example();
        bytes[0x3A] = 3;
        assert!(Superblock::parse(&bytes).unwrap().errors);
    }

    #[test]
    fn the_high_half_counts_with_its_feature_only() {
        let mut bytes = example();
        bytes[0x150] = 1;
        assert_eq!(Superblock::parse(&bytes).unwrap().blocks, 16384);
        bytes[0x60] = 0x80;
        assert_eq!(Superblock::parse(&bytes).unwrap().blocks, (1 << 32) + 16384);
    }

    #[test]
    fn any_bytes_are_a_superblock_or_none() {
        assert_eq!(Superblock::parse(&[0; LENGTH]), None);
        assert_eq!(Superblock::parse(&[0xFF; LENGTH]), None);
        let mut bytes = example();
        bytes[0x18] = 7;
        assert_eq!(Superblock::parse(&bytes), None);
        bytes = example();
        bytes[0x39] ^= 1;
        assert_eq!(Superblock::parse(&bytes), None);
    }
}
