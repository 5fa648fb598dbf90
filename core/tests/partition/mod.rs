//! A slot's partition in memory, with media faults.
//!
//! Each test crate uses what it needs of it.
#![allow(dead_code)]

use std::collections::BTreeSet;

use ed25519_dalek::{Signer, SigningKey};
use perigee_core::slot::header::{Arch, BLOCK_BYTES, Header, Layout, header_blocks};
use perigee_core::slot::scrub::Blocks;
use perigee_core::slot::verity::{Block, Fec, Tree, hash};
use sha2::{Digest, Sha256};

use crate::random::Random;

pub const ROOTS: u8 = 4;
pub const DATA_BLOCKS: u32 = 700;
/// Between the slot's end and the headers.
pub const GAP: u64 = 3;

/// A partition: some blocks cannot be read until they are written, some cannot be written.
#[derive(Clone)]
pub struct Disk {
    pub blocks: Vec<Block>,
    pub unreadable: BTreeSet<u64>,
    pub unwritable: BTreeSet<u64>,
    /// Blocks that stay as they are when they are written, and nothing is said of it.
    pub forgotten: BTreeSet<u64>,
    /// It does not say that what was written is on the medium.
    pub cannot_flush: bool,
}

impl Blocks for Disk {
    fn count(&self) -> u64 {
        self.blocks.len() as u64
    }

    fn read(&mut self, block: u64, into: &mut [u8]) -> bool {
        let count = (into.len() / BLOCK_BYTES) as u64;
        assert!(into.len().is_multiple_of(BLOCK_BYTES) && block + count <= self.count());
        into.copy_from_slice(self.blocks[block as usize..(block + count) as usize].as_flattened());
        self.unreadable.range(block..block + count).next().is_none()
    }

    fn write(&mut self, block: u64, bytes: &Block) -> bool {
        if self.unwritable.contains(&block) {
            return false;
        }
        if !self.forgotten.contains(&block) {
            self.unreadable.remove(&block);
            self.blocks[block as usize] = *bytes;
        }
        true
    }

    fn flush(&mut self) -> bool {
        !self.cannot_flush
    }
}

impl Disk {
    /// A slot of random data with its tree, its parity and its headers.
    pub fn new(seed: u64) -> (Self, Layout) {
        Self::with(seed, DATA_BLOCKS)
    }

    /// The same, with so many blocks of data.
    pub fn with(seed: u64, data_blocks: u32) -> (Self, Layout) {
        Self::with_roots(seed, data_blocks, ROOTS)
    }

    /// The same, with so many bytes of parity in a codeword.
    pub fn with_roots(seed: u64, data_blocks: u32, roots: u8) -> (Self, Layout) {
        let mut random = Random::new(seed);
        let tree = Tree::new(data_blocks);
        let fec = Fec::new(&tree, roots);
        let mut blocks = vec![[0; BLOCK_BYTES]; (tree.end + fec.parity_blocks() + GAP + 2) as usize];
        for block in &mut blocks[..data_blocks as usize] {
            block.fill_with(|| random.next() as u8);
        }
        // From the lowest level up: children stand behind their parents.
        for parent in tree.blocks().rev() {
            for (place, child) in tree.children(parent).enumerate() {
                let hash = hash(&blocks[child as usize]);
                blocks[parent as usize][place * 32..][..32].copy_from_slice(&hash);
            }
        }
        for group in 0..fec.groups() {
            let members: Vec<Block> =
                fec.group(group).map(|at| at.map_or([0; BLOCK_BYTES], |at| blocks[at as usize])).collect();
            let mut parity = vec![0; fec.parity_blocks_of_group() * BLOCK_BYTES];
            fec.parity(&members, &mut parity);
            let first = (tree.end + fec.parity_start(group)) as usize;
            blocks[first..first + usize::from(roots)].as_flattened_mut().copy_from_slice(&parity);
        }
        let end = tree.end + fec.parity_blocks();
        let layout = Layout {
            root_blocks: data_blocks - 1,
            data_blocks,
            fec_block: tree.end as u32,
            end_block: end as u32,
            fec_roots: roots,
            kernel_bytes: 5,
            kernel_sha256: [0; 32],
            root_hash: hash(&blocks[tree.top() as usize]),
            fec_sha256: Sha256::digest(blocks[tree.end as usize..end as usize].as_flattened()).into(),
        };
        let header = Header { arch: Arch::X86_64, layout, version: "1", command_line: "" };
        let header = header.encode(|bytes| key().sign(bytes).to_bytes()).expect("a layout that makes sense");
        for at in header_blocks(blocks.len() as u64) {
            blocks[at as usize] = header;
        }
        let [unreadable, unwritable, forgotten] = [const { BTreeSet::new() }; 3];
        (Self { blocks, unreadable, unwritable, forgotten, cannot_flush: false }, layout)
    }

    pub fn flip(&mut self, block: u64, random: &mut Random) {
        self.blocks[block as usize][random.index(BLOCK_BYTES)] ^= 1 << random.below(8);
    }

    /// All that a scrub is to bring back: what is between slot and headers is nobody's.
    pub fn is_as(&self, good: &Self) -> bool {
        self.blocks == good.blocks && self.unreadable.is_empty()
    }
}

pub fn key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}
