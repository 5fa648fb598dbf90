//! Disks for machines: what was built is never written to.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// A new qcow2 disk at `path` that reads as the raw image `base` until it is written.
///
/// Its size is rounded up to a power of two, because SD cards have no others (QEMU refuses them).
pub fn overlay(base: &Path, path: &Path) -> Result<()> {
    let size = fs::metadata(base).with_context(|| format!("read {}", base.display()))?.len();
    let base = base.canonicalize()?;
    let size = size.next_power_of_two().to_string();
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).args([&base, path]).arg(size);
    run(&mut create, path)
}

/// The raw image at `raw` that reads as the qcow2 disk `overlay` does now: for what is to happen to a disk between two
/// lives of a node.
pub fn flatten(overlay: &Path, raw: &Path) -> Result<()> {
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-q", "-f", "qcow2", "-O", "raw"]).args([overlay, raw]);
    run(&mut convert, raw)
}

/// Runs `qemu-img`, which makes `path`.
fn run(command: &mut Command, path: &Path) -> Result<()> {
    let output = command.output().context("start qemu-img (of qemu-utils)")?;
    ensure!(output.status.success(), "qemu-img for {}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A copy of the raw image `base` to be damaged: holes stay holes.
pub fn copy(base: &Path, path: &Path) -> Result<()> {
    let status = Command::new("cp")
        .args(["--sparse=always", "--reflink=auto"])
        .args([base, path])
        .status()
        .context("start cp")?;
    if !status.success() {
        bail!("cp {} {}: {status}", base.display(), path.display());
    }
    Ok(())
}
