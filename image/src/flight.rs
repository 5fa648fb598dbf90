//! The workspace's own programs as they fly: static, stripped, and the same bytes from every clone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build::{self, Arch, Ctx, Key};
use crate::rust_std::RustStd;

/// The programs, as files of one architecture.
#[derive(Clone, Debug)]
pub struct FlightBins {
    /// PID 1.
    pub init: PathBuf,
    /// The node's voice.
    pub agent: PathBuf,
    /// The demo application, for its container image.
    pub demo: PathBuf,
    /// The pod sandbox's process, for its container image.
    pub pause: PathBuf,
}

/// Builds the programs for `arch`; cargo decides what is stale.
pub fn build(ctx: &Ctx, arch: Arch) -> Result<FlightBins> {
    let target = arch.rust_target();
    let std = RustStd::provide(ctx, target)?;
    let target_dir = target_dir(ctx, arch.name());
    let mut cargo = cargo(ctx, target, &flags(&ctx.repo)?, &target_dir);
    cargo
        .args(["--package=perigee-init", "--package=perigee-agent", "--package=demo", "--package=pause"])
        .env(linker_variable(target), format!("{}gcc", arch.gnu_prefix()));
    std.apply(&mut cargo, "std,panic_abort");
    ctx.always(&format!("flight-{}", arch.name()), USUAL, &target_dir, |job| job.run(&mut cargo))?;
    let built = |name: &str| target_dir.join(target).join("flight").join(name);
    Ok(FlightBins { init: built("init"), agent: built("perigee-agent"), demo: built("demo"), pause: built("pause") })
}

/// `cargo build` of what flies for `target`, into `target_dir`; which packages that are is for the caller to add.
pub(crate) fn cargo(ctx: &Ctx, target: &str, flags: &[String], target_dir: &Path) -> Command {
    let mut cargo = build::cargo(&ctx.repo);
    cargo
        .args(["build", "--locked", "--profile", "flight", "--target", target])
        .arg(format!("--jobs={}", ctx.jobs))
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_DIR", target_dir);
    cargo
}

/// Cargo's folder in the cache for what `purpose` says. Cargo tells files by their times, flags and tool chain: clones or
/// architectures that shared one would undo each other's work. What is in it has another content tomorrow: it must not
/// look like a step's result.
pub(crate) fn target_dir(ctx: &Ctx, purpose: &str) -> PathBuf {
    let place = Key::new("1").text(&ctx.repo.display().to_string()).text(purpose).finish();
    ctx.cache.join("flight").join(place)
}

/// From nothing, on two cores, with the standard library compiled.
const USUAL: Duration = Duration::from_secs(60);

/// No loader and no libc in the image, so all is static.
fn flags(repo: &Path) -> Result<Vec<String>> {
    let mut flags = remap(repo)?;
    flags.push("-Ctarget-feature=+crt-static".to_owned());
    Ok(flags)
}

/// Nothing of the builder's paths stays in the bytes.
pub(crate) fn remap(repo: &Path) -> Result<Vec<String>> {
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo"),
    };
    Ok(vec![
        format!("--remap-path-prefix={}=/perigee", repo.display()),
        format!("--remap-path-prefix={}=/cargo", cargo_home.display()),
    ])
}

/// `CARGO_TARGET_<TRIPLE>_LINKER`.
fn linker_variable(target: &str) -> String {
    format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn a_program_that_changed_is_another_input() {
        let scratch = Scratch::new("flight");
        let ctx = Ctx { repo: scratch.path().into(), cache: scratch.path().join("cache"), jobs: 1 };
        let folder = target_dir(&ctx, "x86_64");
        assert_ne!(folder, target_dir(&ctx, "aarch64"));
        let program = folder.join("x86_64-unknown-linux-gnu/flight/init");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        let key = |text: &str| {
            fs::write(&program, text).unwrap();
            ctx.input(Key::new("rootfs"), &program).unwrap().finish()
        };
        assert_ne!(key("one"), key("two"));
    }
}
