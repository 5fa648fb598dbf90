//! The loader, an EFI application with the public key of those whose slots it starts.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::build::{Arch, Ctx, Key};
use crate::flight;
use crate::keys::SlotKey;
use crate::rust_std::RustStd;

/// It is read from FAT by firmware that may be slow, and is on the disk twice: small on purpose, bytes.
pub const MAX_BYTES: u64 = 200_000;
/// From nothing, on two cores.
const USUAL: Duration = Duration::from_secs(30);

/// Builds the loader for `arch`; cargo decides what is stale.
pub fn build(ctx: &Ctx, arch: Arch, key: &SlotKey) -> Result<PathBuf> {
    let target = match arch {
        Arch::X86_64 => "x86_64-unknown-uefi",
        Arch::Aarch64 => "aarch64-unknown-uefi",
    };
    let std = RustStd::provide(ctx, target)?;
    let target_dir = flight::target_dir(ctx, target);
    fs::create_dir_all(&target_dir).with_context(|| format!("create {}", target_dir.display()))?;
    // A path with the key's own hash: cargo knows the loader as stale when it is another one.
    let public = target_dir.join(format!("slot-{}.pub", Key::new("").text(&format!("{:?}", key.verifying())).finish()));
    if fs::read(&public).ok().as_deref() != Some(key.verifying().as_bytes()) {
        fs::write(&public, key.verifying().as_bytes()).with_context(|| format!("write {}", public.display()))?;
    }
    let mut flags = flight::remap(&ctx.repo)?;
    // The linker would put the time of linking into the header: a hash instead.
    flags.push("-Clink-arg=/Brepro".to_owned());
    let mut cargo = flight::cargo(ctx, target, &flags, &target_dir);
    cargo.arg("--package=perigee-boot").env("PERIGEE_SLOT_KEY", &public);
    std.apply(&mut cargo, "core,alloc,compiler_builtins");
    if let RustStd::Source(_) = std {
        cargo.arg("-Zbuild-std-features=compiler-builtins-mem");
    }
    ctx.always(&format!("loader-{}", arch.name()), USUAL, &target_dir, |job| job.run(&mut cargo))?;
    let loader = target_dir.join(target).join("flight/boot.efi");
    let bytes = fs::metadata(&loader).with_context(|| format!("read {}", loader.display()))?.len();
    ensure!(bytes <= MAX_BYTES, "the loader has {bytes} bytes, at most {MAX_BYTES} are meant for it");
    Ok(loader)
}
