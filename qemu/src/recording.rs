//! What a machine wrote to its disk, in the order in which it did, and what of it a power cut would have left.
//!
//! QEMU's `blklogwrites` writes the log that Linux's dm-log-writes does (Documentation/admin-guide/device-mapper/
//! log-writes.rst): a superblock and then entries, each in whole sectors. All numbers are little-endian.
//!
//! | entry, offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | first sector |
//! | 8 | 8 | number of sectors |
//! | 16 | 8 | flags: 1 flush, 2 forced unit access, 4 discard, 8 mark |
//! | 24 | 8 | bytes of a mark's name; a write's data, as long as it says in sectors, follow in the next sector |

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// What QEMU counts in here, and what a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;
const MAGIC: u64 = 0x6a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FORCED: u64 = 2;
const DISCARD: u64 = 4;
/// Longer than any request that a disk is given.
const MOST_DATA_BYTES: u64 = 64 << 20;

/// What the disk was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everything before it is on the medium when it is done.
    Flush,
    /// Data at a place, `data_offset` bytes into the log.
    Write {
        /// Where the data are in the log.
        data_offset: u64,
        /// On the medium when it is done, whatever was not flushed before.
        forced: bool,
    },
    /// The place reads as zeros, or as before.
    Discard,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First sector.
    pub sector: u64,
    /// How many.
    pub sectors: u64,
    /// What.
    pub kind: Kind,
}

/// What becomes of a request that was not flushed when power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is on the medium.
    Kept,
    /// It never was.
    Dropped,
    /// So many of its sectors are.
    Torn(u64),
}

/// A log, read.
#[derive(Debug)]
pub struct Recording {
    log: File,
    /// In the order of the requests.
    pub entries: Vec<Entry>,
}

impl Recording {
    /// Reads the log at `path`. What was being logged when QEMU ended is left out.
    pub fn open(path: &Path) -> Result<Self> {
        let log = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let entries = entries(&log).with_context(|| format!("read {}", path.display()))?;
        Ok(Self { log, entries })
    }

    /// The first request that a power cut now could undo.
    pub fn unflushed(&self) -> usize {
        self.entries.iter().rposition(|entry| entry.kind == Kind::Flush).map_or(0, |flush| flush + 1)
    }

    /// Does to `disk` what the requests did; `fate` says what becomes of those that were not flushed.
    pub fn replay(&self, disk: &File, mut fate: impl FnMut(&Entry) -> Fate) -> Result<()> {
        let unflushed = self.unflushed();
        for (index, entry) in self.entries.iter().enumerate() {
            let Kind::Write { forced, .. } = entry.kind else { continue };
            match if index < unflushed || forced { Fate::Kept } else { fate(entry) } {
                Fate::Kept => self.write(disk, entry, entry.sectors)?,
                Fate::Dropped => {}
                Fate::Torn(sectors) => self.write(disk, entry, sectors)?,
            }
        }
        Ok(())
    }

    /// Writes the first `sectors` of a request to `disk`; does nothing for one that wrote nothing.
    pub fn write(&self, disk: &File, entry: &Entry, sectors: u64) -> Result<()> {
        let Kind::Write { data_offset, .. } = entry.kind else { return Ok(()) };
        let mut data = vec![0; usize::try_from(sectors.min(entry.sectors))? * SECTOR_BYTES];
        self.log.read_exact_at(&mut data, data_offset)?;
        Ok(disk.write_all_at(&data, entry.sector * SECTOR_BYTES as u64)?)
    }
}

fn entries(log: &File) -> Result<Vec<Entry>> {
    let length = log.metadata()?.len();
    if length < SECTOR_BYTES as u64 {
        // Power went before anything was written.
        return Ok(Vec::new());
    }
    let mut reader = BufReader::new(log);
    let mut sector = [0; SECTOR_BYTES];
    reader.read_exact(&mut sector).context("read the superblock")?;
    // QEMU writes the superblock with the first flush; what was logged before it is there all the same.
    if sector != [0; SECTOR_BYTES] {
        let (magic, version, unit) = (number(&sector, 0), number(&sector, 8), number(&sector, 24) as u32);
        ensure!(magic == MAGIC && version == VERSION, "no log of writes: magic {magic:#x}, version {version}");
        ensure!(unit as usize == SECTOR_BYTES, "the log counts in sectors of {unit} bytes, expected {SECTOR_BYTES}");
    }
    let mut at = SECTOR_BYTES as u64;
    let mut entries = Vec::new();
    loop {
        if reader.read_exact(&mut sector).is_err() {
            return Ok(entries);
        }
        at += SECTOR_BYTES as u64;
        let [first, sectors, flags] = [0, 8, 16].map(|offset| number(&sector, offset));
        let kind = match (flags, sectors) {
            // An entry that asks for nothing is none: the log's end.
            (0, 0) => return Ok(entries),
            (_, 0) if flags & FLUSH != 0 => Kind::Flush,
            _ if flags & DISCARD != 0 => Kind::Discard,
            _ => {
                let bytes = sectors.checked_mul(SECTOR_BYTES as u64).filter(|bytes| *bytes <= MOST_DATA_BYTES);
                let bytes = bytes.with_context(|| format!("a write of {sectors} sectors, {at} bytes into the log"))?;
                if at + bytes > length {
                    return Ok(entries);
                }
                let kind = Kind::Write { data_offset: at, forced: flags & FORCED != 0 };
                at += bytes;
                reader.seek(SeekFrom::Start(at))?;
                kind
            }
        };
        entries.push(Entry { sector: first, sectors, kind });
    }
}

fn number(sector: &[u8; SECTOR_BYTES], offset: usize) -> u64 {
    sector[offset..offset + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(numbers: &[u64]) -> Vec<u8> {
        let mut sector: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        sector.resize(SECTOR_BYTES, 0);
        sector
    }

    /// Two writes, a flush, two writes, a discard, a forced write, and the beginning of another.
    fn log() -> Vec<u8> {
        let data = |byte: u8, sectors: usize| vec![byte; sectors * SECTOR_BYTES];
        [
            sector(&[MAGIC, VERSION, 3, SECTOR_BYTES as u64]),
            sector(&[0, 1, 0]),
            data(1, 1),
            sector(&[1, 2, 0]),
            data(2, 2),
            sector(&[0, 0, FLUSH]),
            sector(&[0, 1, 0]),
            data(3, 1),
            sector(&[1, 3, 0]),
            data(4, 3),
            sector(&[7, 1, DISCARD]),
            sector(&[5, 1, FORCED]),
            data(5, 1),
            sector(&[6, 1, 0]),
            data(6, 1)[..100].to_vec(),
        ]
        .concat()
    }

    fn recording(name: &str, bytes: &[u8]) -> Result<Recording> {
        let path = std::env::temp_dir().join(format!("perigee-recording-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes)?;
        let recording = Recording::open(&path);
        std::fs::remove_file(&path)?;
        recording
    }

    /// The first byte of each of the disk's first eight sectors after a replay.
    fn replayed(name: &str, fate: impl FnMut(&Entry) -> Fate) -> Vec<u8> {
        let recording = recording(name, &log()).unwrap();
        let path = std::env::temp_dir().join(format!("perigee-disk-{}-{name}", std::process::id()));
        let disk = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        disk.set_len(8 * SECTOR_BYTES as u64).unwrap();
        recording.replay(&disk, fate).unwrap();
        std::fs::remove_file(&path).unwrap();
        let byte = |sector: u64| {
            let mut byte = [0];
            disk.read_exact_at(&mut byte, sector * SECTOR_BYTES as u64).unwrap();
            byte[0]
        };
        (0..8).map(byte).collect()
    }

    #[test]
    fn requests_are_read_in_their_order_and_an_unfinished_one_is_left_out() {
        let recording = recording("order", &log()).unwrap();
        let kinds: Vec<_> = recording.entries.iter().map(|entry| (entry.sector, entry.sectors)).collect();
        assert_eq!(kinds, [(0, 1), (1, 2), (0, 0), (0, 1), (1, 3), (7, 1), (5, 1)]);
        assert_eq!(recording.unflushed(), 3);
    }

    #[test]
    fn what_was_flushed_or_forced_stays_and_the_rest_has_its_fate() {
        assert_eq!(replayed("kept", |_| Fate::Kept), [3, 4, 4, 4, 0, 5, 0, 0]);
        assert_eq!(replayed("dropped", |_| Fate::Dropped), [1, 2, 2, 0, 0, 5, 0, 0]);
        assert_eq!(replayed("torn", |entry| Fate::Torn(entry.sectors - 1)), [1, 4, 4, 0, 0, 5, 0, 0]);
    }

    #[test]
    fn power_may_go_before_the_superblock_or_anything_is_written() {
        assert!(recording("nothing", &[]).unwrap().entries.is_empty());
        let mut unflushed = log();
        unflushed[..SECTOR_BYTES].fill(0);
        assert_eq!(recording("unflushed", &unflushed).unwrap().entries.len(), 7);
    }

    #[test]
    fn other_bytes_are_no_log() {
        for (name, bytes) in [("noise", vec![0xA5; 1024]), ("unit", sector(&[MAGIC, VERSION, 0, 4096]))] {
            assert!(recording(name, &bytes).is_err(), "{name}");
        }
        let lies = [sector(&[MAGIC, VERSION, 1, 512]), sector(&[0, u64::MAX, 0])].concat();
        assert!(recording("lies", &lies).is_err());
        let cut = recording("cut", &log()[..SECTOR_BYTES * 2]).unwrap();
        assert!(cut.entries.is_empty());
    }
}
