//! Packs a tree into a read-only EROFS image: the same bytes for the same tree.

use std::path::Path;
use std::process::Command;

/// How a tree is packed.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    /// mkfs.erofs' `-z`; absent: nothing is compressed.
    pub compressor: Option<&'static str>,
    /// Bytes of compressed data that are decompressed together (mkfs.erofs' `-C`).
    pub cluster_bytes: u32,
    /// Files that have clusters of their own size; 0 leaves a file uncompressed. Patterns are extended regular
    /// expressions on the path without its leading `/`; the first that matches counts.
    pub hints: &'static [(&'static str, u32)],
}

impl Packing {
    /// What `--compress-hints` reads: a line for each file, cluster size first.
    pub fn hints_file(&self) -> String {
        self.hints.iter().map(|(pattern, bytes)| format!("{bytes} {pattern}\n")).collect()
    }
}

/// The command that packs `tree` into `image`; `hints`, if any, is a file with [`Packing::hints_file`].
pub fn command(mkfs: &Path, packing: &Packing, hints: Option<&Path>, uuid: &str, tree: &Path, image: &Path) -> Command {
    let mut command = Command::new(mkfs);
    // No clock, no owner, no label of the building host's file system gets in.
    command.args(["--quiet", "-T0", "--all-root", "-x-1", "-U", uuid]);
    if let Some(compressor) = packing.compressor {
        command.arg(format!("-z{compressor}")).arg(format!("-C{}", packing.cluster_bytes));
        if let Some(hints) = hints {
            command.arg(format!("--compress-hints={}", hints.display()));
        }
    }
    command.arg(image).arg(tree);
    command
}
