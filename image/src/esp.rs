//! The EFI System Partition: a FAT file system with the one file that firmware starts by itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build::{Arch, Ctx, Key};
use crate::disk::ESP_BYTES;

/// FAT's first day, 1980-01-01, seconds since 1970: the time of building is no input.
const FAT_EPOCH: &str = "315532800";

/// Where firmware looks on a disk that it knows nothing about (UEFI specification 2.10, section 3.5.1.1).
const fn removable_media_path(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "::EFI/BOOT/BOOTX64.EFI",
        Arch::Aarch64 => "::EFI/BOOT/BOOTAA64.EFI",
    }
}

/// The file system's image, with `application` (a kernel with its EFI stub) in it.
pub fn build(ctx: &Ctx, arch: Arch, application: &Path) -> Result<PathBuf> {
    let key = ctx.input(Key::new("esp 1").text(arch.name()), application)?;
    let done = ctx.step(&format!("esp-{}", arch.name()), Duration::from_secs(2), key, |job| {
        let image = job.out.join("esp.img");
        File::create(&image).and_then(|file| file.set_len(ESP_BYTES)).context("create esp.img")?;
        // FAT32, which every firmware reads and which has a second copy of its first sector; one sector a cluster,
        // as FAT32 needs more clusters (65,525) than 64 MiB have otherwise.
        job.run(Command::new("mkfs.vfat").args(["--invariant", "-F", "32", "-s", "1", "-n", "ESP"]).arg(&image))?;
        job.run(mtools("mmd").arg("-i").arg(&image).args(["::EFI", "::EFI/BOOT"]))?;
        let path = removable_media_path(arch);
        job.run(mtools("mcopy").arg("-i").arg(&image).arg(fs::canonicalize(application)?).arg(path))
    })?;
    Ok(done.join("esp.img"))
}

fn mtools(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("SOURCE_DATE_EPOCH", FAT_EPOCH).env("TZ", "UTC").env("MTOOLSRC", "/dev/null");
    command
}
