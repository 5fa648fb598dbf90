//! A copy of a built disk that things happen to between its node's lives.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use perigee_image::build::Arch;
use perigee_image::disk::{DISK_BYTES, layout};
use perigee_image::gpt::Partition;
use perigee_qemu::{Plan, disk};

use crate::lab::Lab;

/// Partitions' owner: here only their places matter, and those are the same on every disk.
pub const OWNER: [&str; 2] = ["test", "card"];

/// The copy, removed when dropped.
#[derive(Debug)]
pub struct Card {
    /// For files beside it.
    pub folder: PathBuf,
    image: PathBuf,
}

impl Card {
    /// The first node's disk as it was built, for the test `name`.
    pub fn new(lab: &mut Lab, arch: Arch, name: &str) -> Result<Self> {
        let folder = lab.folder(arch, name);
        fs::create_dir_all(&folder)?;
        let image = folder.join("card.img");
        disk::copy(&lab.built(arch)?.nodes[0].disk, &image)?;
        Ok(Self { folder, image })
    }

    /// The image.
    pub fn path(&self) -> &Path {
        &self.image
    }

    /// Has a plan's first node live on a copy of it.
    pub fn insert(&self, plan: &mut Plan) {
        plan.nodes[0].disk.clone_from(&self.image);
    }

    /// The image, open to be changed.
    pub fn open(&self) -> Result<File> {
        let file = File::options().read(true).write(true).open(&self.image);
        file.with_context(|| format!("open {}", self.image.display()))
    }

    /// Writes `contents` to a partition's start and `end` to its end.
    pub fn put(&self, name: &str, contents: &[u8], end: &[u8]) -> Result<()> {
        let (disk, place) = (self.open()?, partition(name)?);
        disk.write_all_at(contents, place.start)?;
        Ok(disk.write_all_at(end, place.start + place.length - end.len() as u64)?)
    }

    /// Flips a bit of the byte at `offset` of a partition.
    pub fn flip(&self, name: &str, offset: u64, bit: u32) -> Result<()> {
        let (file, at) = (self.open()?, partition(name)?.start + offset);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        byte[0] ^= 1 << (bit % 8);
        Ok(file.write_all_at(&byte, at)?)
    }

    /// Takes `image` for the card from now on.
    pub fn replace(&self, image: &Path) -> Result<()> {
        Ok(fs::rename(image, &self.image)?)
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // One that stays is written over by the next.
        let _ = fs::remove_file(&self.image);
    }
}

/// Where a partition is on every disk.
pub fn partition(name: &str) -> Result<Partition> {
    let found = layout(&OWNER, DISK_BYTES)?.into_iter().find(|partition| partition.name == name);
    found.with_context(|| format!("the layout has no partition {name}"))
}
