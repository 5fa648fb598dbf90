//! Makes a slot from a payload: reads the patch, writes blocks, reads them again. A step at a time, in bounded memory:
//! what [`LZMA`]'s dictionaries take, the new slot's tree, and a mebibyte of blocks.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use lzma_rust2::LzmaReader;
use perigee_core::slot::header::{Arch, BLOCK_BYTES, Header, header_blocks};
use perigee_core::slot::scrub::{Blocks, Scrub};
use perigee_core::slot::verity::{Block, Hash};
use perigee_core::slot::writing::{self, Writing};
use perigee_core::update::manifest::{Manifest, Refusal};
use perigee_core::update::patch::{self, HEAD_BYTES, LZMA, Patch, Sources};

use crate::partition::Partition;

/// Blocks of data that are written in a step: a mebibyte.
const STEP_BLOCKS: usize = 256;
/// What is read of a stream at once.
const READ_BYTES: usize = 16 * 1024;

/// Where a slot's image is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its partition.
    pub partition: PathBuf,
    /// Its data blocks, from the first on: the partition again, or verity's device over it, which corrects what it reads.
    pub data: PathBuf,
}

/// Why a slot was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundle is to blame.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A device or file cannot be used.
    #[error("{what}: {source}")]
    Medium {
        /// Which.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// The new slot is not what was written to it.
    #[error("{0} of the new slot's blocks are not what was written to them")]
    Lost(u64),
}

impl From<patch::Error> for Error {
    fn from(error: patch::Error) -> Self {
        Refusal::Patch(error).into()
    }
}

impl From<writing::Error> for Error {
    fn from(error: writing::Error) -> Self {
        match error {
            writing::Error::Header(error) => Refusal::Slot(error).into(),
            writing::Error::RootHash => Refusal::Image("its root hash differs").into(),
            writing::Error::Parity => Refusal::Image("its parity differs").into(),
            writing::Error::Medium(_) => Self::Medium { what: "the slot".into(), source: io::Error::other(error) },
        }
    }
}

/// The header of the image in a partition, if there is one that `key` has signed.
pub fn header(partition: &mut Partition, key: &VerifyingKey) -> Option<Block> {
    header_blocks(partition.count()).into_iter().find_map(|at| {
        let mut block = [0; BLOCK_BYTES];
        let read = partition.read(at, &mut block) && Header::decode(&block, key).is_ok();
        read.then_some(block)
    })
}

/// A slot that is being made.
pub struct Work {
    patch: Patch,
    streams: Streams,
    writing: Writing,
    slot: Partition,
    key: VerifyingKey,
    check: Option<Scrub>,
    done: u64,
    all: u64,
}

impl Work {
    /// Reads the new slot's header out of the payload, and nothing is written yet.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn begin(
        manifest: &Manifest<'_>,
        payload: Arc<File>,
        base: Option<&Place>,
        slot: &Place,
        key: VerifyingKey,
    ) -> Result<Self, Error> {
        let open = |path: &PathBuf| Partition::open(path).map_err(|source| medium(path, source));
        let mut streams = Streams::new(payload, manifest.payload_bytes)?;
        if let Some(base) = base {
            let mut partition = open(&base.partition)?;
            let block = header(&mut partition, &key).ok_or(Refusal::Base)?;
            let length = Header::decode(&block, &key).map_err(Refusal::Slot)?.layout.data_blocks;
            let data = File::open(&base.data).map_err(|source| medium(&base.data, source))?;
            streams.old = Some(Old { header: block, data, bytes: u64::from(length) * BLOCK_BYTES as u64 });
        }
        let (mut patch, mut first) = (Patch::default(), [0; BLOCK_BYTES]);
        patch.fill(&mut streams, &mut first)?;
        manifest.check_header(&first)?;
        let slot = open(&slot.partition)?;
        let writing = Writing::begin(&first, &key, manifest.arch, slot.count())?;
        let layout = writing.layout();
        // Written once, and once read again.
        let all = 2 * u64::from(layout.end_block);
        Ok(Self { patch, streams, writing, slot, key, check: None, done: 0, all })
    }

    /// Blocks that are done, of all: each is written and read.
    pub const fn progress(&self) -> (u64, u64) {
        (self.done, self.all)
    }

    /// Blocks that were different before.
    pub const fn written(&self) -> u64 {
        self.writing.written()
    }

    /// Takes the header of what was here away: from now on the slot is no slot until the work is over.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn clear(&mut self) -> Result<(), Error> {
        Ok(self.writing.clear(&mut self.slot)?)
    }

    /// The next step, about a mebibyte; gives whether there is another.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn step(&mut self) -> Result<bool, Error> {
        if let Some(check) = &mut self.check {
            let more = check.step(&mut self.slot, None);
            let tally = check.tally();
            self.done = (self.all / 2 + tally.read).min(self.all);
            return if tally.lost > 0 { Err(Error::Lost(tally.lost)) } else { Ok(more) };
        }
        let layout = self.writing.layout();
        if self.writing.has_all_data() {
            if !self.writing.step(&mut self.slot)? {
                self.check = Some(Scrub::open(&mut self.slot, None, &self.key, 0).ok_or(Error::Lost(1))?);
                self.done = self.all / 2;
            }
            return Ok(true);
        }
        let left = (u64::from(layout.data_blocks) - self.done) as usize;
        let mut blocks = vec![[0; BLOCK_BYTES]; left.min(STEP_BLOCKS)];
        self.patch.fill(&mut self.streams, blocks.as_flattened_mut())?;
        self.writing.data(&mut self.slot, &blocks)?;
        if !self.slot.flush() {
            return Err(writing::Error::Medium(self.done).into());
        }
        self.done += blocks.len() as u64;
        Ok(true)
    }
}

/// What a node has of the images that a patch may be for.
pub fn bases(places: &[(&'static str, Place)], key: &VerifyingKey) -> Vec<(&'static str, Hash, String)> {
    let has = |(name, place): &(&'static str, Place)| {
        let block = header(&mut Partition::open(&place.partition).ok()?, key)?;
        let header = Header::decode(&block, key).ok()?;
        Some((*name, header.layout.root_hash, header.version.to_owned()))
    };
    places.iter().filter_map(has).collect()
}

/// What this program runs on.
pub const ARCH: Arch = if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 };

fn medium(what: &Path, source: io::Error) -> Error {
    Error::Medium { what: what.display().to_string(), source }
}

/// The old image.
struct Old {
    header: Block,
    data: File,
    bytes: u64,
}

type Stream = LzmaReader<BufReader<Part>>;

/// A payload's three streams, and the old image.
struct Streams {
    steps: Stream,
    differences: Stream,
    news: Stream,
    old: Option<Old>,
}

impl Streams {
    fn new(payload: Arc<File>, bytes: u64) -> Result<Self, Error> {
        let mut head = [0; HEAD_BYTES];
        let damaged = |what: &'static str| Error::from(patch::Error::Stream(what));
        payload.read_exact_at(&mut head, 0).map_err(|_| damaged("lengths"))?;
        let lengths = head.as_chunks::<4>().0.iter().map(|length| u64::from(u32::from_le_bytes(*length)));
        let mut start = HEAD_BYTES as u64;
        let mut streams = Vec::new();
        for (length, dictionary) in lengths.map(Some).chain([None]).zip(LZMA.dictionaries) {
            let end = length.map_or(bytes, |length| start + length);
            if end > bytes {
                return Err(damaged("lengths"));
            }
            let part = BufReader::with_capacity(READ_BYTES, Part { file: payload.clone(), at: start, end });
            let [lc, lp, pb] = LZMA.lc_lp_pb.map(u32::from);
            streams
                .push(LzmaReader::new(part, u64::MAX, lc, lp, pb, dictionary, None).map_err(|_| damaged("streams"))?);
            start = end;
        }
        let Ok([steps, differences, news]) = <[Stream; 3]>::try_from(streams) else { return Err(damaged("streams")) };
        Ok(Self { steps, differences, news, old: None })
    }
}

impl Sources for Streams {
    fn steps(&mut self, into: &mut [u8]) -> bool {
        self.steps.read_exact(into).is_ok()
    }

    fn differences(&mut self, into: &mut [u8]) -> bool {
        self.differences.read_exact(into).is_ok()
    }

    fn news(&mut self, into: &mut [u8]) -> bool {
        self.news.read_exact(into).is_ok()
    }

    fn old(&mut self, at: u64, into: &mut [u8]) -> bool {
        let Some(old) = &self.old else { return false };
        let (start, header) = (BLOCK_BYTES as u64, old.header);
        let from_header = start.saturating_sub(at).min(into.len() as u64) as usize;
        let (head, rest) = into.split_at_mut(from_header);
        head.copy_from_slice(header.get(at as usize..).and_then(|header| header.get(..from_header)).unwrap_or(&[]));
        let Some(at) = (at + from_header as u64).checked_sub(start) else { return rest.is_empty() };
        let is_inside = at.checked_add(rest.len() as u64).is_some_and(|end| end <= old.bytes);
        is_inside && old.data.read_exact_at(rest, at).is_ok()
    }
}

/// A part of a file.
struct Part {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = (self.end - self.at).min(into.len() as u64) as usize;
        let read = self.file.read_at(&mut into[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
