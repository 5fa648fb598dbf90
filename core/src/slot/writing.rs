//! Writing a slot from what cannot be computed: its header and its data blocks.
//!
//! Blocks come in their order. Each is hashed as it comes; then the tree is made of the hashes and the parity of what is
//! on the medium, and the headers, without which there is no slot, come last. A block that the partition has already is not
//! written: two releases have most in common, and flash wears.
//!
//! The header is signed, and has the hashes of tree and parity: if what was made is not what was signed, no header is
//! written.

use alloc::vec;
use alloc::vec::Vec;

use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::header::{self, Arch, BLOCK_BYTES, Header, Layout, header_blocks};
use super::scrub::Blocks;
use super::verity::{Block, Fec, HASH_BYTES, Tree, hash};

/// Groups of the error correction that are made at a time: their blocks lie side by side, and are read so. A mebibyte
/// each.
const GROUPS: u64 = 4;

/// Why a slot is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The header is not one that this node starts.
    #[error(transparent)]
    Header(#[from] header::Error),
    /// A block cannot be read or written.
    #[error("block {0} cannot be read or written")]
    Medium(u64),
    /// The data's tree has another root hash than the header.
    #[error("its data have another root hash than was signed")]
    RootHash,
    /// The parity has another hash than the header's.
    #[error("its parity has another hash than was signed")]
    Parity,
}

/// A slot that is being written.
#[derive(Debug)]
pub struct Writing {
    header: Block,
    layout: Layout,
    tree: Tree,
    fec: Fec,
    /// The tree's blocks: a 128th of the data.
    hashes: Vec<Block>,
    /// The next block of data.
    next: u64,
    /// The next group of the error correction.
    group: u64,
    parity: Sha256,
    written: u64,
}

impl Writing {
    /// Begins with a header that `key` has signed and that fits `arch` and a partition of `blocks`.
    pub fn begin(header: &Block, key: &VerifyingKey, arch: Arch, blocks: u64) -> Result<Self, Error> {
        let read = Header::decode(header, key)?;
        read.fits(arch, blocks)?;
        let layout = read.layout;
        let tree = layout.tree();
        let hashes = vec![[0; BLOCK_BYTES]; (tree.end - tree.top()) as usize];
        let fec = layout.fec();
        Ok(Self { header: *header, layout, tree, fec, hashes, next: 0, group: 0, parity: Sha256::new(), written: 0 })
    }

    /// What the header says.
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Blocks that were different and had to be written so far.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Takes a header away that may be here: until the last step there is no slot.
    pub fn clear(&mut self, slot: &mut impl Blocks) -> Result<(), Error> {
        header_blocks(slot.count()).into_iter().try_for_each(|at| self.put(slot, at, &[0; BLOCK_BYTES]))?;
        self.flush(slot)
    }

    /// Writes the next blocks of data; those that are too many are left out.
    pub fn data(&mut self, slot: &mut impl Blocks, blocks: &[Block]) -> Result<(), Error> {
        let left = (self.tree.top() - self.next) as usize;
        for block in blocks.iter().take(left) {
            self.put(slot, self.next, block)?;
            self.set_hash(self.next, block);
            self.next += 1;
        }
        Ok(())
    }

    /// Whether all data are written.
    pub const fn has_all_data(&self) -> bool {
        self.next == self.tree.top()
    }

    /// Takes the next step after the data, about a mebibyte of error correction; gives whether there is another. The
    /// first makes the tree, too, the last ends with the headers.
    pub fn step(&mut self, slot: &mut impl Blocks) -> Result<bool, Error> {
        if self.group == 0 {
            self.make_tree(slot)?;
        }
        self.make_parity(slot)?;
        if self.group < self.fec.groups() {
            return Ok(true);
        }
        if <[u8; HASH_BYTES]>::from(self.parity.clone().finalize()) != self.layout.fec_sha256 {
            return Err(Error::Parity);
        }
        // Nothing of the slot may come to the medium after its headers.
        self.flush(slot)?;
        let header = self.header;
        header_blocks(slot.count()).into_iter().try_for_each(|at| self.put(slot, at, &header))?;
        self.flush(slot)?;
        Ok(false)
    }

    fn set_hash(&mut self, at: u64, block: &Block) {
        if let Some(place) = self.tree.hash_of(at)
            && let Some(parent) = self.hashes.get_mut((place.block - self.tree.top()) as usize)
        {
            parent[place.offset..place.offset + HASH_BYTES].copy_from_slice(&hash(block));
        }
    }

    /// From the lowest level up: children stand behind their parents.
    fn make_tree(&mut self, slot: &mut impl Blocks) -> Result<(), Error> {
        for at in self.tree.blocks().rev() {
            let block = self.hashes[(at - self.tree.top()) as usize];
            self.set_hash(at, &block);
            if at == self.tree.top() && hash(&block) != self.layout.root_hash {
                return Err(Error::RootHash);
            }
        }
        for at in self.tree.blocks() {
            let block = self.hashes[(at - self.tree.top()) as usize];
            self.put(slot, at, &block)?;
        }
        Ok(())
    }

    fn make_parity(&mut self, slot: &mut impl Blocks) -> Result<(), Error> {
        let groups = self.group..self.fec.groups().min(self.group + GROUPS);
        let mut members = vec![Vec::new(); (groups.end - groups.start) as usize];
        // The groups' blocks in one place of a codeword stand side by side.
        let starts: Vec<_> = self.fec.group(groups.start).collect();
        for start in starts {
            let Some(start) = start else {
                members.iter_mut().for_each(|group| group.push([0; BLOCK_BYTES]));
                continue;
            };
            let count = (members.len() as u64).min(self.tree.end - start) as usize;
            let mut blocks = vec![[0; BLOCK_BYTES]; members.len()];
            if !slot.read(start, blocks[..count].as_flattened_mut()) {
                return Err(Error::Medium(start));
            }
            members.iter_mut().zip(blocks).for_each(|(group, block)| group.push(block));
        }
        let mut parity = vec![0; self.fec.parity_blocks_of_group() * BLOCK_BYTES];
        for (group, members) in groups.clone().zip(members) {
            self.fec.parity(&members, &mut parity);
            self.parity.update(&parity);
            let first = self.tree.end + self.fec.parity_start(group);
            for (at, block) in (first..).zip(parity.as_chunks().0) {
                self.put(slot, at, block)?;
            }
        }
        self.group = groups.end;
        Ok(())
    }

    fn flush(&self, slot: &mut impl Blocks) -> Result<(), Error> {
        if slot.flush() { Ok(()) } else { Err(Error::Medium(self.layout.end_block.into())) }
    }

    /// Writes a block unless it is there.
    fn put(&mut self, slot: &mut impl Blocks, at: u64, block: &Block) -> Result<(), Error> {
        let mut found = [0; BLOCK_BYTES];
        if slot.read(at, &mut found) && found == *block {
            return Ok(());
        }
        self.written += 1;
        if slot.write(at, block) { Ok(()) } else { Err(Error::Medium(at)) }
    }
}
