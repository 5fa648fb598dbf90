//! Datagrams of a one-way link: a payload as RaptorQ symbols (RFC 6330). Nobody answers; whoever has heard enough of
//! them, whichever, has the payload.
//!
//! A payload is cut into source blocks of [`BLOCK_SYMBOLS`] symbols, which bounds what decoding takes. Numbers are
//! unsigned and little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | which bundle: the first bytes of its manifest's SHA-256 |
//! | 2 | source block; 65535: what follows is the manifest |
//! | 4 | encoding symbol: below the block's number of symbols one of the payload, else a repair symbol |
//! | … | the symbol, 1,024 bytes; or the manifest |
//! | 4 | CRC-32 of all bytes before it |

use alloc::vec::Vec;
use core::ops::Range;

use super::manifest::{BundleId, MANIFEST_BYTES, id};
use super::pieces::SYMBOL_BYTES;

/// Symbols of a source block: a mebibyte. More of them make less of what luck does to one block, and take more memory.
pub const BLOCK_SYMBOLS: usize = 1024;
/// Highest number of an encoding symbol (RFC 6330, section 4.4.1.2: 24 bits).
pub const MAX_SYMBOL: u32 = (1 << 24) - 1;
/// The longest datagram.
pub const MAX_BYTES: usize = HEAD_BYTES + SYMBOL_BYTES + CRC_BYTES;
const HEAD_BYTES: usize = 14;
const CRC_BYTES: usize = 4;
const MANIFEST_BLOCK: u16 = u16::MAX;

/// What a datagram brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// What the bundle is. It is sent again and again, for those who begin to listen late.
    Manifest(&'a [u8; MANIFEST_BYTES]),
    /// A symbol.
    Symbol {
        /// Of which bundle.
        bundle: BundleId,
        /// Source block.
        block: u16,
        /// Number in it.
        symbol: u32,
        /// Its bytes.
        bytes: &'a [u8; SYMBOL_BYTES],
    },
}

impl<'a> Datagram<'a> {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let (bundle, block, symbol, bytes) = match *self {
            Self::Manifest(manifest) => (id(manifest), MANIFEST_BLOCK, 0, manifest.as_slice()),
            Self::Symbol { bundle, block, symbol, bytes } => (bundle, block, symbol, bytes.as_slice()),
        };
        let mut datagram = Vec::with_capacity(HEAD_BYTES + bytes.len() + CRC_BYTES);
        datagram.extend(bundle);
        datagram.extend(block.to_le_bytes());
        datagram.extend(symbol.to_le_bytes());
        datagram.extend(bytes);
        datagram.extend(crc32fast::hash(&datagram).to_le_bytes());
        datagram
    }

    /// What the bytes are; `None` for anything else, and for what arrived damaged.
    pub fn decode(datagram: &'a [u8]) -> Option<Self> {
        let (whole, crc) = datagram.split_last_chunk::<CRC_BYTES>()?;
        let (bundle, rest) = whole.split_first_chunk::<8>()?;
        let (block, rest) = rest.split_first_chunk::<2>()?;
        let (symbol, bytes) = rest.split_first_chunk::<4>()?;
        if crc32fast::hash(whole) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (block, symbol) = (u16::from_le_bytes(*block), u32::from_le_bytes(*symbol));
        if block == MANIFEST_BLOCK {
            let manifest = bytes.try_into().ok()?;
            return (id(manifest) == *bundle).then_some(Self::Manifest(manifest));
        }
        let bytes = bytes.try_into().ok().filter(|_| symbol <= MAX_SYMBOL)?;
        Some(Self::Symbol { bundle: *bundle, block, symbol, bytes })
    }
}

/// How many source blocks a payload of so many symbols has.
pub const fn blocks(symbols: usize) -> usize {
    symbols.div_ceil(BLOCK_SYMBOLS)
}

/// Which of the payload's symbols are a block's.
pub fn symbols_of(block: usize, symbols: usize) -> Range<usize> {
    let start = block.saturating_mul(BLOCK_SYMBOLS).min(symbols);
    start..(start + BLOCK_SYMBOLS).min(symbols)
}
