//! Bits flip in a slot, one or thousands, and regions are lost: a scrub brings back what it can, says what it cannot, and
//! nothing wrong is ever taken for right.
//!
//! It is the node's own code on a real slot in memory.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use ed25519_dalek::VerifyingKey;
use perigee_core::slot::header::{BLOCK_BYTES, HEADERS, Header, Layout, header_blocks};
use perigee_core::slot::scrub::{Blocks, Scrub, Tally as Found};
use perigee_core::slot::verity::Block;
use perigee_image::build::Arch;

use super::{Random, Tally};
use crate::card::partition;
use crate::lab::Lab;

/// Scrubs beside each other: for each, a slot is in memory three times.
const LANES: u32 = 2;
/// Flips at the most, as a power of two: one block in thirty, and with a burst more than some codewords can take.
const MOST_FLIPS_LOG2: u64 = 11;
/// The longest burst, blocks: 1 MiB.
const LONGEST_BURST: u64 = 256;

/// A slot's partition in memory.
#[derive(Clone)]
struct Memory {
    blocks: Vec<Block>,
    unreadable: BTreeSet<u64>,
}

impl Blocks for Memory {
    fn count(&self) -> u64 {
        self.blocks.len() as u64
    }

    fn read(&mut self, block: u64, into: &mut [u8]) -> bool {
        let end = block + (into.len() / BLOCK_BYTES) as u64;
        let Some(found) = self.blocks.get(block as usize..end as usize) else { return false };
        into.copy_from_slice(found.as_flattened());
        self.unreadable.range(block..end).next().is_none()
    }

    fn write(&mut self, block: u64, bytes: &Block) -> bool {
        self.unreadable.remove(&block);
        self.blocks[block as usize] = *bytes;
        true
    }

    fn flush(&mut self) -> bool {
        true
    }
}

/// What all lanes work on.
struct Bench {
    good: Memory,
    layout: Layout,
    key: VerifyingKey,
}

pub fn run(lab: &mut Lab, count: u32, mut random: Random) -> Result<Tally> {
    let built = lab.built(Arch::X86_64)?;
    let (disk, key) = (built.nodes[0].disk.clone(), built.slot_key);
    let slot = partition("slot-a")?;
    let mut blocks = vec![[0; BLOCK_BYTES]; usize::try_from(slot.length)? / BLOCK_BYTES];
    File::open(&disk)?.read_exact_at(blocks.as_flattened_mut(), slot.start).context("read slot-a")?;
    let [header, _] = header_blocks(blocks.len() as u64);
    let layout = Header::decode(&blocks[header as usize], &key)?.layout;
    let bench = Bench { good: Memory { blocks, unreadable: BTreeSet::new() }, layout, key };
    println!("campaign: slots of {} blocks", layout.end_block);
    super::beside((0..LANES).map(|lane| {
        let (bench, random) = (&bench, random.fork());
        move || bench.lane(lane, (lane..count).step_by(LANES as usize).len(), random)
    }))
}

impl Bench {
    fn lane(&self, lane: u32, count: usize, mut random: Random) -> Result<Tally> {
        let mut tally = Tally::default();
        let [mut slot, mut twin, mut damaged] = [(); 3].map(|()| self.good.clone());
        for number in 0..count {
            slot.clone_from(&self.good);
            let flips = self.damage(&mut slot, &mut random);
            let with_twin = random.below(2) == 0;
            if with_twin {
                twin.clone_from(&self.good);
                self.damage(&mut twin, &mut random);
            }
            damaged.clone_from(&slot);
            tally.tried += 1;
            match self.scrub(&mut slot, with_twin.then_some(&mut twin), &damaged, &mut random) {
                Ok(found) => {
                    tally.survived += 1;
                    tally.corrected += u32::from(found.lost == 0);
                    let Found { corrected, copied, lost, .. } = found;
                    println!(
                        "campaign: #{lane}.{number} {flips} flips, twin={with_twin}: corrected={corrected} \
                         copied={copied} lost={lost}"
                    );
                }
                Err(error) => {
                    println!("campaign: #{lane}.{number} {flips} flips, twin={with_twin}: {error:#}");
                    tally.lost += 1;
                }
            }
        }
        Ok(tally)
    }

    /// Flips bits, and in one of three loses a region; gives how many flips.
    fn damage(&self, slot: &mut Memory, random: &mut Random) -> u64 {
        let end = u64::from(self.layout.end_block);
        let most = 1 << random.below(MOST_FLIPS_LOG2 + 1);
        let flips = 1 + random.below(most);
        for _ in 0..flips {
            // The headers are damaged as often as any other block.
            let block = match random.below(end + 2) {
                header if header >= end => slot.count() - 1 - (header - end),
                block => block,
            };
            slot.blocks[block as usize][random.below(BLOCK_BYTES as u64) as usize] ^= 1 << random.below(8);
        }
        if random.below(3) == 0 {
            let start = random.below(end);
            let region = start..end.min(start + 1 + random.below(LONGEST_BURST));
            match random.below(3) {
                0 => slot.unreadable.extend(region),
                value => region.for_each(|block| slot.blocks[block as usize].fill((value as u8).wrapping_neg())),
            }
        }
        flips
    }

    /// Scrubs a damaged slot; an error says what is wrong and was not said to be lost.
    fn scrub(
        &self,
        slot: &mut Memory,
        mut twin: Option<&mut Memory>,
        damaged: &Memory,
        random: &mut Random,
    ) -> Result<Found> {
        let opened = Scrub::open(slot, twin.as_deref_mut(), &self.key, random.below(u64::MAX));
        let Some(mut scrub) = opened else {
            // Both headers are gone: the loader starts the other slot.
            return Ok(Found { lost: HEADERS as u64, ..Found::default() });
        };
        ensure!(scrub.layout() == self.layout, "another layout: {:?}", scrub.layout());
        while scrub.step(slot, twin.as_deref_mut()) {}
        let found = scrub.tally();
        let mut wrong = 0;
        for (at, (now, good)) in (0..).zip(slot.blocks.iter().zip(&self.good.blocks)) {
            if now != good {
                ensure!(*now == damaged.blocks[at as usize], "block {at} has been made wrong");
                wrong += 1;
            } else if slot.unreadable.contains(&at) {
                wrong += 1;
            }
        }
        ensure!(wrong <= found.lost, "{wrong} blocks are wrong, and {} were said to be lost", found.lost);
        Ok(found)
    }
}
