//! Programs that are neither Rust nor Go: `nft` and `e2fsck` for the image, `mkfs.erofs` and `cargo-deny` for the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build::{Arch, Ctx, Job, Key};
use crate::debian::Package;
use crate::solink;

/// Where the libraries stand in `nft`'s address space: beyond the program and `libc.a`'s part (3 MiB), and apart.
const NFTABLES_BASE: u64 = 0x0100_0000;
const MNL_BASE: u64 = 0x0200_0000;

/// A static `nft` with JSON, as kube-proxy's nftables mode and the CNI plugins call it.
///
/// libnftables and libmnl are Debian's binaries, linked as `solink` tells; libnftnl, jansson and gmp are Debian's
/// static libraries; the command line is `image/native/nft.c`.
pub fn nft(ctx: &Ctx, arch: Arch) -> Result<PathBuf> {
    let debian = arch.debian();
    let names = ["libnftables1", "libnftables-dev", "libmnl0", "libnftnl-dev", "libjansson-dev", "libgmp-dev"];
    let names = names.map(|name| format!("{name}:{debian}"));
    let packages = Package::binaries(ctx, names.each_ref().map(String::as_str))?;
    let command_line = ctx.repo.join("image/native/nft.c");
    let mut key = Key::new("1").text(debian).path(&command_line)?.path(&ctx.repo.join("image/src/solink.rs"))?;
    for package in &packages {
        key = key.text(&package.id());
    }
    let done = ctx.step(&format!("nft-{}", arch.name()), Duration::from_secs(20), key, |job| {
        let root = job.out.join("root");
        for package in &packages {
            package.unpack(job, &root)?;
        }
        link_nft(job, arch, &root, packages[0].upstream(), &command_line)?;
        Ok(fs::remove_dir_all(root)?)
    })?;
    Ok(done.join("nft"))
}

fn link_nft(job: &Job, arch: Arch, root: &Path, version: &str, command_line: &Path) -> Result<()> {
    let prefix = arch.gnu_prefix();
    let libraries = root.join("usr/lib").join(prefix.trim_end_matches('-'));
    let output = job.out.join("nft");
    let mut gcc = Command::new(format!("{prefix}gcc"));
    gcc.args(["-static", "-Os", "-Wall", "-Wextra", "-Werror", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"])
        .args(["-Wl,-z,noexecstack", "-Wl,--build-id=none", "-o"])
        .arg(&output)
        .arg(format!("-DNFTABLES_VERSION=\"{version}\""))
        .arg("-I")
        .arg(root.join("usr/include"))
        .arg(command_line);
    for (file, name, base) in [("libnftables.so.1", "nftables", NFTABLES_BASE), ("libmnl.so.0", "mnl", MNL_BASE)] {
        let source = root.join(format!("{name}.s"));
        gcc.args(solink::to_assembly(&libraries.join(file), name, base, &source)?).arg(source);
    }
    for archive in ["libnftnl.a", "libjansson.a", "libgmp.a"] {
        gcc.arg(libraries.join(archive));
    }
    job.run(&mut gcc)?;
    job.run(Command::new(format!("{prefix}strip")).arg(&output))
}

/// Debian's static `e2fsck`, which repairs the data partition before it is mounted.
pub fn e2fsck(ctx: &Ctx, arch: Arch) -> Result<PathBuf> {
    let [package] = Package::binaries(ctx, [&format!("e2fsck-static:{}", arch.debian())])?;
    let name = format!("e2fsck-{}", arch.name());
    let done = ctx.step(&name, Duration::from_secs(3), Key::new("1").text(&package.id()), |job| {
        let root = job.out.join("root");
        package.unpack(job, &root)?;
        fs::copy(root.join("sbin/e2fsck.static"), job.out.join("e2fsck")).context("take e2fsck.static")?;
        Ok(fs::remove_dir_all(root)?)
    })?;
    Ok(done.join("e2fsck"))
}

/// Static `mount` and `umount`, which the kubelet runs for the volumes of pods.
#[derive(Clone, Debug)]
pub struct MountTools {
    /// The `mount` program.
    pub mount: PathBuf,
    /// The `umount` program.
    pub umount: PathBuf,
}

/// util-linux's `mount` and `umount`, from Debian's newest source.
pub fn mount(ctx: &Ctx, arch: Arch) -> Result<MountTools> {
    let package = Package::source(ctx, "util-linux")?;
    let prefix = arch.gnu_prefix();
    let key = Key::new("1").text(&package.id()).text(arch.debian());
    let done = ctx.step(&format!("mount-{}", arch.name()), Duration::from_secs(100), key, |job| {
        let work = job.out.join("work");
        let tree = package.unpack_source(job, &work)?;
        job.run(
            Command::new("./configure")
                .arg(format!("--host={}", prefix.trim_end_matches('-')))
                .args(MOUNT_OPTIONS)
                .env("CFLAGS", "-Os -ffunction-sections -fdata-sections -fstack-protector-strong")
                .env("LDFLAGS", "-Wl,--gc-sections")
                .current_dir(&tree),
        )?;
        let mut make = Command::new("make");
        make.arg(format!("-j{}", ctx.jobs)).args(["mount.static", "umount.static"]);
        // Debian's patches are younger than the generated files, which are right nevertheless.
        make.args(["ACLOCAL=:", "AUTOCONF=:", "AUTOHEADER=:", "AUTOMAKE=:"]);
        job.run(make.current_dir(&tree))?;
        for program in ["mount", "umount"] {
            let output = job.out.join(program);
            fs::copy(tree.join(format!("{program}.static")), &output).with_context(|| format!("take {program}"))?;
            job.run(Command::new(format!("{prefix}strip")).arg(output))?;
        }
        Ok(fs::remove_dir_all(work)?)
    })?;
    Ok(MountTools { mount: done.join("mount"), umount: done.join("umount") })
}

/// Only the two programs and the libraries that they need; nothing that asks a daemon, a database or a locale.
const MOUNT_OPTIONS: [&str; 15] = [
    "--disable-all-programs",
    "--enable-libmount",
    "--enable-libblkid",
    "--enable-libuuid",
    "--enable-mount",
    "--enable-static-programs=mount,umount",
    "--enable-static",
    "--disable-shared",
    "--disable-nls",
    "--disable-asciidoc",
    "--without-selinux",
    "--without-cryptsetup",
    "--without-systemd",
    "--without-udev",
    "--without-python",
];

/// The host's `mkfs.erofs`, new enough for zstd, several threads and per-file compression hints.
///
/// bookworm's 1.5 writes lz4 only, so this one is built from the newest Debian source that setup configured.
pub fn mkfs_erofs(ctx: &Ctx) -> Result<PathBuf> {
    let package = Package::source(ctx, "erofs-utils")?;
    let done = ctx.step("mkfs-erofs", Duration::from_secs(45), Key::new("1").text(&package.id()), |job| {
        let work = job.out.join("work");
        let tree = package.unpack_source(job, &work)?;
        job.run(Command::new("autoreconf").args(["--force", "--install"]).current_dir(&tree))?;
        job.run(Command::new("./configure").args(EROFS_OPTIONS).current_dir(&tree))?;
        job.run(Command::new("make").arg(format!("-j{}", ctx.jobs)).current_dir(&tree))?;
        for tool in ["mkfs", "fsck", "dump"] {
            let program = format!("{tool}.erofs");
            fs::copy(tree.join(tool).join(&program), job.out.join(&program))
                .with_context(|| format!("take {program}"))?;
        }
        Ok(fs::remove_dir_all(work)?)
    })?;
    Ok(done.join("mkfs.erofs"))
}

/// What the root file system may be compressed with is named, so that a missing library fails here and not later.
const EROFS_OPTIONS: [&str; 6] = [
    "--enable-multithreading",
    "--enable-lz4",
    "--with-libzstd",
    "--disable-lzma",
    "--disable-fuse",
    "--without-selinux",
];

/// The version of cargo-deny that `deny.toml` is written for.
const CARGO_DENY: &str = "0.20.2";
/// The version of cargo-mutants whose survivors `docs/mutants.md` lists.
const CARGO_MUTANTS: &str = "27.1.0";

/// The host's `cargo-deny`, for the test suite; `cargo-deny check licenses bans sources` needs no network.
pub fn cargo_deny(ctx: &Ctx) -> Result<PathBuf> {
    installed(ctx, "cargo-deny", CARGO_DENY)
}

/// The host's `cargo-mutants`.
pub fn cargo_mutants(ctx: &Ctx) -> Result<PathBuf> {
    installed(ctx, "cargo-mutants", CARGO_MUTANTS)
}

/// A program of cargo's registry, compiled without optimization: it runs for a second or waits for others, and the
/// optimizer would take minutes.
fn installed(ctx: &Ctx, name: &str, version: &str) -> Result<PathBuf> {
    let done = ctx.step(name, Duration::from_secs(180), Key::new("1").text(version), |job| {
        let target = job.out.join("target");
        job.run(
            Command::new("cargo")
                .args(["install", "--locked", "--debug", "--no-default-features", "--version", version, "--root"])
                .arg(&job.out)
                .arg(format!("--jobs={}", ctx.jobs))
                .arg(name)
                .env("CARGO_TARGET_DIR", &target)
                .env("CARGO_PROFILE_DEV_DEBUG", "false")
                .env_remove("RUSTFLAGS"),
        )?;
        Ok(fs::remove_dir_all(target)?)
    })?;
    Ok(done.join("bin").join(name))
}
