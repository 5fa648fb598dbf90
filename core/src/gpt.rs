//! Finding partitions: a GUID partition table as it is read (UEFI specification 2.11, section 5.3).
//!
//! A disk has two tables, one at each end. Whoever reads takes the first, and the other where that is damaged.

use thiserror::Error;

/// Bytes in a logical block of SD, eMMC and QEMU's disks.
pub const SECTOR_BYTES: usize = 512;
/// Where the first table's header is.
pub const FIRST_HEADER: u64 = 1;
const MAGIC: &[u8; 8] = b"EFI PART";
/// The specification's length of a header; a longer one would have to be of a later version.
const HEADER_BYTES: usize = 92;
/// Of the header's own checksum.
const HEADER_CRC: core::ops::Range<usize> = 16..20;
const ENTRY_BYTES: usize = 128;
/// The specification's least number, which everybody writes: more is no table of ours.
const MAX_ENTRIES: usize = 128;
/// In an entry, its name: UTF-16.
const NAME: core::ops::Range<usize> = 56..128;

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Nothing was written here, or what was is gone.
    #[error("no partition table")]
    Magic,
    /// Bits flipped.
    #[error("a damaged partition table: the checksum of its {0} differs")]
    Checksum(&'static str),
    /// Whole, and yet not one to read.
    #[error("the partition table's {0} makes no sense")]
    Field(&'static str),
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    entries: usize,
    entries_crc: u32,
    /// The first sector of the entries.
    pub entries_sector: u64,
}

/// A partition. Sectors are counted from the disk's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its own GUID, in the order in which it is printed.
    pub id: [u8; 16],
    /// The first sector.
    pub start: u64,
    /// How many there are.
    pub sectors: u64,
}

impl Table {
    /// Reads the header in `sector`, which stands at `at`.
    pub fn decode(sector: &[u8; SECTOR_BYTES], at: u64) -> Result<Self, Error> {
        if !sector.starts_with(MAGIC) {
            return Err(Error::Magic);
        }
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&sector[..HEADER_BYTES]);
        let crc = number(&header[HEADER_CRC]) as u32;
        header[HEADER_CRC].fill(0);
        if number(&header[12..16]) != HEADER_BYTES as u64 {
            return Err(Error::Field("header size"));
        }
        if crc32fast::hash(&header) != crc {
            return Err(Error::Checksum("header"));
        }
        if number(&header[24..32]) != at {
            return Err(Error::Field("own place"));
        }
        let entries = number(&header[80..84]);
        let entries = usize::try_from(entries).ok().filter(|entries| (1..=MAX_ENTRIES).contains(entries));
        if number(&header[84..88]) != ENTRY_BYTES as u64 {
            return Err(Error::Field("size of an entry"));
        }
        Ok(Self {
            entries: entries.ok_or(Error::Field("number of entries"))?,
            entries_crc: number(&header[88..92]) as u32,
            entries_sector: number(&header[72..80]),
        })
    }

    /// Length of the entries, a whole number of sectors.
    pub const fn entries_bytes(&self) -> usize {
        (self.entries * ENTRY_BYTES).next_multiple_of(SECTOR_BYTES)
    }

    /// Finds the partition called `name` in the entries, which are [`Table::entries_bytes`] long.
    pub fn find(&self, entries: &[u8], name: &str) -> Result<Option<Partition>, Error> {
        let entries = entries.get(..self.entries * ENTRY_BYTES).ok_or(Error::Checksum("entries"))?;
        if crc32fast::hash(entries) != self.entries_crc {
            return Err(Error::Checksum("entries"));
        }
        let Some(entry) = entries.chunks_exact(ENTRY_BYTES).find(|entry| is_called(&entry[NAME], name)) else {
            return Ok(None);
        };
        let (start, end) = (number(&entry[32..40]), number(&entry[40..48]));
        let sectors = end.checked_sub(start).and_then(|length| length.checked_add(1));
        let mut id = [0; 16];
        id.copy_from_slice(&entry[16..32]);
        // On the disk the first three fields are little-endian.
        id[0..4].reverse();
        id[4..6].reverse();
        id[6..8].reverse();
        Ok(Some(Partition { id, start, sectors: sectors.ok_or(Error::Field("partition's end"))? }))
    }
}

fn is_called(units: &[u8], name: &str) -> bool {
    let units = units.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    units.take_while(|unit| *unit != 0).eq(name.encode_utf16())
}

/// Little-endian, up to 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
