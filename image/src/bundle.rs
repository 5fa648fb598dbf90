//! Update bundles: a signed manifest, and the patch that makes one image from another. The formats are in
//! [`perigee_core::update`].

mod diff;
pub mod images;

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};
use lzma_rust2::{EncodeMode, LzmaOptions, LzmaReader, LzmaWriter, MfType};
use perigee_core::slot::header::{BLOCK_BYTES, Header, SIGNATURE_BYTES};
use perigee_core::update::Release;
use perigee_core::update::manifest::Manifest;
use perigee_core::update::patch::{HEAD_BYTES, LZMA, Patch, Sources};
use sha2::{Digest, Sha256};

use crate::keys::SlotKey;

/// What a bundle is made from.
#[derive(Clone, Copy, Debug)]
pub struct Pack<'a> {
    /// The image that the node has: a slot's header and its data blocks; `None`: the bundle needs none.
    pub old: Option<&'a [u8]>,
    /// The image that it is to have.
    pub new: &'a [u8],
    /// With it confirmed, no older release is taken any more.
    pub floor: Release,
    /// It may be older than what the node takes otherwise.
    pub is_downgrade: bool,
}

/// A bundle, and what its parts cost in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Steps, differences and new bytes, compressed.
    pub streams: [u64; 3],
}

impl Pack<'_> {
    /// Makes the bundle, and applies it as a node would before it is given out.
    ///
    /// # Errors
    /// An image is none that `key` has signed; signing fails; the version is no release.
    pub fn pack(&self, key: &SlotKey) -> Result<Packed> {
        let header = header_of(self.new, key).context("the new image")?;
        let release = Release::parse(header.version)
            .with_context(|| format!("version {}: expected three numbers like 1.2.3", header.version))?;
        let base = self.old.map(|old| Ok(header_of(old, key).context("the base")?.layout.root_hash));
        let base = base.transpose().map_err(|error: anyhow::Error| error)?;
        let (payload, streams) = payload(self.old.unwrap_or_default(), self.new)?;
        let manifest = Manifest {
            arch: header.arch,
            is_downgrade: self.is_downgrade,
            release,
            floor: self.floor,
            payload_bytes: payload.len() as u64,
            payload_sha256: Sha256::digest(&payload).into(),
            header_sha256: Sha256::digest(&self.new[..BLOCK_BYTES]).into(),
            base,
            version: header.version,
        };
        let mut signature = Err(anyhow::anyhow!("the manifest was not signed"));
        let manifest = manifest.encode(|bytes| {
            signature = key.sign(bytes);
            signature.as_ref().copied().unwrap_or([0; SIGNATURE_BYTES])
        })?;
        signature.context("sign the manifest")?;
        Ok(Packed { bytes: [&manifest[..], &payload].concat(), streams })
    }
}

/// A payload that makes `new` of `old`, and the length of each of its streams: steps, differences, new bytes.
///
/// # Errors
/// It does not make it when it is applied as a node would.
pub fn payload(old: &[u8], new: &[u8]) -> Result<(Vec<u8>, [u64; 3])> {
    let patch = diff::diff(old, new);
    let [first, second, third] = LZMA.dictionaries;
    let streams =
        [compress(&patch.steps, first)?, compress(&patch.differences, second)?, compress(&patch.news, third)?];
    let mut payload = Vec::new();
    for stream in &streams[..2] {
        payload.extend(u32::try_from(stream.len())?.to_le_bytes());
    }
    streams.iter().for_each(|stream| payload.extend(stream));
    ensure!(apply(&payload, old, new.len())? == new, "the patch is wrong");
    Ok((payload, streams.map(|stream| stream.len() as u64)))
}

/// What an image says of itself.
///
/// # Errors
/// It is no image, or another key has signed it.
pub fn header_of<'a>(image: &'a [u8], key: &SlotKey) -> Result<Header<'a>> {
    let block = image.first_chunk::<BLOCK_BYTES>().context("shorter than a slot's header")?;
    Ok(Header::decode(block, key.verifying())?)
}

fn compress(bytes: &[u8], dictionary: u32) -> Result<Vec<u8>> {
    let [lc, lp, pb] = LZMA.lc_lp_pb.map(u32::from);
    let options = LzmaOptions {
        dict_size: dictionary,
        lc,
        lp,
        pb,
        mode: EncodeMode::Normal,
        nice_len: LzmaOptions::NICE_LEN_MAX,
        mf: MfType::Bt4,
        depth_limit: 1000,
        preset_dict: None,
    };
    let mut writer = LzmaWriter::new_no_header(Vec::new(), &options, true)?;
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}

/// The image that a payload makes, as a node makes it.
fn apply(payload: &[u8], old: &[u8], bytes: usize) -> Result<Vec<u8>> {
    let (head, mut rest) = payload.split_first_chunk::<HEAD_BYTES>().context("a payload without its lengths")?;
    let mut streams = Vec::new();
    for (at, dictionary) in LZMA.dictionaries.into_iter().enumerate() {
        let length = head.as_chunks::<4>().0.get(at).map_or(rest.len(), |length| u32::from_le_bytes(*length) as usize);
        let (stream, behind) = rest.split_at_checked(length).context("a stream that is cut short")?;
        let [lc, lp, pb] = LZMA.lc_lp_pb.map(u32::from);
        streams.push(LzmaReader::new(stream, u64::MAX, lc, lp, pb, dictionary, None)?);
        rest = behind;
    }
    let mut image = vec![0; bytes];
    Patch::default().fill(&mut Memory { streams, old }, &mut image)?;
    Ok(image)
}

/// A payload's streams, and the old image, in memory.
struct Memory<'a> {
    streams: Vec<LzmaReader<&'a [u8]>>,
    old: &'a [u8],
}

impl Memory<'_> {
    fn read(&mut self, stream: usize, into: &mut [u8]) -> bool {
        self.streams.get_mut(stream).is_some_and(|stream| stream.read_exact(into).is_ok())
    }
}

impl Sources for Memory<'_> {
    fn steps(&mut self, into: &mut [u8]) -> bool {
        self.read(0, into)
    }

    fn differences(&mut self, into: &mut [u8]) -> bool {
        self.read(1, into)
    }

    fn news(&mut self, into: &mut [u8]) -> bool {
        self.read(2, into)
    }

    fn old(&mut self, at: u64, into: &mut [u8]) -> bool {
        let old = usize::try_from(at).ok().and_then(|at| self.old.get(at..)?.get(..into.len()));
        old.map(|old| into.copy_from_slice(old)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use perigee_core::slot::header::Layout;
    use perigee_core::slot::verity::{Fec, Tree};
    use perigee_core::update::manifest::MANIFEST_BYTES;

    use super::*;
    use crate::testing::Scratch;

    fn key(scratch: &Scratch) -> SlotKey {
        SlotKey::find(scratch.path()).unwrap()
    }

    /// Bytes that do not repeat.
    fn noise(bytes: usize, seed: u8) -> Vec<u8> {
        (0_u32..)
            .flat_map(|at| <[u8; 32]>::from(Sha256::digest([&at.to_le_bytes()[..], &[seed]].concat())))
            .take(bytes)
            .collect()
    }

    fn image(key: &SlotKey, version: &str, mut data: Vec<u8>) -> Vec<u8> {
        data.resize(data.len().next_multiple_of(BLOCK_BYTES), 0);
        let data_blocks = (data.len() / BLOCK_BYTES) as u32;
        let tree = Tree::new(data_blocks);
        let layout = Layout {
            root_blocks: data_blocks - 1,
            data_blocks,
            fec_block: tree.end as u32,
            end_block: (tree.end + Fec::new(&tree, 4).parity_blocks()) as u32,
            fec_roots: 4,
            kernel_bytes: 5,
            kernel_sha256: [1; 32],
            root_hash: Sha256::digest(&data).into(),
            fec_sha256: [2; 32],
        };
        let header = Header { arch: perigee_core::slot::header::Arch::X86_64, layout, version, command_line: "" };
        let mut image = crate::slot::sign(&header, key).unwrap();
        image.truncate(BLOCK_BYTES);
        image.extend(data);
        image
    }

    #[test]
    fn a_bundle_makes_its_image_and_is_short_where_the_images_are_alike() {
        let scratch = Scratch::new("bundle");
        let key = key(&scratch);
        let data = noise(3 << 20, 1);
        let old = image(&key, "1.0.0", data.clone());
        let mut flipped = data.clone();
        flipped[1_500_000] ^= 1;
        let mut shifted = data.clone();
        shifted.splice(1_000_000..1_000_000, noise(5000, 2));
        let cut = data[..2 << 20].to_vec();
        let twice = [&data[1 << 20..], &data].concat();
        for (name, data, at_most) in
            [("flipped", flipped, 1_000), ("shifted", shifted, 6_500), ("cut", cut, 1_000), ("twice", twice, 1_100)]
        {
            let new = image(&key, "1.0.1", data);
            let pack = Pack { old: Some(&old), new: &new, floor: Release::default(), is_downgrade: false };
            let packed = pack.pack(&key).unwrap();
            assert!(packed.bytes.len() < at_most, "{name}: {} bytes", packed.bytes.len());
            let manifest =
                Manifest::decode(packed.bytes.first_chunk::<MANIFEST_BYTES>().unwrap(), key.verifying()).unwrap();
            assert_eq!((manifest.version, manifest.base.is_some()), ("1.0.1", true));
            let sum = MANIFEST_BYTES + HEAD_BYTES + packed.streams.iter().sum::<u64>() as usize;
            assert_eq!(packed.bytes.len(), sum);
        }
        let alone = Pack { old: None, new: &old, floor: Release::default(), is_downgrade: false }.pack(&key).unwrap();
        assert!(alone.bytes.len() > 3 << 20, "noise has no short form");
    }

    #[test]
    fn what_is_no_image_or_no_release_is_refused() {
        let scratch = Scratch::new("bundle-refused");
        let key = key(&scratch);
        let good = image(&key, "1.0.0", noise(10_000, 1));
        let pack = |old, new| Pack { old, new, floor: Release::default(), is_downgrade: false }.pack(&key);
        for (old, new, expected) in [
            (None, &good[..100], "the new image: shorter"),
            (Some(&good[1..]), &good[..], "the base: no slot header"),
            (None, &image(&key, "next", noise(10_000, 1))[..], "expected three numbers"),
        ] {
            let error = format!("{:#}", pack(old, new).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
