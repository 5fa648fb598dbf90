//! The disk: a GUID partition table and what is in each partition. docs/formats.md has the sizes' reasons.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::gpt::{self, ALIGNMENT_BYTES, Guid, Partition};

const MIB: u64 = 1 << 20;
/// A card of the smallest size still sold; the file is sparse.
pub const DISK_BYTES: u64 = 8 << 30;
/// One ESP, bytes: room for the loader and for what boards want beside it.
pub const ESP_BYTES: u64 = 64 * MIB;
/// How much is compared at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// All partitions but the last, in the disk's order, with their sizes. Copies of one thing stand far apart, so that
/// no one damaged region of the card has two of them.
const PARTITIONS: [(&str, Guid, u64); 10] = [
    ("esp-a", Guid::ESP, ESP_BYTES),
    ("state-0", Guid::LINUX, 4 * MIB),
    ("slot-a", Guid::LINUX, 384 * MIB),
    ("config-a", Guid::LINUX, 16 * MIB),
    ("state-1", Guid::LINUX, 4 * MIB),
    ("slot-b", Guid::LINUX, 384 * MIB),
    ("config-b", Guid::LINUX, 16 * MIB),
    ("golden", Guid::LINUX, 128 * MIB),
    ("esp-b", Guid::ESP, ESP_BYTES),
    ("state-2", Guid::LINUX, 4 * MIB),
];
/// The last one has the rest: on a larger card there is more of it.
const DATA: &str = "data";

/// The partitions of a disk of `disk_bytes` that belongs to `owner` (mission and node): the same GUIDs every time.
pub fn layout(owner: &[&str], disk_bytes: u64) -> Result<Vec<Partition>> {
    let mut start = ALIGNMENT_BYTES;
    let mut partitions = Vec::new();
    let mut add = |name, kind, length| {
        let id = Guid::derive(&[owner, &[name]].concat());
        partitions.push(Partition { name, kind, id, start, length });
        start += length;
        start
    };
    let mut end = 0;
    for (name, kind, length) in PARTITIONS {
        end = add(name, kind, length);
    }
    // The second table needs a part of the last group.
    let usable = disk_bytes / ALIGNMENT_BYTES * ALIGNMENT_BYTES - ALIGNMENT_BYTES;
    ensure!(usable > end, "a disk of {disk_bytes} bytes has no room for data behind {end} bytes of slots");
    add(DATA, Guid::LINUX, usable - end);
    Ok(partitions)
}

/// What goes into one partition.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// The partition's name.
    pub partition: &'static str,
    /// What stands from its start.
    pub source: &'a Path,
    /// What stands up to its end, bytes; between the two there are zeros.
    pub end: &'a [u8],
}

impl<'a> Content<'a> {
    /// A file from the partition's start, and nothing behind it.
    pub const fn new(partition: &'static str, source: &'a Path) -> Self {
        Self { partition, source, end: &[] }
    }
}

/// What [`write`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// There was no such disk: everything.
    New,
    /// These partitions.
    Partitions(Vec<&'static str>),
    /// Nothing was different.
    Nothing,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => write!(f, "is new"),
            Self::Partitions(names) => write!(f, "keeps its data; written: {}", names.join(", ")),
            Self::Nothing => write!(f, "is as it was"),
        }
    }
}

/// Makes `disk` hold `contents`. On a disk that is there already only what differs is written, and `initial` (what
/// the node itself changes: data) is left alone; a disk with another layout is made anew.
///
/// The node must not run: its disk would change under it.
pub fn write(disk: &Path, owner: &[&str], contents: &[Content<'_>], initial: &[Content<'_>]) -> Result<Written> {
    let partitions = layout(owner, DISK_BYTES)?;
    let tables = gpt::tables(Guid::derive(owner), DISK_BYTES, &partitions)?;
    if !has_layout(disk, &tables.head) {
        let partial = disk.with_extension("img.partial");
        let file = File::create(&partial).with_context(|| format!("create {}", partial.display()))?;
        file.set_len(DISK_BYTES).with_context(|| format!("size {}", partial.display()))?;
        drop(file);
        fill(&partial, &partitions, contents, Behind::IsEmpty)?;
        fill(&partial, &partitions, initial, Behind::IsEmpty)?;
        let file = OpenOptions::new().write(true).open(&partial)?;
        file.write_all_at(&tables.tail, DISK_BYTES - tables.tail.len() as u64)?;
        file.write_all_at(&tables.head, 0)?;
        fs::rename(&partial, disk).with_context(|| format!("keep {}", disk.display()))?;
        return Ok(Written::New);
    }
    let changed = fill(disk, &partitions, contents, Behind::HasAnything)?;
    Ok(if changed.is_empty() { Written::Nothing } else { Written::Partitions(changed) })
}

fn has_layout(disk: &Path, head: &[u8]) -> bool {
    let Ok(mut file) = File::open(disk) else { return false };
    let mut found = vec![0; head.len()];
    file.metadata().is_ok_and(|meta| meta.len() == DISK_BYTES) && file.read_exact(&mut found).is_ok() && found == head
}

/// What a partition has behind its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    /// Zeros: a new file's hole.
    IsEmpty,
    /// Perhaps the end of longer contents, to be made zeros.
    HasAnything,
}

fn fill(disk: &Path, partitions: &[Partition], contents: &[Content<'_>], behind: Behind) -> Result<Vec<&'static str>> {
    let file =
        OpenOptions::new().read(true).write(true).open(disk).with_context(|| format!("open {}", disk.display()))?;
    let mut changed = Vec::new();
    for content in contents {
        let name = content.partition;
        let partition = partitions.iter().find(|partition| partition.name == name);
        let partition = partition.with_context(|| format!("the layout has no partition {name}"))?;
        let written = sync(&file, partition, content, behind)
            .with_context(|| format!("write {} to {name} of {}", content.source.display(), disk.display()))?;
        if written {
            changed.push(partition.name);
        }
    }
    Ok(changed)
}

/// Makes the partition hold its content, and zeros elsewhere; writes only what differs, so that a sparse file stays
/// sparse. Returns whether anything did.
fn sync(disk: &File, partition: &Partition, content: &Content<'_>, behind: Behind) -> Result<bool> {
    let mut source = File::open(content.source)?;
    let length = source.metadata()?.len();
    let end_at = partition.length.checked_sub(content.end.len() as u64).filter(|end_at| length <= *end_at);
    let end_at = end_at.with_context(|| {
        format!("{length} bytes and {} at the end do not fit into {}", content.end.len(), partition.length)
    })?;
    let (mut wanted, mut found) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut changed = false;
    let all = behind == Behind::HasAnything || !content.end.is_empty();
    for offset in (0..if all { partition.length } else { length }).step_by(CHUNK_BYTES) {
        let have = length.saturating_sub(offset).min(CHUNK_BYTES as u64) as usize;
        source.read_exact(&mut wanted[..have])?;
        wanted[have..].fill(0);
        // Partitions are whole chunks long, and what stands at their ends is shorter than one.
        if let Some(at) = end_at.checked_sub(offset).filter(|at| *at < CHUNK_BYTES as u64) {
            wanted[at as usize..].copy_from_slice(content.end);
        }
        disk.read_exact_at(&mut found, partition.start + offset)?;
        if wanted != found {
            disk.write_all_at(&wanted, partition.start + offset)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Where a node's disk stands: `<folder>/<node>.img`.
pub fn path(folder: &Path, node: &str) -> PathBuf {
    folder.join(format!("{node}.img"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    const OWNER: [&str; 2] = ["pair", "node-1"];

    #[test]
    fn partitions_are_aligned_and_none_overlap() {
        let partitions = layout(&OWNER, DISK_BYTES).unwrap();
        gpt::tables(Guid::derive(&OWNER), DISK_BYTES, &partitions).unwrap();
        let names: Vec<_> = partitions.iter().map(|partition| partition.name).collect();
        assert_eq!(names.len(), 11);
        assert_eq!(names.last(), Some(&"data"));
        for pair in partitions.windows(2) {
            assert_eq!(pair[0].start + pair[0].length, pair[1].start);
        }
    }

    #[test]
    fn copies_of_one_thing_stand_far_apart() {
        let partitions = layout(&OWNER, DISK_BYTES).unwrap();
        let start = |name: &str| partitions.iter().find(|partition| partition.name == name).unwrap().start;
        for (one, other) in
            [("state-0", "state-1"), ("state-1", "state-2"), ("esp-a", "esp-b"), ("config-a", "config-b")]
        {
            assert!(start(other) - start(one) >= 256 * MIB, "{one} and {other}");
        }
    }

    #[test]
    fn a_disk_without_room_for_data_is_refused() {
        let error = layout(&OWNER, 1 << 30).unwrap_err().to_string();
        assert!(error.contains("no room for data"), "{error}");
    }

    #[test]
    fn a_second_write_changes_what_differs_and_keeps_data() {
        let scratch = Scratch::new("disk");
        let path = |name: &str| scratch.path().join(name);
        let disk = path("node-1.img");
        fs::write(path("slot"), vec![1; 5000]).unwrap();
        fs::write(path("data"), vec![2; 5000]).unwrap();
        let (slot, data) = (path("slot"), path("data"));
        let write = || {
            write(
                &disk,
                &OWNER,
                &[Content { end: b"the end", ..Content::new("slot-a", &slot) }],
                &[Content::new("data", &data)],
            )
            .unwrap()
        };
        assert_eq!(write(), Written::New);
        assert_eq!(write(), Written::Nothing);

        let partitions = layout(&OWNER, DISK_BYTES).unwrap();
        let start = |name: &str| partitions.iter().find(|partition| partition.name == name).unwrap().start;
        let file = OpenOptions::new().read(true).write(true).open(&disk).unwrap();
        file.write_all_at(b"the node's", start("data")).unwrap();
        fs::write(&slot, vec![3; 4000]).unwrap();
        fs::write(&data, vec![4; 5000]).unwrap();
        assert_eq!(write(), Written::Partitions(vec!["slot-a"]));
        let mut found = [0; 5000];
        file.read_exact_at(&mut found, start("slot-a")).unwrap();
        assert!(found[..4000] == [3; 4000] && found[4000..] == [0; 1000], "the rest is zeros");
        file.read_exact_at(&mut found[..8], start("slot-a") + 384 * MIB - 8).unwrap();
        assert_eq!(&found[..8], b"\0the end");
        file.read_exact_at(&mut found[..10], start("data")).unwrap();
        assert_eq!(&found[..10], b"the node's");
    }

    #[test]
    fn contents_that_do_not_fit_are_refused_by_name() {
        let scratch = Scratch::new("disk-large");
        let large = scratch.path().join("large");
        File::create(&large).unwrap().set_len(17 * MIB).unwrap();
        let error = write(&scratch.path().join("x.img"), &OWNER, &[Content::new("config-a", &large)], &[]).unwrap_err();
        assert!(format!("{error:#}").contains("to config-a of"), "{error:#}");
    }
}
