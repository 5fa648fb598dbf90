//! Rust's standard library for targets other than the host's.
//!
//! With rustup it is one `rustup target add`. Where that cannot download, it is built from source with cargo's
//! `-Zbuild-std`, from a Debian package in the very version of the compiler.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::build::{Ctx, Key};
use crate::debian::Package;

/// How the standard library for a target is had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RustStd {
    /// Compiled, in the tool chain.
    Compiled,
    /// Its source, to be compiled along: the folder that has `std/`, `core/` and their `Cargo.lock`.
    Source(PathBuf),
}

impl RustStd {
    /// Makes the standard library for `target` available by whichever way works.
    pub fn provide(ctx: &Ctx, target: &str) -> Result<Self> {
        let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?.trim());
        if sysroot.join("lib/rustlib").join(target).join("lib").is_dir() {
            return Ok(Self::Compiled);
        }
        let add = Command::new("rustup").args(["target", "add", target]).stderr(Stdio::null()).status();
        if add.is_ok_and(|status| status.success()) {
            return Ok(Self::Compiled);
        }
        let component = sysroot.join("lib/rustlib/src/rust/library");
        if component.join("std").is_dir() {
            return Ok(Self::Source(component));
        }
        debian_source(ctx).with_context(|| format!("provide Rust's standard library for {target}")).map(Self::Source)
    }

    /// Tells `cargo` to compile `crates` (such as `std,panic_abort`, or `core,alloc`) along, where they are needed.
    pub fn apply(&self, cargo: &mut Command, crates: &str) {
        if let Self::Source(library) = self {
            cargo.arg(format!("-Zbuild-std={crates}"));
            // build-std is for nightly only unless the compiler is told that it bootstraps; cargo looks for the source
            // in the tool chain, which is not ours to write to, unless it is told otherwise.
            cargo.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
        }
    }
}

/// The standard library's source from Debian.
fn debian_source(ctx: &Ctx) -> Result<PathBuf> {
    let verbose = rustc(&["-vV"])?;
    let release =
        verbose.lines().find_map(|line| line.strip_prefix("release: ")).context("rustc -vV has no release")?;
    // The second is the Rust that Debian keeps current for its browsers.
    let package = Package::binary_of_upstream(ctx, "rust-src", release)
        .or_else(|_| Package::binary_of_upstream(ctx, "rust-web-src", release))?;
    let done = ctx.step("rust-src", Duration::from_secs(20), Key::new("1").text(&package.id()), |job| {
        let root = job.out.join("root");
        package.unpack(job, &root)?;
        let library = root.join(format!("usr/src/rustc-{release}/library"));
        std::fs::rename(&library, job.out.join("library")).with_context(|| format!("take {}", library.display()))?;
        Ok(std::fs::remove_dir_all(root)?)
    })?;
    Ok(done.join("library"))
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let output = Command::new("rustc").args(arguments).output().context("run rustc; image/setup.sh installs it")?;
    if !output.status.success() {
        bail!("rustc {} ended with {}", arguments.join(" "), output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}
