//! Slots' partitions: which devices they are, and their blocks as they are on the medium.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use perigee_core::slot::header::BLOCK_BYTES;
use perigee_core::slot::scrub::Blocks;
use perigee_core::slot::verity::Block;
use perigee_core::uevent;
use rustix::fs::Advice;

/// The device of the partition `name`.
pub fn device(name: &str) -> Option<PathBuf> {
    let uevents = fs::read_dir("/sys/class/block").ok()?;
    let uevents = uevents.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("uevent")).ok());
    uevent::partitions(uevents).get(name).map(|device| Path::new("/dev").join(device))
}

/// A slot's partition, read from the medium each time: what is in memory may be right when the medium is not.
#[derive(Debug)]
pub struct Partition {
    file: File,
    blocks: u64,
}

impl Partition {
    /// A partition that can be read and written.
    ///
    /// # Errors
    /// It cannot be opened, or has no end.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let blocks = file.seek(SeekFrom::End(0))? / BLOCK_BYTES as u64;
        Ok(Self { file, blocks })
    }
}

impl Blocks for Partition {
    fn count(&self) -> u64 {
        self.blocks
    }

    fn read(&mut self, block: u64, into: &mut [u8]) -> bool {
        let offset = block * BLOCK_BYTES as u64;
        let length = std::num::NonZero::new(into.len() as u64);
        let forget = || rustix::fs::fadvise(&self.file, offset, length, Advice::DontNeed);
        // What is in memory is not the medium.
        if forget().is_err() {
            return false;
        }
        let read = self.file.read_exact_at(into, offset).is_ok();
        // Nobody else reads it from memory. If it stays there, that costs some until the kernel wants it back.
        let _ = forget();
        read
    }

    fn write(&mut self, block: u64, bytes: &Block) -> bool {
        self.file.write_all_at(bytes, block * BLOCK_BYTES as u64).is_ok()
    }

    fn flush(&mut self) -> bool {
        self.file.sync_data().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_read_and_written_by_blocks_and_not_beyond_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slot");
        fs::write(&path, [1; 3 * BLOCK_BYTES]).unwrap();
        let mut partition = Partition::open(&path).unwrap();
        assert_eq!(partition.count(), 3);
        assert!(partition.write(1, &[2; BLOCK_BYTES]) && partition.flush());
        let mut found = [0; 2 * BLOCK_BYTES];
        assert!(partition.read(1, &mut found));
        assert!(found[..BLOCK_BYTES] == [2; BLOCK_BYTES] && found[BLOCK_BYTES..] == [1; BLOCK_BYTES]);
        assert!(!partition.read(2, &mut found));
    }
}
