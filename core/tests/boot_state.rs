//! What power cuts, flipped bits and lost partitions do to the boot state's copies: all of them, one by one, and
//! together at random. `PERIGEE_SEED=<seed>` repeats a row of random faults, `PERIGEE_FAULTS=<count>` makes more.

mod random;

use perigee_core::reset::{Cause, Entry, LEDGER_ENTRIES, WORDS_BYTES};
use perigee_core::slot::copies::{COPIES, Found, Lost, PLACES, Places, place_of, read};
use perigee_core::slot::record::{Error, RECORD_BYTES, Record};
use perigee_core::slot::{Rejected, Side, Slot, Standing, State};
use perigee_core::update::Release;
use perigee_core::watchdog::Vital;
use random::Random;
use sha2::{Digest, Sha256};

const SECTOR_BYTES: usize = 512;
const SECTORS: usize = RECORD_BYTES / SECTOR_BYTES;
/// Sectors of one write to all copies.
const WRITE_SECTORS: usize = COPIES * SECTORS;
const FAULTS: u64 = 2_000;

/// Three partitions, and a writer whose power may go.
#[derive(Clone)]
struct Disk([Places; COPIES]);

/// What stands in the sector that was being written when power went.
#[derive(Clone, Copy, Debug)]
enum Torn {
    Old,
    Zeros,
    Half,
    Noise(u64),
}

impl Disk {
    fn new() -> Self {
        Self([[Some([0; RECORD_BYTES]); PLACES]; COPIES])
    }

    fn holding(records: &[&Record]) -> Self {
        let mut disk = Self::new();
        records.iter().for_each(|record| disk.write(record));
        disk
    }

    fn write(&mut self, record: &Record) {
        self.write_until(record, WRITE_SECTORS, Torn::Old);
    }

    /// Writes the first `sectors` of the copies' sectors, and tears the next one.
    fn write_until(&mut self, record: &Record, sectors: usize, torn: Torn) {
        let bytes = record.encode();
        for at in 0..=sectors.min(WRITE_SECTORS - 1) {
            let Some(place) = &mut self.0[at / SECTORS][place_of(record.sequence)] else { continue };
            let range = at % SECTORS * SECTOR_BYTES..(at % SECTORS + 1) * SECTOR_BYTES;
            let half = range.start..range.start + SECTOR_BYTES / 2;
            match torn {
                _ if at < sectors => place[range.clone()].copy_from_slice(&bytes[range]),
                Torn::Old => {}
                Torn::Zeros => place[range].fill(0),
                Torn::Half => place[half.clone()].copy_from_slice(&bytes[half]),
                Torn::Noise(seed) => {
                    let mut random = Random::new(seed);
                    place[range].fill_with(|| random.next() as u8);
                }
            }
        }
    }

    fn read(&self) -> Result<Found, Lost> {
        read(&self.0)
    }

    fn record(&self) -> Record {
        self.read().unwrap_or_else(|lost| panic!("{lost}")).record
    }
}

/// States as a node has them, one after the other.
fn row(random: &mut Random, length: usize) -> Vec<Record> {
    let mut record = Record::first(State::new(Side::A, [true, true, true]));
    let mut row = vec![record.clone()];
    while row.len() < length {
        let mut state = record.state.clone();
        let slot = *random.pick(&Slot::ALL);
        match random.below(8) {
            0 => state.confirm(slot),
            1 => {
                state.end(Cause::Vital(*random.pick(&Vital::ALL)), random.next() as u32, "kubelet: PLEG is not healthy")
            }
            2 => state.reject(slot, "the kernel's SHA-256 differs"),
            3 => state.once = Some(slot),
            4 => state.account(Some(Cause::Watchdog)),
            5 => state.prefer(state.preferred.other()),
            6 => state.written(state.preferred, Release(random.next())),
            _ => drop(state.choose(Rejected::default())),
        }
        record = record.followed_by(state);
        row.push(record.clone());
    }
    row
}

fn three() -> [Record; 3] {
    let row = row(&mut Random::new(7), 12);
    [row[9].clone(), row[10].clone(), row[11].clone()]
}

#[test]
fn a_record_is_written_elsewhere_than_the_one_before_it() {
    let mut record = Record { sequence: u64::MAX - 1, ..Record::first(State::new(Side::A, [true; 3])) };
    for _ in 0..4 {
        let next = record.followed_by(record.state.clone());
        let [before, after] = [&record, &next].map(|record| place_of(record.sequence));
        assert!(before != after && after < PLACES, "{} after {}", next.sequence, record.sequence);
        record = next;
    }
}

#[test]
fn what_is_written_is_read() {
    let mut random = Random::new(1);
    for record in row(&mut random, 500) {
        assert_eq!(Record::decode(&record.encode()), Ok(record));
    }
}

#[test]
fn a_full_ledger_with_the_longest_words_of_every_kind_is_read_as_written() {
    let causes = [Cause::Unknown, Cause::Command, Cause::Watchdog, Cause::Panic, Cause::Rejected, Cause::StateLost];
    let causes = causes.into_iter().chain(Vital::ALL.map(Cause::Vital));
    let mut state = State::new(Side::B, [true, false, true]);
    state.standings = [Standing::Confirmed { left: 2 }, Standing::Empty, Standing::Trying { left: 1 }];
    (state.rounds, state.starts, state.last, state.once) = (200, u32::MAX, Some(Slot::Golden), Some(Slot::B));
    for (cause, start) in causes.cycle().zip(0..20) {
        state.ledger.push(Entry::new(start, Slot::B, cause, start * 7, &"é".repeat(300)));
    }
    let record = Record { sequence: u64::MAX, state };
    let read = Record::decode(&record.encode()).unwrap();
    assert_eq!(read, record);
    let ledger: Vec<_> = read.state.ledger.entries().collect();
    assert_eq!(ledger.len(), LEDGER_ENTRIES);
    assert_eq!((ledger[0].start, ledger[15].start, ledger[15].uptime_s), (4, 19, 133));
    assert!(ledger.iter().all(|entry| entry.words.as_str() == "é".repeat(WORDS_BYTES / 2)));
}

/// Bytes with a right checksum, whatever they say.
fn sealed(mut bytes: [u8; RECORD_BYTES]) -> [u8; RECORD_BYTES] {
    let end = RECORD_BYTES - 32;
    let checksum = Sha256::digest(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum);
    bytes
}

#[test]
fn a_whole_record_with_a_value_that_nobody_writes_is_named() {
    let [mut record, ..] = three();
    record.state.end(Cause::Panic, 1, "words");
    let good = record.encode();
    let entry = 480 + 224 * (record.state.ledger.entries().count() - 1);
    for (offset, value, field) in [
        (20, 0, "preferred slot"),
        (20, 3, "preferred slot"),
        (21, 4, "slot"),
        (22, 4, "slot"),
        (24, 3, "standing"),
        (30, 17, "number of ledger entries"),
        (entry + 8, 0, "ledger's slot"),
        (entry + 8, 4, "slot"),
        (entry + 9, 0, "cause"),
        (entry + 9, 7, "cause"),
        (entry + 9, 15, "cause"),
        (entry + 9, 20, "cause"),
        (entry + 10, 213, "length of words"),
        (entry + 10, 255, "length of words"),
    ] {
        let mut bytes = good;
        bytes[offset] = value;
        assert_eq!(Record::decode(&sealed(bytes)), Err(Error::Field { field, value }), "offset {offset}");
    }
    let mut bytes = good;
    bytes[entry + 12] = 0xff;
    assert!(matches!(Record::decode(&sealed(bytes)), Err(Error::Field { field: "length of words", .. })));
    let mut empty_with_tries = good;
    (empty_with_tries[24], empty_with_tries[25]) = (0, 1);
    assert!(matches!(Record::decode(&sealed(empty_with_tries)), Err(Error::Field { field: "standing", .. })));
    assert_eq!(Record::decode(&[0; RECORD_BYTES]), Err(Error::Magic));
}

#[test]
fn any_bytes_are_safe_to_read() {
    let mut random = Random::new(3);
    let [record, ..] = three();
    for _ in 0..3_000 {
        let mut bytes = record.encode();
        for _ in 0..=random.below(30) {
            bytes[8 + random.index(RECORD_BYTES - 40)] = random.next() as u8;
        }
        if let Ok(record) = Record::decode(&sealed(bytes)) {
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }
}

#[test]
fn every_byte_flipped_is_noticed() {
    for record in three() {
        let good = record.encode();
        for byte in 0..RECORD_BYTES {
            let mut bytes = good;
            bytes[byte] ^= 1 << (byte % 8);
            let expected = if byte < 8 { Error::Magic } else { Error::Checksum };
            assert_eq!(Record::decode(&bytes), Err(expected), "byte {byte}");
        }
    }
}

#[test]
fn flipped_bits_in_any_one_copy_change_nothing() {
    let [_, previous, newest] = three();
    let good = Disk::holding(&[&previous, &newest]);
    for (copy, place) in (0..COPIES).flat_map(|copy| (0..PLACES).map(move |place| (copy, place))) {
        for byte in (0..RECORD_BYTES).step_by(61) {
            let mut disk = good.clone();
            disk.0[copy][place].as_mut().unwrap()[byte] ^= 1 << (byte % 8);
            let found = disk.read().unwrap();
            assert_eq!(found.record, newest);
            let hurt = place == place_of(newest.sequence);
            assert_eq!(found.stale, [0, 1, 2].map(|other| hurt && other == copy), "copy {copy}, byte {byte}");
        }
    }
}

#[test]
fn a_write_torn_at_any_sector_leaves_the_old_or_the_new_state_and_one_partition_may_be_lost_too() {
    let [older, previous, newest] = three();
    let good = Disk::holding(&[&older, &previous]);
    let mut row = row(&mut Random::new(7), 14);
    let (next, after) = (row.remove(12), row.remove(12));
    for sectors in 0..=WRITE_SECTORS {
        for torn in [Torn::Old, Torn::Zeros, Torn::Half, Torn::Noise(sectors as u64)] {
            let mut disk = good.clone();
            disk.write_until(&newest, sectors, torn);
            let expected = if sectors >= SECTORS { &newest } else { &previous };
            assert_eq!(&disk.record(), expected, "{sectors} sectors, then {torn:?}");
            for lost in 0..COPIES {
                let mut disk = disk.clone();
                disk.0[lost] = [None; PLACES];
                let whole = (0..COPIES).filter(|copy| *copy != lost).any(|copy| sectors >= (copy + 1) * SECTORS);
                let expected = if whole { &newest } else { &previous };
                let found = disk.read().unwrap();
                assert_eq!(&found.record, expected, "{sectors} sectors, then {torn:?}, without copy {lost}");
                assert!(found.stale[lost]);
            }
            // Life goes on, from whichever it is.
            for following in [&next, &after] {
                let following = disk.record().followed_by(following.state.clone());
                disk.write(&following);
                let found = disk.read().unwrap();
                assert_eq!((found.record, found.stale), (following, [false; COPIES]));
            }
        }
    }
}

#[test]
fn one_partition_that_is_left_is_enough_and_none_is_an_error() {
    let [_, previous, newest] = three();
    for left in 0..COPIES {
        let mut disk = Disk::holding(&[&previous, &newest]);
        (0..COPIES).filter(|copy| *copy != left).for_each(|copy| disk.0[copy] = [None; PLACES]);
        let found = disk.read().unwrap();
        assert_eq!((found.record, found.stale), (newest.clone(), [0, 1, 2].map(|copy| copy != left)));
    }
    assert_eq!(Disk::new().read(), Err(Lost::All));
    assert_eq!(read(&[[None; PLACES]; COPIES]), Err(Lost::All));
}

#[test]
fn a_record_at_the_wrong_place_is_none() {
    let [_, _, newest] = three();
    let mut disk = Disk::new();
    disk.0[1][1 - place_of(newest.sequence)] = Some(newest.encode());
    assert_eq!(disk.read(), Err(Lost::All));
}

#[test]
fn whatever_each_copy_says_the_newest_majority_is_right_or_the_disagreement_is_named() {
    let [older, previous, newest] = three();
    let other = |seed: u32| {
        let mut record = newest.clone();
        record.state.starts = record.state.starts.wrapping_add(seed);
        record
    };
    let contents = [None, Some(older), Some(previous), Some(newest.clone()), Some(other(1)), Some(other(2))];
    for choice in 0..contents.len().pow(3) {
        let said = [choice % 6, choice / 6 % 6, choice / 36].map(|index| contents[index].as_ref());
        let mut disk = Disk::new();
        for (copy, record) in said.iter().enumerate() {
            if let Some(record) = record {
                disk.0[copy][place_of(record.sequence)] = Some(record.encode());
            }
        }
        let top = said.iter().flatten().map(|record| record.sequence).max();
        let voters: Vec<_> = said.into_iter().flatten().filter(|record| Some(record.sequence) == top).collect();
        let winner = voters.iter().find(|one| voters.iter().filter(|two| two == one).count() * 2 > voters.len());
        match (disk.read(), winner, top) {
            (Ok(found), Some(winner), _) => {
                assert_eq!(&found.record, *winner);
                assert_eq!(found.stale, said.map(|record| record != Some(winner)));
            }
            (Err(Lost::Disagreement { sequence }), None, Some(top)) => assert_eq!(sequence, top),
            (Err(Lost::All), None, None) => {}
            (read, ..) => panic!("{said:?} was read as {read:?}"),
        }
    }
}

/// One fault after the other, at random, each mended by the next write: never lost, never older than the last whole
/// write, never anything that nobody wrote.
#[test]
fn a_life_full_of_faults_loses_nothing() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("PERIGEE_SEED").unwrap_or(11);
    let faults = number("PERIGEE_FAULTS").unwrap_or(FAULTS);
    let mut random = Random::new(seed);
    let states = row(&mut random, 200);
    let mut last = Record::first(State::new(Side::A, [true; 3]));
    let mut disk = Disk::holding(&[&last]);
    for fault in 0..faults {
        let next = last.followed_by(random.pick(&states).state.clone());
        let copy = random.index(COPIES);
        let expected = match random.below(6) {
            0 => {
                let sectors = random.index(WRITE_SECTORS);
                let torn = *random.pick(&[Torn::Old, Torn::Zeros, Torn::Half, Torn::Noise(fault)]);
                disk.write_until(&next, sectors, torn);
                if sectors >= SECTORS { next } else { last }
            }
            1 => {
                disk.write(&next);
                disk.0[copy].iter_mut().for_each(|place| *place = Some([random.next() as u8; RECORD_BYTES]));
                next
            }
            2 => {
                disk.write(&next);
                let (place, byte) = (random.index(PLACES), random.index(RECORD_BYTES));
                disk.0[copy][place].as_mut().unwrap()[byte] ^= 1 << random.below(8);
                next
            }
            // The copy did not take the write, and said that it did.
            3 => {
                let before = disk.0[copy];
                disk.write(&next);
                disk.0[copy] = before;
                next
            }
            4 => {
                disk.write(&next);
                let (place, from) = (random.index(PLACES), random.index(RECORD_BYTES));
                let bytes = disk.0[copy][place].as_mut().unwrap();
                bytes[from..].iter_mut().take(1 + random.index(600)).for_each(|byte| *byte = random.next() as u8);
                next
            }
            _ => {
                disk.write(&next);
                next
            }
        };
        let found = disk.read().unwrap_or_else(|lost| panic!("PERIGEE_SEED={seed}: fault {fault}: {lost}"));
        assert_eq!(found.record, expected, "PERIGEE_SEED={seed}: fault {fault}");
        last = expected;
        // The loader writes the state before each start, and with that mends it.
        let mended = last.followed_by(last.state.clone());
        disk.write(&mended);
        assert_eq!(disk.read().unwrap().stale, [false; COPIES]);
        last = mended;
    }
    println!("{faults} faults, 0 wrong");
}
