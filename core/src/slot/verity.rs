//! Checking and mending a slot's blocks: dm-verity's hash tree and its error correction, as numbers of blocks and bytes.
//!
//! Sources: Linux, drivers/md/dm-verity-target.c and dm-verity-fec.c; Documentation/admin-guide/device-mapper/verity.rst.
//!
//! **Tree.** Each block of a level has the SHA-256 of 128 blocks of the level below it; the lowest level's are of the data.
//! The highest level, of one block, stands first, right behind the data; the root hash is of that block. There is no
//! superblock: the slot's header has what one would say.
//!
//! **Error correction.** Data and tree are N blocks; with R parity bytes a codeword has K = 255 − R of their bytes. They
//! are spread: codeword c has the bytes c, c + S, c + 2 S, …, where S is the number of codewords, N / K rounded up to
//! whole blocks. What is behind the last block counts as zeros. The parity of codeword c is R bytes at c × R. A lost
//! block is so one byte in each of 4,096 codewords, and R of the blocks that share codewords may be lost when it is known
//! which ones; half as many when it is not.

use alloc::vec;
use core::ops::{Range, RangeInclusive};

use sha2::{Digest, Sha256};

use super::header::BLOCK_BYTES;
use super::reed_solomon::{Code, Uncorrectable, WORD_BYTES};

/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;
/// Hashes in a block of the tree.
pub const HASHES: u64 = (BLOCK_BYTES / HASH_BYTES) as u64;
/// Parity bytes in a codeword that the kernel takes.
pub const ROOTS: RangeInclusive<u8> = 2..=24;
/// Enough for 2^32 blocks of data.
const MAX_LEVELS: usize = 5;

/// One block.
pub type Block = [u8; BLOCK_BYTES];
/// The SHA-256 of a block.
pub type Hash = [u8; HASH_BYTES];

/// The SHA-256 of a block.
pub fn hash(block: &[u8]) -> Hash {
    Sha256::digest(block).into()
}

/// Where the hashes of a tree are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    data_blocks: u64,
    /// The lowest first: the first block of each level.
    levels: [u64; MAX_LEVELS],
    depth: usize,
    /// The first block behind the tree.
    pub end: u64,
}

/// Where a hash is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The block.
    pub block: u64,
    /// The first byte in it.
    pub offset: usize,
}

impl Tree {
    /// The tree over `data_blocks`, right behind them.
    pub fn new(data_blocks: u32) -> Self {
        let data_blocks = u64::from(data_blocks);
        let mut sizes = [0; MAX_LEVELS];
        let mut depth = 0;
        let mut below = data_blocks;
        for size in &mut sizes {
            *size = below.div_ceil(HASHES).max(1);
            below = *size;
            depth += 1;
            if below == 1 {
                break;
            }
        }
        let mut levels = [0; MAX_LEVELS];
        let mut end = data_blocks;
        for level in (0..depth).rev() {
            levels[level] = end;
            end += sizes[level];
        }
        Self { data_blocks, levels, depth, end }
    }

    /// The tree's blocks, from the top down to the lowest level.
    pub const fn blocks(&self) -> Range<u64> {
        self.data_blocks..self.end
    }

    /// The block whose hash is the root hash.
    pub const fn top(&self) -> u64 {
        self.data_blocks
    }

    /// Where the hash of a block of data or tree is; `None` for the top, and for what is neither.
    pub fn hash_of(&self, block: u64) -> Option<Place> {
        let (above, index) = if block < self.data_blocks {
            (0, block)
        } else {
            let level = self.level_of(block)?;
            (level + 1, block - self.levels[level])
        };
        let start = *self.levels[..self.depth].get(above)?;
        Some(Place { block: start + index / HASHES, offset: (index % HASHES) as usize * HASH_BYTES })
    }

    /// The blocks whose hashes a block of the tree has, in the hashes' order.
    pub fn children(&self, block: u64) -> Range<u64> {
        let Some(level) = self.level_of(block) else { return 0..0 };
        let below = match level.checked_sub(1) {
            None => 0..self.data_blocks,
            Some(below) => self.levels[below]..if below == 0 { self.end } else { self.levels[below - 1] },
        };
        let first = below.start + (block - self.levels[level]) * HASHES;
        first..below.end.min(first + HASHES)
    }

    fn level_of(&self, block: u64) -> Option<usize> {
        // Higher levels stand first: the lowest level that begins at or before the block has it.
        (0..self.depth).find(|level| self.levels[*level] <= block && block < self.end)
    }
}

/// How blocks share codewords. Blocks are numbered as in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fec {
    roots: usize,
    /// Blocks that are covered: data and tree.
    blocks: u64,
    /// Codewords, in blocks.
    rounds: u64,
}

impl Fec {
    /// Error correction over data and `tree`, with `roots` bytes of parity in a codeword.
    pub fn new(tree: &Tree, roots: u8) -> Self {
        let roots = usize::from(roots.clamp(*ROOTS.start(), *ROOTS.end()));
        let rounds = tree.end.div_ceil((WORD_BYTES - roots) as u64);
        Self { roots, blocks: tree.end, rounds }
    }

    /// Blocks that are covered: `fec_blocks` on the kernel's command line.
    pub const fn covered(&self) -> u64 {
        self.blocks
    }

    /// Blocks of parity.
    pub const fn parity_blocks(&self) -> u64 {
        self.rounds * self.roots as u64
    }

    /// Groups of blocks that share codewords. Block b is of group b modulo this.
    pub const fn groups(&self) -> u64 {
        self.rounds
    }

    /// Blocks of parity that a group has.
    pub const fn parity_blocks_of_group(&self) -> usize {
        self.roots
    }

    /// Blocks of the group of `block`, itself among them, in the codewords' order; `None` where there are zeros because
    /// nothing is left to be covered.
    pub fn group(&self, block: u64) -> impl Iterator<Item = Option<u64>> + use<> {
        let Self { roots, blocks, rounds } = *self;
        let first = block % rounds;
        (0..(WORD_BYTES - roots) as u64).map(move |place| Some(first + place * rounds).filter(|block| *block < blocks))
    }

    /// The group's blocks of parity: the first of them, counted from the parity's start.
    pub const fn parity_start(&self, block: u64) -> u64 {
        block % self.rounds * self.roots as u64
    }

    /// Mends a group in place. `group` has its blocks as [`Fec::group`] orders them, `parity` its
    /// [`Fec::parity_start`] blocks, `lost` says which of the group are known to be wrong, and `is_right` whether a
    /// result is what it should be: only hashes can tell.
    pub fn mend(
        &self,
        group: &mut [Block],
        parity: &[u8],
        lost: &[u8],
        is_right: impl Fn(&[Block]) -> bool,
    ) -> Result<(), Uncorrectable> {
        let mut rows = vec![[0; BLOCK_BYTES]; self.roots];
        for (byte, parity) in parity.chunks_exact(self.roots).enumerate().take(BLOCK_BYTES) {
            rows.iter_mut().zip(parity).for_each(|(row, parity)| row[byte] = *parity);
        }
        // A word of the code is one of the code with fewer roots, too. With as many roots as bytes are lost each is
        // corrected a hundred times sooner, and rightly if all others are right: mostly they are.
        for roots in [lost.len(), self.roots] {
            let mended = Self::mend_by(&Code::new(roots.min(self.roots) as u8), group, &rows, lost);
            if mended.is_ok() && is_right(group) {
                return Ok(());
            }
        }
        Err(Uncorrectable)
    }

    fn mend_by(code: &Code, group: &mut [Block], parity: &[Block], lost: &[u8]) -> Result<(), Uncorrectable> {
        for byte in code.wrong_words(group.iter().chain(parity)) {
            let mut word = [0; WORD_BYTES];
            for (place, block) in word.iter_mut().zip(group.iter().chain(parity)) {
                *place = block[byte];
            }
            code.correct(&mut word, lost)?;
            for index in lost {
                group[usize::from(*index)][byte] = word[usize::from(*index)];
            }
        }
        Ok(())
    }

    /// The parity of a group, into `parity`.
    pub fn parity(&self, group: &[Block], parity: &mut [u8]) {
        Code::new(self.roots as u8).encode_rows(group, parity);
    }
}
