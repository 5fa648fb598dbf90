//! Scrubbing: every block of a slot is read and checked, and what is wrong is written anew.
//!
//! Flipped bits that nobody looks for add up until the error correction has too few right blocks left. So a slot is read
//! on a schedule, the running one and those that wait; what is wrong comes from, in this order:
//!
//! | block | checked by | mended from |
//! |---|---|---|
//! | header | its signature | its second copy; the twin's, if this slot's tree has the root hash of that |
//! | data, tree | the tree, up to the signed root hash | error correction; the twin |
//! | parity | the signed hash over all of it | data and tree, once they are right |
//!
//! The twin is another slot with the same layout and so the same blocks. Whatever a block is mended from, it is written
//! only if its hash is the signed one. Checking needs no memory of what was checked before: a scrub may begin anywhere.

use alloc::vec;
use alloc::vec::Vec;

use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};

use super::header::{BLOCK_BYTES, HEADERS, Header, Layout, header_blocks};
use super::verity::{Block, Fec, HASH_BYTES, HASHES, Hash, Tree, hash};

/// A slot's partition.
pub trait Blocks {
    /// How many there are.
    fn count(&self) -> u64;
    /// Reads whole blocks, from `block` on; gives whether all of them could be read.
    fn read(&mut self, block: u64, into: &mut [u8]) -> bool;
    /// Writes one block; gives whether it could be.
    fn write(&mut self, block: u64, bytes: &Block) -> bool;
    /// Returns when everything that was written is on the medium; gives whether it is.
    fn flush(&mut self) -> bool;
}

/// What was seen and done, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Read and checked.
    pub read: u64,
    /// Wrong, and written anew from what the slot itself has.
    pub corrected: u64,
    /// Wrong, and written anew from the twin.
    pub copied: u64,
    /// Wrong, and nothing has what it should be.
    pub lost: u64,
}

impl Tally {
    /// Blocks that were found to be wrong.
    pub const fn wrong(&self) -> u64 {
        self.corrected + self.copied + self.lost
    }

    /// What came after `before`.
    pub const fn since(&self, before: &Self) -> Self {
        Self {
            read: self.read - before.read,
            corrected: self.corrected - before.corrected,
            copied: self.copied - before.copied,
            lost: self.lost - before.lost,
        }
    }
}

/// The slot's layout by its headers, of which a damaged one is written anew.
///
/// `None`: there is no slot here, or nobody can tell any more what it was.
fn headers<B: Blocks>(slot: &mut B, twin: Option<&mut B>, key: &VerifyingKey, tally: &mut Tally) -> Option<Layout> {
    let places = header_blocks(slot.count());
    let found = places.map(|at| read_one(slot, at).filter(|block| Header::decode(block, key).is_ok()));
    tally.read += HEADERS as u64;
    let (good, from_twin) = match found.iter().flatten().next() {
        Some(good) => (*good, false),
        None => (twins_header(slot, twin?, key)?, true),
    };
    for (at, _) in places.into_iter().zip(found).filter(|(_, found)| *found != Some(good)) {
        let written = put(slot, at, &good);
        let count = match (written, from_twin) {
            (false, _) => &mut tally.lost,
            (true, false) => &mut tally.corrected,
            (true, true) => &mut tally.copied,
        };
        *count += 1;
    }
    Header::decode(&good, key).ok().map(|header| header.layout)
}

/// The twin's header, if this slot has the tree that it tells of.
fn twins_header<B: Blocks>(slot: &mut B, twin: &mut B, key: &VerifyingKey) -> Option<Block> {
    let block = header_blocks(twin.count()).into_iter().find_map(|at| {
        let block = read_one(twin, at)?;
        Header::decode(&block, key).is_ok().then_some(block)
    })?;
    let layout = Header::decode(&block, key).ok()?.layout;
    let top = read_one(slot, layout.tree().top())?;
    (hash(&top) == layout.root_hash).then_some(block)
}

/// A scrub of one slot, a step at a time: the caller says when the next one is.
#[derive(Clone, Debug)]
pub struct Scrub {
    layout: Layout,
    tree: Tree,
    fec: Fec,
    step: u64,
    left: u64,
    /// Over the parity so far.
    parity: Sha256,
    tally: Tally,
}

impl Scrub {
    /// A scrub of the slot that is here, whose headers have been seen to already; `begin` as for [`Scrub::new`].
    ///
    /// `None`: there is no slot here, or nobody can tell any more what it was.
    pub fn open<B: Blocks>(slot: &mut B, twin: Option<&mut B>, key: &VerifyingKey, begin: u64) -> Option<Self> {
        let mut tally = Tally::default();
        let layout = headers(slot, twin, key, &mut tally)?;
        Some(Self { tally, ..Self::new(layout, begin) })
    }

    /// A scrub of a slot with `layout`, which begins about `begin` steps (modulo their number) from the first and then
    /// goes round: a node that is never up for long enough still reaches all of it.
    pub fn new(layout: Layout, begin: u64) -> Self {
        let (tree, fec) = (layout.tree(), layout.fec());
        let mut scrub = Self { layout, tree, fec, step: 0, left: 0, parity: Sha256::new(), tally: Tally::default() };
        scrub.left = scrub.steps();
        // The parity's hash is over all of it, from its beginning.
        scrub.step = (begin % scrub.left).min(scrub.steps_of_tree());
        scrub
    }

    /// Steps in all, each about half a mebibyte.
    pub fn steps(&self) -> u64 {
        self.steps_of_tree() + self.fec.parity_blocks().div_ceil(HASHES)
    }

    /// What the slot's header says of it.
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// What was seen and done so far.
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// Takes the next step; gives whether there is another. `twin` is asked if it has the same layout.
    pub fn step<B: Blocks>(&mut self, slot: &mut B, twin: Option<&mut B>) -> bool {
        if self.left == 0 {
            return false;
        }
        match self.step.checked_sub(self.steps_of_tree()) {
            None => self.check_children(slot, twin, self.tree.top() + self.step),
            Some(step) => self.check_parity(slot, twin, step * HASHES),
        }
        self.step = (self.step + 1) % self.steps();
        self.left -= 1;
        self.left > 0
    }

    /// One for each block of the tree.
    fn steps_of_tree(&self) -> u64 {
        let blocks = self.tree.blocks();
        blocks.end - blocks.start
    }

    /// Checks the blocks whose hashes a block of the tree has; with the highest, that one itself, too.
    fn check_children<B: Blocks>(&mut self, slot: &mut B, mut twin: Option<&mut B>, parent: u64) {
        let children = self.tree.children(parent);
        let mut blocks = vec![0; (children.end - children.start) as usize * BLOCK_BYTES];
        let whole = slot.read(children.start, &mut blocks);
        self.tally.read += children.end - children.start;
        let hashes = self.provide(slot, twin.as_deref_mut(), parent);
        if parent == self.tree.top() {
            self.tally.read += 1;
            self.tally.lost += u64::from(hashes.is_none());
        }
        let Some(hashes) = hashes else {
            // Nobody can tell any more whether these are right.
            self.tally.lost += children.end - children.start;
            return;
        };
        let hashes = hashes.chunks_exact(HASH_BYTES).map(|hash| Hash::try_from(hash).unwrap_or_default());
        for ((child, bytes), expected) in children.zip(blocks.chunks_exact(BLOCK_BYTES)).zip(hashes) {
            let good = whole && hash(bytes) == expected;
            // Where one could not be read, it is told which by reading them one by one.
            if !good
                && read_one(slot, child).is_none_or(|block| hash(&block) != expected)
                && !self.mend(slot, twin.as_deref_mut(), child, &expected)
            {
                self.tally.lost += 1;
            }
        }
    }

    /// A right block of the tree, mended if need be, and what vouches for it before.
    fn provide<B: Blocks>(&mut self, slot: &mut B, mut twin: Option<&mut B>, block: u64) -> Option<Block> {
        if let Some(bytes) = self.trusted(slot, block) {
            return Some(bytes);
        }
        if let Some(place) = self.tree.hash_of(block) {
            self.provide(slot, twin.as_deref_mut(), place.block)?;
        }
        // It may have been its parent that was wrong.
        if self.trusted(slot, block).is_none() {
            let expected = self.expected(slot, block)?;
            self.mend(slot, twin, block, &expected);
        }
        self.trusted(slot, block)
    }

    /// A block of the tree, if the signed root hash vouches for it.
    fn trusted(&self, slot: &mut impl Blocks, block: u64) -> Option<Block> {
        let bytes = read_one(slot, block)?;
        (hash(&bytes) == self.expected(slot, block)?).then_some(bytes)
    }

    /// The hash that a block of data or tree should have, if the signed root hash vouches for that.
    fn expected(&self, slot: &mut impl Blocks, block: u64) -> Option<Hash> {
        match self.tree.hash_of(block) {
            None => (block == self.tree.top()).then_some(self.layout.root_hash),
            Some(place) => {
                let parent = self.trusted(slot, place.block)?;
                Hash::try_from(&parent[place.offset..place.offset + HASH_BYTES]).ok()
            }
        }
    }

    /// Writes anew a block that is not what `expected` says, and what else is found to be wrong with it; gives whether
    /// it is right now.
    fn mend<B: Blocks>(&mut self, slot: &mut B, twin: Option<&mut B>, block: u64, expected: &Hash) -> bool {
        for (other, bytes) in self.correct(slot, block, expected) {
            self.tally.corrected += u64::from(put(slot, other, &bytes));
        }
        if read_one(slot, block).is_some_and(|bytes| hash(&bytes) == *expected) {
            return true;
        }
        let copied = twin
            .and_then(|twin| read_one(twin, block))
            .is_some_and(|bytes| hash(&bytes) == *expected && put(slot, block, &bytes));
        self.tally.copied += u64::from(copied);
        copied
    }

    /// What the error correction makes of a block and of the others of its group that are lost: nothing, or what hashes
    /// vouch for.
    fn correct(&self, slot: &mut impl Blocks, block: u64, expected: &Hash) -> Vec<(u64, Block)> {
        let (mut group, mut lost, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for (place, member) in (0_u8..).zip(self.fec.group(block)) {
            let Some(member) = member else {
                group.push([0; BLOCK_BYTES]);
                continue;
            };
            let bytes = read_one(slot, member);
            // One whose hash nobody vouches for may be right; if it is not, the decoder finds out.
            let hash_of = if member == block { Some(*expected) } else { self.expected(slot, member) };
            if let Some(hash_of) = hash_of.filter(|hash_of| bytes.is_none_or(|bytes| hash(&bytes) != *hash_of)) {
                lost.push(place);
                wanted.push((usize::from(place), member, hash_of));
            }
            group.push(bytes.unwrap_or([0; BLOCK_BYTES]));
        }
        let parity = self.read_parity(slot, block);
        let right = |group: &[Block], place: usize, expected: &Hash| {
            group.get(place).is_some_and(|bytes| hash(bytes) == *expected)
        };
        let is_right = |group: &[Block]| wanted.iter().all(|(place, _, expected)| right(group, *place, expected));
        if self.fec.mend(&mut group, &parity, &lost, is_right).is_err() {
            return Vec::new();
        }
        wanted.into_iter().filter_map(|(place, member, _)| Some((member, *group.get(place)?))).collect()
    }

    /// A group's blocks of parity; zeros for what cannot be read, which the decoder takes for wrong bytes.
    fn read_parity(&self, slot: &mut impl Blocks, block: u64) -> Vec<u8> {
        let first = u64::from(self.layout.fec_block) + self.fec.parity_start(block);
        let mut parity = vec![0; self.fec.parity_blocks_of_group() * BLOCK_BYTES];
        for (at, place) in (first..).zip(parity.chunks_exact_mut(BLOCK_BYTES)) {
            place.copy_from_slice(&read_one(slot, at).unwrap_or([0; BLOCK_BYTES]));
        }
        parity
    }

    /// Adds the next blocks of parity to the hash; after the last, makes them all anew if it is not the signed one.
    fn check_parity<B: Blocks>(&mut self, slot: &mut B, twin: Option<&mut B>, first: u64) {
        let blocks = HASHES.min(self.fec.parity_blocks() - first);
        let mut bytes = vec![0; blocks as usize * BLOCK_BYTES];
        if !slot.read(u64::from(self.layout.fec_block) + first, &mut bytes) {
            // Whatever the buffer has is not what is on the medium: a byte more makes the hash a wrong one.
            self.parity.update([0]);
        }
        self.parity.update(&bytes);
        self.tally.read += blocks;
        if first + blocks == self.fec.parity_blocks()
            && Hash::from(self.parity.clone().finalize()) != self.layout.fec_sha256
        {
            self.make_parity(slot, twin);
        }
    }

    /// Makes the parity of each group, and writes the blocks that are different.
    fn make_parity<B: Blocks>(&mut self, slot: &mut B, mut twin: Option<&mut B>) {
        for group in 0..self.fec.groups() {
            let members: Vec<_> = self.fec.group(group).collect();
            let blocks: Option<Vec<Block>> = members
                .iter()
                .map(|member| member.map_or(Some([0; BLOCK_BYTES]), |at| self.right(slot, twin.as_deref_mut(), at)))
                .collect();
            let found = self.read_parity(slot, group);
            let mut parity = vec![0; found.len()];
            if let Some(blocks) = &blocks {
                self.fec.parity(blocks, &mut parity);
            }
            let first = u64::from(self.layout.fec_block) + self.fec.parity_start(group);
            let pairs = parity.as_chunks::<BLOCK_BYTES>().0.iter().zip(found.as_chunks::<BLOCK_BYTES>().0);
            for (at, (wanted, found)) in (first..).zip(pairs) {
                if blocks.is_none() {
                    // Some of it may be right; without its data nobody can tell.
                    self.tally.lost += 1;
                } else if wanted != found || read_one(slot, at).is_none() {
                    let count = if put(slot, at, wanted) { &mut self.tally.corrected } else { &mut self.tally.lost };
                    *count += 1;
                }
            }
        }
    }

    /// A right block of data or tree, mended if need be: a scrub that begins with the parity has not yet come to it.
    fn right<B: Blocks>(&mut self, slot: &mut B, mut twin: Option<&mut B>, block: u64) -> Option<Block> {
        let Some(place) = self.tree.hash_of(block) else { return self.provide(slot, twin, block) };
        let parent = self.provide(slot, twin.as_deref_mut(), place.block)?;
        let expected = Hash::try_from(&parent[place.offset..place.offset + HASH_BYTES]).ok()?;
        let is_right = |bytes: &Block| hash(bytes) == expected;
        if let Some(bytes) = read_one(slot, block).filter(is_right) {
            return Some(bytes);
        }
        self.mend(slot, twin, block, &expected);
        read_one(slot, block).filter(is_right)
    }
}

fn read_one(slot: &mut impl Blocks, block: u64) -> Option<Block> {
    let mut bytes = [0; BLOCK_BYTES];
    (block < slot.count() && slot.read(block, &mut bytes)).then_some(bytes)
}

/// Writes a block, and reads it again: a medium may say that it has written and have not.
fn put(slot: &mut impl Blocks, block: u64, bytes: &Block) -> bool {
    slot.write(block, bytes) && slot.flush() && read_one(slot, block) == Some(*bytes)
}
