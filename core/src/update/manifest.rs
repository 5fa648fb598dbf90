//! A bundle's manifest: what it makes, from what, for whom, and who says so.
//!
//! It has [`MANIFEST_BYTES`] and stands first in a bundle's file; the payload follows. Numbers are unsigned and
//! little-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `PGBUNDL1`: the name, and the version 1 |
//! | 8 | 4 | architecture: 1 x86_64, 2 aarch64 |
//! | 12 | 4 | 1 if an older release may be taken for once, else 0 |
//! | 16 | 8 | release: major × 2⁴⁸ + minor × 2³² + patch |
//! | 24 | 8 | floor: with this image confirmed, no older release is taken any more |
//! | 32 | 8 | payload_bytes |
//! | 40 | 32 | SHA-256 of the payload |
//! | 72 | 32 | SHA-256 of the new slot's header |
//! | 104 | 32 | verity's root hash of the slot that the patch is for; zeros: it needs none |
//! | 136 | 96 | version, UTF-8, ends with zeros |
//! | 232 | 64 | Ed25519 signature (RFC 8032) of all bytes before it |

use alloc::string::String;

use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::Release;
use crate::slot::header::{Arch, BLOCK_BYTES, SIGNATURE_BYTES, read_text, write_text};
use crate::slot::verity::Hash;

/// Bytes of a manifest.
pub const MANIFEST_BYTES: usize = SIGNATURE + SIGNATURE_BYTES;
/// Which bundle something is of: the first bytes of its manifest's SHA-256.
pub type BundleId = [u8; 8];
/// Longest payload: a slot's partition. A patch that is longer than what it makes is no patch.
pub const MAX_PAYLOAD_BYTES: u64 = 384 << 20;
const MAGIC: &[u8; 8] = b"PGBUNDL1";
const VERSION: usize = 136;
const SIGNATURE: usize = VERSION + 96;

/// What a bundle says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest<'a> {
    /// What the image runs on.
    pub arch: Arch,
    /// It may be older than what the node takes otherwise.
    pub is_downgrade: bool,
    /// The image's.
    pub release: Release,
    /// With this image confirmed, no older release is taken any more.
    pub floor: Release,
    /// Length of the payload.
    pub payload_bytes: u64,
    /// Of the payload.
    pub payload_sha256: Hash,
    /// Of the new slot's header.
    pub header_sha256: Hash,
    /// The image that the patch is for, by its root hash; `None`: it needs none.
    pub base: Option<Hash>,
    /// The image's version, for people.
    pub version: &'a str,
}

/// Why a bundle is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not a bundle.
    #[error("no bundle: it begins with other bytes than PGBUNDL1")]
    Magic,
    /// Not signed by the key that this node believes, or changed since.
    #[error("the manifest's signature is not of this node's key")]
    Signature,
    /// Signed, and yet not what this version writes.
    #[error("the manifest's {0} makes no sense")]
    Field(&'static str),
    /// For another machine.
    #[error("the bundle is for {0}, this node is another")]
    Arch(Arch),
    /// A rollback.
    #[error("the bundle has release {release}, this node takes {floor} and newer; pack it with --downgrade to go back")]
    Older {
        /// The bundle's.
        release: Release,
        /// The node's.
        floor: Release,
    },
    /// A patch for an image that this node does not have.
    #[error(
        "the bundle is a patch for another image than this node has; pack it for what `perigee update status` names"
    )]
    Base,
    /// The payload is not what the manifest says.
    #[error("the payload's SHA-256 is not the manifest's")]
    Payload,
    /// The patch makes something else than it says.
    #[error("the patch makes another slot header than the manifest names")]
    Header,
    /// The new image has no place here.
    #[error("the new image does not fit: {0}")]
    Slot(#[from] crate::slot::header::Error),
    /// The patch is nonsense.
    #[error("the patch cannot be applied: {0}")]
    Patch(#[from] super::patch::Error),
    /// What was written is not what was signed.
    #[error("what the patch makes is not what was signed: {0}")]
    Image(&'static str),
}

/// What a node takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taker<'a> {
    /// What it is.
    pub arch: Arch,
    /// The oldest release that it takes.
    pub floor: Release,
    /// Root hashes of the images that it has and that stay while another is written.
    pub bases: &'a [Hash],
}

impl<'a> Manifest<'a> {
    /// As it is sent; `sign` gives the Ed25519 signature of what it is given.
    pub fn encode(&self, sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES]) -> Result<[u8; MANIFEST_BYTES], Refusal> {
        let mut bytes = [0; MANIFEST_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&self.arch.code().to_le_bytes());
        bytes[12] = u8::from(self.is_downgrade);
        for (place, number) in bytes[16..40].chunks_exact_mut(8).zip([self.release.0, self.floor.0, self.payload_bytes])
        {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let hashes = [self.payload_sha256, self.header_sha256, self.base.unwrap_or_default()];
        for (place, hash) in bytes[40..VERSION].chunks_exact_mut(hashes[0].len()).zip(hashes) {
            place.copy_from_slice(&hash);
        }
        write_text(&mut bytes[VERSION..SIGNATURE], self.version).ok_or(Refusal::Field("version"))?;
        let (signed, signature) = bytes.split_at_mut(SIGNATURE);
        read(signed)?;
        signature.copy_from_slice(&sign(signed));
        Ok(bytes)
    }

    /// What the bytes say, if `key` has signed them.
    pub fn decode(bytes: &'a [u8; MANIFEST_BYTES], key: &VerifyingKey) -> Result<Self, Refusal> {
        if !bytes.starts_with(MAGIC) {
            return Err(Refusal::Magic);
        }
        let (signed, signature) = bytes.split_at(SIGNATURE);
        let signature = Signature::from_slice(signature).map_err(|_| Refusal::Signature)?;
        key.verify_strict(signed, &signature).map_err(|_| Refusal::Signature)?;
        read(signed)
    }

    /// Whether a node takes it.
    pub fn check(&self, taker: &Taker<'_>) -> Result<(), Refusal> {
        if self.arch != taker.arch {
            return Err(Refusal::Arch(self.arch));
        }
        if self.release < taker.floor && !self.is_downgrade {
            return Err(Refusal::Older { release: self.release, floor: taker.floor });
        }
        match self.base {
            Some(base) if !taker.bases.contains(&base) => Err(Refusal::Base),
            _ => Ok(()),
        }
    }

    /// Whether a block is the new slot's header, by its hash.
    pub fn check_header(&self, block: &[u8; BLOCK_BYTES]) -> Result<(), Refusal> {
        if Hash::from(Sha256::digest(block)) == self.header_sha256 { Ok(()) } else { Err(Refusal::Header) }
    }
}

/// Which bundle a manifest is of.
pub fn id(manifest: &[u8; MANIFEST_BYTES]) -> BundleId {
    let mut id = BundleId::default();
    id.copy_from_slice(&Sha256::digest(manifest)[..8]);
    id
}

/// Bytes as hexadecimal digits, as JSON has them.
pub fn to_digits(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[digit as usize]))
        .collect()
}

/// The manifest that hexadecimal digits are; `None` for anything else.
pub fn of_digits(digits: &str) -> Option<[u8; MANIFEST_BYTES]> {
    let mut bytes = [0; MANIFEST_BYTES];
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = (high? << 4 | low?) as u8;
    }
    Some(bytes)
}

/// What signed bytes say.
fn read(bytes: &[u8]) -> Result<Manifest<'_>, Refusal> {
    let number = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let hash = |at: usize| Hash::try_from(&bytes[at..at + 32]).unwrap_or_default();
    let arch = Arch::of_code(number(8) as u32).ok_or(Refusal::Field("architecture"))?;
    let is_downgrade = match number(8) >> 32 {
        0 => false,
        1 => true,
        _ => return Err(Refusal::Field("downgrade flag")),
    };
    let (release, floor, payload_bytes) = (Release(number(16)), Release(number(24)), number(32));
    if floor > release {
        return Err(Refusal::Field("floor, which is above its own release,"));
    }
    if payload_bytes == 0 || payload_bytes > MAX_PAYLOAD_BYTES {
        return Err(Refusal::Field("payload_bytes"));
    }
    let version = read_text(&bytes[VERSION..SIGNATURE]).ok_or(Refusal::Field("version"))?;
    if Release::parse(version) != Some(release) {
        return Err(Refusal::Field("version, which is another than its release,"));
    }
    Ok(Manifest {
        arch,
        is_downgrade,
        release,
        floor,
        payload_bytes,
        payload_sha256: hash(40),
        header_sha256: hash(72),
        base: Some(hash(104)).filter(|base| *base != Hash::default()),
        version,
    })
}
