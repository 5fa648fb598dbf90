//! A partition table: what is right is found, what is damaged is refused by name, and any bytes are safe to read. That the
//! image builder's tables are read is a test of the builder.

mod random;

use perigee_core::gpt::{Error, FIRST_HEADER, Partition, SECTOR_BYTES, Table};
use random::Random;

/// One entry, called `data`, from sector 8 to 15.
fn entries() -> [u8; 4 * 128] {
    let mut entries = [0; 4 * 128];
    entries[..16].fill(1);
    for (byte, value) in entries[16..32].iter_mut().zip(0..) {
        *byte = value;
    }
    entries[32..40].copy_from_slice(&8_u64.to_le_bytes());
    entries[40..48].copy_from_slice(&15_u64.to_le_bytes());
    for (place, letter) in entries[56..64].chunks_exact_mut(2).zip(*b"data") {
        place[0] = letter;
    }
    entries
}

fn header(entries: &[u8]) -> [u8; SECTOR_BYTES] {
    let mut header = [0; SECTOR_BYTES];
    header[..8].copy_from_slice(b"EFI PART");
    header[12..16].copy_from_slice(&92_u32.to_le_bytes());
    header[24..32].copy_from_slice(&FIRST_HEADER.to_le_bytes());
    header[72..80].copy_from_slice(&2_u64.to_le_bytes());
    header[80..84].copy_from_slice(&((entries.len() / 128) as u32).to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    header[88..92].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
    sealed(header)
}

fn sealed(mut header: [u8; SECTOR_BYTES]) -> [u8; SECTOR_BYTES] {
    header[16..20].fill(0);
    let crc = crc32fast::hash(&header[..92]);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    header
}

#[test]
fn a_partition_is_found_by_its_whole_name() {
    let entries = entries();
    let table = Table::decode(&header(&entries), FIRST_HEADER).unwrap();
    assert_eq!((table.entries_sector, table.entries_bytes()), (2, 512));
    // The first three fields of a GUID stand the other way round.
    let id = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    assert_eq!(table.find(&entries, "data"), Ok(Some(Partition { id, start: 8, sectors: 8 })));
    for other in ["dat", "data2", "DATA"] {
        assert_eq!(table.find(&entries, other), Ok(None), "{other}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (good, entries) = (header(&entries()), entries());
    for bit in 0..92 * 8 {
        let mut damaged = good;
        damaged[bit / 8] ^= 1 << (bit % 8);
        let error = Table::decode(&damaged, FIRST_HEADER).unwrap_err();
        let expected = match bit / 8 {
            0..8 => Error::Magic,
            12..16 => Error::Field("header size"),
            _ => Error::Checksum("header"),
        };
        assert_eq!(error, expected, "bit {bit}");
    }
    let table = Table::decode(&good, FIRST_HEADER).unwrap();
    for bit in 0..entries.len() * 8 {
        let mut damaged = entries;
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(table.find(&damaged, "data"), Err(Error::Checksum("entries")), "bit {bit}");
    }
    assert_eq!(table.find(&entries[..300], "data"), Err(Error::Checksum("entries")));
}

#[test]
fn what_is_whole_and_makes_no_sense_is_named() {
    let good = header(&entries());
    let with = |offset: usize, value: u32| {
        let mut header = good;
        header[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        Table::decode(&sealed(header), FIRST_HEADER)
    };
    for (offset, value, field) in [
        (24, 7, "own place"),
        (80, 0, "number of entries"),
        (80, 129, "number of entries"),
        (80, u32::MAX, "number of entries"),
        (84, 64, "size of an entry"),
    ] {
        assert_eq!(with(offset, value), Err(Error::Field(field)), "{value} at {offset}");
    }
    let mut backwards = entries();
    backwards[32..40].copy_from_slice(&16_u64.to_le_bytes());
    let table = Table::decode(&header(&backwards), FIRST_HEADER).unwrap();
    assert_eq!(table.find(&backwards, "data"), Err(Error::Field("partition's end")));
    let mut endless = entries();
    endless[32..40].fill(0);
    endless[40..48].fill(0xff);
    let table = Table::decode(&header(&endless), FIRST_HEADER).unwrap();
    assert_eq!(table.find(&endless, "data"), Err(Error::Field("partition's end")));
}

#[test]
fn any_bytes_are_safe_to_read() {
    let mut random = Random::new(4);
    for _ in 0..5_000 {
        let mut entries = entries();
        for _ in 0..random.below(20) {
            entries[random.index(128)] = random.next() as u8;
        }
        let mut header = header(&entries);
        for _ in 0..random.below(4) {
            header[random.index(92)] = random.next() as u8;
        }
        if let Ok(table) = Table::decode(&sealed(header), FIRST_HEADER) {
            let _ = table.find(&entries, "data");
        }
    }
}
