//! GUID partition tables (UEFI specification 2.10, chapter 5), written byte for byte the same for the same input.
//!
//! | sector | what |
//! |---|---|
//! | 0 | protective MBR: one partition of type 0xEE over the whole disk |
//! | 1 | header (92 bytes used, little-endian, CRC-32 over it and over the entries) |
//! | 2–33 | 128 entries of 128 bytes |
//! | last 33 | the same entries, then the header again, each pointing at the other |

use std::fmt::{self, Display};

use anyhow::{Result, ensure};
use sha2::{Digest, Sha256};

/// Bytes in a logical block of SD, eMMC and QEMU's disks.
pub const SECTOR_BYTES: u64 = 512;
/// Every partition begins and ends on this: an eMMC erase group, so that no two partitions share one.
pub const ALIGNMENT_BYTES: u64 = 4 << 20;
/// Entries in a table: the specification's minimum (16 KiB).
const ENTRIES: usize = 128;
const ENTRY_BYTES: usize = 128;
const HEADER_BYTES: usize = 92;
const TABLE_SECTORS: u64 = (ENTRIES * ENTRY_BYTES) as u64 / SECTOR_BYTES;
/// Longest name, UTF-16 units.
const NAME_UNITS: usize = 36;

/// A GUID, in the order in which it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guid([u8; 16]);

impl Guid {
    /// EFI System Partition.
    pub const ESP: Self = Self(0xC12A_7328_F81F_11D2_BA4B_00A0_C93E_C93B_u128.to_be_bytes());
    /// Linux file system data.
    pub const LINUX: Self = Self(0x0FC6_3DAF_8483_4772_8E79_3D69_D847_7DE4_u128.to_be_bytes());

    /// The same GUID for the same words: version 8 (RFC 9562, section 5.8), from their SHA-256.
    pub fn derive(words: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for word in words {
            hash.update((word.len() as u64).to_le_bytes());
            hash.update(word);
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// On the disk the first three fields are little-endian.
    fn on_disk(self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes[0..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }
}

impl Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// What the kernel finds it by: `PARTLABEL=`.
    pub name: &'static str,
    /// What it is for, to firmware.
    pub kind: Guid,
    /// Its own.
    pub id: Guid,
    /// Where it begins, bytes from the disk's start.
    pub start: u64,
    /// How long it is, bytes.
    pub length: u64,
}

impl Partition {
    fn end(&self) -> u64 {
        self.start + self.length
    }
}

/// Both copies of a table, as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// From the disk's first byte.
    pub head: Vec<u8>,
    /// Up to the disk's last byte.
    pub tail: Vec<u8>,
}

/// The tables of a disk of `disk_bytes`.
///
/// # Errors
/// Partitions that are not aligned, overlap, do not fit, or have a name that is too long.
pub fn tables(disk: Guid, disk_bytes: u64, partitions: &[Partition]) -> Result<Tables> {
    ensure!(disk_bytes.is_multiple_of(SECTOR_BYTES), "a disk of {disk_bytes} bytes is no whole number of sectors");
    ensure!(partitions.len() <= ENTRIES, "{} partitions, at most {ENTRIES} fit", partitions.len());
    let last = disk_bytes / SECTOR_BYTES - 1;
    let (first_usable, last_usable) = (2 + TABLE_SECTORS, last - TABLE_SECTORS - 1);
    let mut free_from = first_usable * SECTOR_BYTES;
    let mut entries = vec![0; ENTRIES * ENTRY_BYTES];
    for (partition, entry) in partitions.iter().zip(entries.chunks_exact_mut(ENTRY_BYTES)) {
        let name = partition.name;
        let aligned = [partition.start, partition.length].iter().all(|bytes| bytes.is_multiple_of(ALIGNMENT_BYTES));
        ensure!(aligned && partition.length > 0, "{name} is not aligned to {ALIGNMENT_BYTES} bytes");
        ensure!(partition.start >= free_from, "{name} begins inside what is before it");
        ensure!(partition.end() <= (last_usable + 1) * SECTOR_BYTES, "{name} ends behind the disk's usable part");
        ensure!(name.encode_utf16().count() <= NAME_UNITS, "{name}: a name has at most {NAME_UNITS} letters");
        free_from = partition.end();
        entry[..16].copy_from_slice(&partition.kind.on_disk());
        entry[16..32].copy_from_slice(&partition.id.on_disk());
        entry[32..40].copy_from_slice(&(partition.start / SECTOR_BYTES).to_le_bytes());
        entry[40..48].copy_from_slice(&(partition.end() / SECTOR_BYTES - 1).to_le_bytes());
        for (unit, place) in name.encode_utf16().zip(entry[56..].chunks_exact_mut(2)) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }
    let usable = (first_usable, last_usable);
    let mut head = protective_mbr(last);
    head.extend(header(disk, &entries, 1, last, 2, usable));
    head.extend(&entries);
    let mut tail = entries.clone();
    tail.extend(header(disk, &entries, last, 1, last - TABLE_SECTORS, usable));
    Ok(Tables { head, tail })
}

fn protective_mbr(last_sector: u64) -> Vec<u8> {
    let mut mbr = vec![0; SECTOR_BYTES as usize];
    let sectors = u32::try_from(last_sector).unwrap_or(u32::MAX);
    // Not bootable, "from cylinder 0, head 0, sector 2", type, "to the end", first sector, length.
    mbr[446..454].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    mbr[454..458].copy_from_slice(&1_u32.to_le_bytes());
    mbr[458..462].copy_from_slice(&sectors.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

fn header(disk: Guid, entries: &[u8], own: u64, other: u64, entries_at: u64, usable: (u64, u64)) -> Vec<u8> {
    let mut header = Vec::with_capacity(SECTOR_BYTES as usize);
    header.extend(b"EFI PART");
    header.extend(0x0001_0000_u32.to_le_bytes());
    header.extend((HEADER_BYTES as u32).to_le_bytes());
    header.extend([0; 8]); // the header's CRC-32, filled in below, and four reserved bytes
    for sector in [own, other, usable.0, usable.1] {
        header.extend(sector.to_le_bytes());
    }
    header.extend(disk.on_disk());
    header.extend(entries_at.to_le_bytes());
    header.extend((ENTRIES as u32).to_le_bytes());
    header.extend((ENTRY_BYTES as u32).to_le_bytes());
    header.extend(crc32fast::hash(entries).to_le_bytes());
    let crc = crc32fast::hash(&header);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    header.resize(SECTOR_BYTES as usize, 0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const DISK: Guid = Guid([7; 16]);

    fn partition(name: &'static str, start: u64, length: u64) -> Partition {
        Partition { name, kind: Guid::LINUX, id: Guid::derive(&[name]), start, length }
    }

    fn field(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn a_guid_is_printed_and_stored_as_the_specification_says() {
        assert_eq!(Guid::ESP.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
        assert_eq!(Guid::ESP.on_disk()[..8], [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11]);
    }

    #[test]
    fn both_headers_check_out_and_point_at_each_other() {
        let tables = tables(DISK, 64 * MIB, &[partition("data", 4 * MIB, 8 * MIB)]).unwrap();
        let (first, second) = (&tables.head[512..1024], &tables.tail[tables.tail.len() - 512..]);
        for header in [first, second] {
            let mut zeroed = header[..HEADER_BYTES].to_vec();
            zeroed[16..20].fill(0);
            assert_eq!(header[16..20], crc32fast::hash(&zeroed).to_le_bytes());
            assert_eq!(header[88..92], crc32fast::hash(&tables.head[1024..]).to_le_bytes());
        }
        assert_eq!((field(first, 24), field(first, 32)), (field(second, 32), field(second, 24)));
        assert_eq!(field(second, 24), 64 * MIB / 512 - 1);
        assert_eq!(tables.head.len(), 34 * 512);
        assert_eq!(tables.tail.len(), 33 * 512);
    }

    #[test]
    fn the_loader_finds_in_both_tables_what_is_written_here() {
        use perigee_core::gpt::{FIRST_HEADER, Table};
        let data = partition("data", 4 * MIB, 8 * MIB);
        let tables = tables(DISK, 64 * MIB, std::slice::from_ref(&data)).unwrap();
        let sector = |bytes: &[u8], at: usize| bytes[at..at + 512].try_into().unwrap();
        let (entries, last) = (&tables.head[1024..], 64 * MIB / 512 - 1);
        let first = Table::decode(&sector(&tables.head, 512), FIRST_HEADER).unwrap();
        let second = Table::decode(&sector(&tables.tail, tables.tail.len() - 512), last).unwrap();
        assert_eq!((first.entries_sector, second.entries_sector), (2, last - TABLE_SECTORS));
        for table in [first, second] {
            let found = table.find(entries, "data").unwrap().unwrap();
            assert_eq!((Guid(found.id), found.start, found.sectors), (data.id, 4 * MIB / 512, 8 * MIB / 512));
        }
    }

    #[test]
    fn an_entry_holds_first_and_last_sector_and_its_name() {
        let tables = tables(DISK, 64 * MIB, &[partition("data", 4 * MIB, 8 * MIB)]).unwrap();
        let entry = &tables.head[1024..1152];
        assert_eq!((field(entry, 32), field(entry, 40)), (8192, 8192 + 16384 - 1));
        assert_eq!(entry[56..66], *b"d\0a\0t\0a\0\0\0");
    }

    #[test]
    fn overlapping_unaligned_and_overlong_partitions_are_refused() {
        let cases = [
            (vec![partition("a", 4 * MIB, 8 * MIB), partition("b", 8 * MIB, 4 * MIB)], "b begins inside"),
            (vec![partition("a", 5 * MIB, 4 * MIB)], "not aligned"),
            (vec![partition("a", 4 * MIB, 64 * MIB)], "ends behind"),
            (vec![partition("a", 0, 4 * MIB)], "begins inside"),
        ];
        for (partitions, expected) in cases {
            let error = tables(DISK, 64 * MIB, &partitions).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
