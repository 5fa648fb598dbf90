//! The data file system as it leaves the ground: small, and grown by the node to its partition's size while mounted.
//!
//! A copy is in the root: a data partition that cannot be mended is replaced with it, so that no mkfs flies.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build::{Ctx, Key};
use crate::gpt::Guid;

/// Half a block group: what a lost file system costs to write anew.
const IMAGE_BYTES: u64 = 64 << 20;
/// Named one by one: mke2fs.conf of the building host has no say, and the flown e2fsck knows them all.
///
/// metadata_csum finds flipped bits, 64bit makes its checksums 32 bits wide, resize_inode keeps the descriptors'
/// room for growing, has_journal makes a power cut harmless; the rest is ext4's usual layout.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,sparse_super,large_file,huge_file,filetype,\
                        extent,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize";
/// Can grow to 512 GiB (in blocks of 4 KiB): 63 reserved blocks in each of the first groups.
const MAX_BLOCKS: u64 = (512 << 30) / 4096;
/// 2,048 inodes in this half group, so 2,048 in each whole one: one for 64 KiB. The default is four times as many,
/// each to be zeroed on the card after growing.
const BYTES_PER_INODE: &str = "32768";
/// A transaction takes at most a quarter; the largest here (an image being unpacked) is under 1 MiB. A larger journal
/// would only be more to replay.
const JOURNAL: &str = "size=16";
/// Percent that only root's processes can use: a pod that fills the disk does not stop etcd or the kubelet.
const RESERVED_PERCENT: &str = "5";

/// `data.ext4`, made once: it is the same for all nodes and architectures.
pub fn build(ctx: &Ctx) -> Result<PathBuf> {
    let [id, seed] = ["id", "hash seed"].map(|what| Guid::derive(&["data.ext4", what]).to_string());
    // All tables are written here: on a used card what is not written is not zero.
    let extended =
        format!("nodiscard,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,hash_seed={seed},resize={MAX_BLOCKS}");
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs
        // Zero would mean "now".
        .env("E2FSPROGS_FAKE_TIME", "1")
        .env("MKE2FS_CONFIG", "/dev/null")
        .args(["-q", "-F", "-b", "4096", "-I", "256", "-L", "data", "-U", &id])
        .args(["-i", BYTES_PER_INODE, "-m", RESERVED_PERCENT, "-J", JOURNAL])
        // A file system that contradicts itself is not written to any more.
        .args(["-e", "remount-ro", "-E", &extended, "-O", FEATURES]);
    let key = Key::new("data 1").text(&format!("{IMAGE_BYTES} {mkfs:?}"));
    let done = ctx.step("data", Duration::from_secs(1), key, |job| {
        let image = job.out.join("data.ext4");
        File::create(&image).and_then(|file| file.set_len(IMAGE_BYTES)).context("create data.ext4")?;
        job.run(mkfs.arg(&image))
    })?;
    Ok(done.join("data.ext4"))
}
