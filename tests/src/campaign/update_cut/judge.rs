//! What a loader would start from a disk, and whether that is whole.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use ed25519_dalek::VerifyingKey;
use perigee_core::slot::copies::{COPIES, NAMES, PLACES, Places, read};
use perigee_core::slot::header::{BLOCK_BYTES, Header, header_blocks};
use perigee_core::slot::record::RECORD_BYTES;
use perigee_core::slot::scrub::{Blocks, Scrub};
use perigee_core::slot::verity::Block;
use perigee_core::slot::{Choice, Rejected, Slot};
use perigee_image::node::Built;
use perigee_qemu::recording::{Entry, SECTOR_BYTES};
use sha2::{Digest as _, Sha256};

use crate::card::partition;
use crate::release::Release;

/// Looks at a disk after each of its writes.
pub struct Judge {
    key: VerifyingKey,
    /// The versions that may run.
    versions: [String; 2],
    /// The boot state's partitions, in bytes of the disk.
    states: [Range<u64>; COPIES],
    /// The slots' partitions.
    slots: [Range<u64>; 3],
    /// Slots that were whole and have not been written to since.
    whole: [bool; 3],
    /// How often it had to look.
    pub judged: u64,
}

impl Judge {
    /// For nodes that have what was built, and may have `release`.
    pub fn new(built: &Built, release: &Release) -> Result<Self> {
        let place = |name: &str| partition(name).map(|partition| partition.start..partition.start + partition.length);
        let [a, b, golden] = Slot::ALL.map(|slot| place(slot.name()));
        let [first, second, third] = NAMES.map(place);
        Ok(Self {
            key: built.slot_key,
            versions: [built.slot.version().to_owned(), release.version.clone()],
            states: [first?, second?, third?],
            slots: [a?, b?, golden?],
            whole: [false; 3],
            judged: 0,
        })
    }

    /// Judges `disk` after a write to it, if what would start may have changed with that.
    ///
    /// # Errors
    /// Nothing would start, or something that is not whole.
    pub fn judge(&mut self, disk: &File, written: &Entry) -> Result<()> {
        let bytes = written.sector * SECTOR_BYTES as u64..(written.sector + written.sectors) * SECTOR_BYTES as u64;
        let is_in = |place: &Range<u64>| bytes.start < place.end && place.start < bytes.end;
        for (slot, whole) in self.slots.iter().zip(&mut self.whole) {
            *whole &= !is_in(slot);
        }
        if !self.slots.iter().chain(&self.states).any(is_in) {
            return Ok(());
        }
        self.judged += 1;
        let slot = self.starts(disk)?;
        ensure!(slot != Slot::Golden, "golden would start");
        if !self.whole[slot as usize] {
            self.check(disk, slot).with_context(|| format!("{} would start", slot.name()))?;
            self.whole[slot as usize] = true;
        }
        Ok(())
    }

    /// Flips a bit of the slot that would start, and fails unless that is found: what finds nothing may look at nothing.
    pub fn sees_a_flipped_bit(&self, disk: &File) -> Result<()> {
        let slot = self.starts(disk)?;
        let (at, mut byte) = (self.slots[slot as usize].start + BLOCK_BYTES as u64, [0]);
        disk.read_exact_at(&mut byte, at)?;
        disk.write_all_at(&[byte[0] ^ 4], at)?;
        ensure!(self.check(disk, slot).is_err(), "a flipped bit in {} is not seen", slot.name());
        Ok(disk.write_all_at(&byte, at)?)
    }

    /// What the loader would start. It need not reject anything on the way: nothing that is not whole is to be tried.
    fn starts(&self, disk: &File) -> Result<Slot> {
        let mut copies: [Places; COPIES] = Default::default();
        for (place, copy) in self.states.iter().zip(&mut copies) {
            for (number, record) in (0..PLACES as u64).zip(copy) {
                let mut bytes = [0; RECORD_BYTES];
                disk.read_exact_at(&mut bytes, place.start + number * RECORD_BYTES as u64)?;
                *record = Some(bytes);
            }
        }
        let mut state = read(&copies)?.record.state;
        match state.choose(Rejected::default()) {
            Choice::Start { slot, .. } => Ok(slot),
            Choice::Reset { .. } => bail!("no slot can be started"),
        }
    }

    /// Header, kernel, root, tree and parity are all of one image.
    fn check(&self, disk: &File, slot: Slot) -> Result<()> {
        let place = &self.slots[slot as usize];
        let mut medium = Medium { disk, start: place.start, blocks: (place.end - place.start) / BLOCK_BYTES as u64 };
        let mut block = [0; BLOCK_BYTES];
        ensure!(medium.read(header_blocks(medium.blocks)[0], &mut block), "its header cannot be read");
        let header = Header::decode(&block, &self.key)?;
        ensure!(self.versions.iter().any(|version| version == header.version), "it has version {}", header.version);
        let mut kernel = vec![0; usize::try_from(header.layout.kernel_bytes)?];
        disk.read_exact_at(&mut kernel, place.start + header.layout.kernel().start * BLOCK_BYTES as u64)?;
        ensure!(Sha256::digest(&kernel)[..] == header.layout.kernel_sha256, "its kernel is another's");
        let mut scrub = Scrub::open(&mut medium, None, &self.key, 0).context("it has no header")?;
        while scrub.step(&mut medium, None) {}
        ensure!(scrub.tally().wrong() == 0, "it is not whole: {:?}", scrub.tally());
        Ok(())
    }
}

/// A slot's partition, which nobody writes to: what would have to be mended is wrong.
struct Medium<'a> {
    disk: &'a File,
    start: u64,
    blocks: u64,
}

impl Blocks for Medium<'_> {
    fn count(&self) -> u64 {
        self.blocks
    }

    fn read(&mut self, block: u64, into: &mut [u8]) -> bool {
        self.disk.read_exact_at(into, self.start + block * BLOCK_BYTES as u64).is_ok()
    }

    fn write(&mut self, _: u64, _: &Block) -> bool {
        false
    }

    fn flush(&mut self) -> bool {
        true
    }
}
