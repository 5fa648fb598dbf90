//! A slot on the disk: what is where in its partition, and who says so.
//!
//! A slot is counted in blocks of [`BLOCK_BYTES`]. Root file system and kernel lie in one run of data blocks, so that
//! one verity tree and one error correction (FEC) cover both:
//!
//! | blocks | what |
//! |---|---|
//! | 0 to `root_blocks` − 1 | EROFS root |
//! | `root_blocks` to `data_blocks` − 1 | kernel, `kernel_bytes` long, then zeros |
//! | `data_blocks` to `fec_block` − 1 | verity's hash tree (see [`super::verity`]) |
//! | `fec_block` to `end_block` − 1 | Reed-Solomon parity over all blocks before it |
//! | the partition's last two | this header, twice: nothing else corrects it |
//!
//! A header has one block. Numbers are unsigned and little-endian, texts are UTF-8 and end with zeros:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `PGSLOT01`: the name, and the version 1 |
//! | 8 | 4 | architecture: 1 x86_64, 2 aarch64 |
//! | 12 | 4 | root_blocks |
//! | 16 | 4 | data_blocks |
//! | 20 | 4 | fec_block |
//! | 24 | 4 | end_block |
//! | 28 | 4 | fec_roots: parity bytes in a codeword |
//! | 32 | 4 | kernel_bytes |
//! | 36 | 32 | SHA-256 of the kernel |
//! | 68 | 32 | verity's root hash |
//! | 100 | 32 | SHA-256 of the parity |
//! | 132 | 96 | version |
//! | 228 | 2048 | the kernel's command line; `${PARTUUID}` and `${SLOT}` stand for the slot's own |
//! | 2276 | 1756 | zero |
//! | 4032 | 64 | Ed25519 signature (RFC 8032) of all bytes before it |

use core::fmt;
use core::ops::Range;

use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::verity::{Fec, Hash, ROOTS, Tree};

/// Bytes in a block: a page on both architectures, and what verity checks at a time.
pub const BLOCK_BYTES: usize = 4096;
/// Copies of the header in a slot.
pub const HEADERS: usize = 2;
/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = Signature::BYTE_SIZE;
/// In the command line, the slot's own partition.
pub const PARTUUID: &str = "${PARTUUID}";
/// In the command line, the slot's own name: PID 1 learns from it what it runs from.
pub const SLOT: &str = "${SLOT}";
const MAGIC: &[u8; 8] = b"PGSLOT01";
const VERSION_BYTES: usize = 96;
const COMMAND_LINE_BYTES: usize = 2048;
const NUMBERS: Range<usize> = 8..36;
const HASHES: Range<usize> = NUMBERS.end..132;
const VERSION: usize = HASHES.end;
const COMMAND_LINE: usize = VERSION + VERSION_BYTES;
/// Where the signature stands, behind all that it is of.
pub const SIGNATURE: usize = BLOCK_BYTES - SIGNATURE_BYTES;

/// What a kernel runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit PC.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// The number that stands for it in headers and manifests.
    pub const fn code(self) -> u32 {
        match self {
            Self::X86_64 => 1,
            Self::Aarch64 => 2,
        }
    }

    /// What a number stands for.
    pub const fn of_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::X86_64),
            2 => Some(Self::Aarch64),
            _ => None,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}

/// Why a block is no header, or not one to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Nothing was written here, or what was is gone.
    #[error("no slot header: it begins with other bytes than PGSLOT01")]
    Magic,
    /// Not signed by the key that the loader has, or changed since.
    #[error("the slot header's signature is not ours")]
    Signature,
    /// Signed, and yet not what this version writes.
    #[error("the slot header's {0} makes no sense")]
    Field(&'static str),
    /// For another machine.
    #[error("the slot is for {0}, this machine is another")]
    Arch(Arch),
    /// It says that it is longer than its partition.
    #[error("the slot has {blocks} blocks, its partition has room for {room}")]
    Length {
        /// Blocks that the header tells of, its own included.
        blocks: u64,
        /// The partition's.
        room: u64,
    },
}

/// What is where in a slot, and the hashes that vouch for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Blocks of the root file system.
    pub root_blocks: u32,
    /// Blocks that verity checks: root file system and kernel.
    pub data_blocks: u32,
    /// Where the error correction begins; before it is verity's tree.
    pub fec_block: u32,
    /// Where it ends.
    pub end_block: u32,
    /// Parity bytes in a codeword of it.
    pub fec_roots: u8,
    /// Length of the kernel.
    pub kernel_bytes: u32,
    /// Of the kernel.
    pub kernel_sha256: Hash,
    /// Of verity's tree.
    pub root_hash: Hash,
    /// Of the error correction.
    pub fec_sha256: Hash,
}

impl Layout {
    /// The kernel's blocks.
    pub const fn kernel(&self) -> Range<u64> {
        self.root_blocks as u64..self.data_blocks as u64
    }

    /// Verity's tree.
    pub fn tree(&self) -> Tree {
        Tree::new(self.data_blocks)
    }

    /// The error correction over data and tree.
    pub fn fec(&self) -> Fec {
        Fec::new(&self.tree(), self.fec_roots)
    }

    /// Whether everything is where [`Tree`] and [`Fec`] say.
    fn check(&self) -> Result<(), Error> {
        let room =
            u64::from(self.data_blocks).checked_sub(self.root_blocks.into()).ok_or(Error::Field("data_blocks"))?;
        if self.kernel_bytes == 0 || u64::from(self.kernel_bytes) > room * BLOCK_BYTES as u64 {
            return Err(Error::Field("kernel_bytes"));
        }
        if !ROOTS.contains(&self.fec_roots) {
            return Err(Error::Field("fec_roots"));
        }
        if self.tree().end != u64::from(self.fec_block) {
            return Err(Error::Field("fec_block"));
        }
        if u64::from(self.fec_block) + self.fec().parity_blocks() != u64::from(self.end_block) {
            return Err(Error::Field("end_block"));
        }
        Ok(())
    }
}

/// What a slot has, where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// What it runs on.
    pub arch: Arch,
    /// Where everything is.
    pub layout: Layout,
    /// For people, and to tell one image from another.
    pub version: &'a str,
    /// With [`PARTUUID`] and [`SLOT`] where the slot's own are to stand.
    pub command_line: &'a str,
}

impl<'a> Header<'a> {
    /// As it stands on the disk; `sign` gives the Ed25519 signature of what it is given.
    pub fn encode(&self, sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES]) -> Result<[u8; BLOCK_BYTES], Error> {
        let mut bytes = [0; BLOCK_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        let Layout { root_blocks, data_blocks, fec_block, end_block, fec_roots, kernel_bytes, .. } = self.layout;
        let numbers =
            [self.arch.code(), root_blocks, data_blocks, fec_block, end_block, fec_roots.into(), kernel_bytes];
        for (place, number) in bytes[NUMBERS].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let hashes = [self.layout.kernel_sha256, self.layout.root_hash, self.layout.fec_sha256];
        for (place, hash) in bytes[HASHES].chunks_exact_mut(hashes[0].len()).zip(hashes) {
            place.copy_from_slice(&hash);
        }
        write_text(&mut bytes[VERSION..COMMAND_LINE], self.version).ok_or(Error::Field("version"))?;
        write_text(&mut bytes[COMMAND_LINE..COMMAND_LINE + COMMAND_LINE_BYTES], self.command_line)
            .ok_or(Error::Field("command line"))?;
        let (signed, signature) = bytes.split_at_mut(SIGNATURE);
        read(signed)?;
        signature.copy_from_slice(&sign(signed));
        Ok(bytes)
    }

    /// What the block says, if `key` has signed it.
    pub fn decode(bytes: &'a [u8; BLOCK_BYTES], key: &VerifyingKey) -> Result<Self, Error> {
        if !bytes.starts_with(MAGIC) {
            return Err(Error::Magic);
        }
        let (signed, signature) = bytes.split_at(SIGNATURE);
        let signature = Signature::from_slice(signature).map_err(|_| Error::Signature)?;
        key.verify_strict(signed, &signature).map_err(|_| Error::Signature)?;
        read(signed)
    }

    /// Whether it can be started on `arch` from a partition of `blocks`.
    pub fn fits(&self, arch: Arch, blocks: u64) -> Result<(), Error> {
        if self.arch != arch {
            return Err(Error::Arch(self.arch));
        }
        let own = u64::from(self.layout.end_block) + HEADERS as u64;
        if own > blocks { Err(Error::Length { blocks: own, room: blocks }) } else { Ok(()) }
    }
}

/// What signed bytes say.
fn read(bytes: &[u8]) -> Result<Header<'_>, Error> {
    let mut numbers = [0; 7];
    for (number, place) in numbers.iter_mut().zip(bytes[NUMBERS].as_chunks().0) {
        *number = u32::from_le_bytes(*place);
    }
    let [arch, root_blocks, data_blocks, fec_block, end_block, fec_roots, kernel_bytes] = numbers;
    let arch = Arch::of_code(arch).ok_or(Error::Field("architecture"))?;
    let mut hashes = [Hash::default(); 3];
    for (hash, place) in hashes.iter_mut().zip(bytes[HASHES].chunks_exact(Hash::default().len())) {
        hash.copy_from_slice(place);
    }
    let [kernel_sha256, root_hash, fec_sha256] = hashes;
    let layout = Layout {
        root_blocks,
        data_blocks,
        fec_block,
        end_block,
        fec_roots: u8::try_from(fec_roots).map_err(|_| Error::Field("fec_roots"))?,
        kernel_bytes,
        kernel_sha256,
        root_hash,
        fec_sha256,
    };
    layout.check()?;
    Ok(Header {
        arch,
        layout,
        version: read_text(&bytes[VERSION..COMMAND_LINE]).ok_or(Error::Field("version"))?,
        command_line: read_text(&bytes[COMMAND_LINE..COMMAND_LINE + COMMAND_LINE_BYTES])
            .ok_or(Error::Field("command line"))?,
    })
}

/// Where a partition of `blocks` has its headers, the one to be read first before the other.
pub fn header_blocks(blocks: u64) -> [u64; HEADERS] {
    [blocks.saturating_sub(2), blocks.saturating_sub(1)]
}

/// Writes a text with its end; `None` if there is no room for both.
pub(crate) fn write_text(place: &mut [u8], text: &str) -> Option<()> {
    // At least one zero ends it; a zero within would end it too soon.
    if text.len() >= place.len() || text.contains('\0') {
        return None;
    }
    place[..text.len()].copy_from_slice(text.as_bytes());
    Some(())
}

/// A text up to its end.
pub(crate) fn read_text(place: &[u8]) -> Option<&str> {
    let end = place.iter().position(|byte| *byte == 0)?;
    str::from_utf8(&place[..end]).ok()
}
