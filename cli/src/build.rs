//! `perigee build`: the disks of a mission, and the programs to work with them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use perigee_image::build::{Arch, Ctx};
use perigee_image::node::{self, Built, Disks};

/// What is built.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
// `run`'s are called so, too, and two groups of arguments cannot have one name.
#[group(skip)]
pub struct Args {
    /// Processor architecture: x86_64 or aarch64.
    #[arg(long, default_value = "x86_64", value_parser = arch)]
    pub target: Arch,
    /// The mission file.
    #[arg(long, default_value = "mission.toml")]
    pub mission: PathBuf,
}

/// Builds the disks, and says where they are.
pub fn build(args: &Args) -> Result<()> {
    let built = mission(args, Disks::Write)?;
    for node in &built.nodes {
        println!("build: {} is ready to be burned: {}", node.name, node.disk.display());
    }
    Ok(())
}

/// Builds a mission below `out/` of the clone that we are in; this program goes to `out/bin`.
pub(crate) fn mission(args: &Args, disks: Disks) -> Result<Built> {
    let (repo, out) = (repo()?, out()?);
    install_self(&out.join("bin"))?;
    node::build(&Ctx::new(repo)?, args.target, &args.mission, &out, disks)
}

/// Where everything that is built for people goes.
pub(crate) fn out() -> Result<PathBuf> {
    Ok(repo()?.join("out"))
}

/// The clone that we are in.
fn repo() -> Result<PathBuf> {
    let here = std::env::current_dir().context("find the current folder")?;
    let repo = here.ancestors().find(|folder| folder.join("kernel-config").is_dir() && folder.join("rootfs").is_dir());
    repo.map(Path::to_owned).ok_or_else(|| {
        anyhow!("{} is in no clone of perigee, and only there machines are built; go to one", here.display())
    })
}

/// Copies this program for people: `out/bin/perigee`.
fn install_self(folder: &Path) -> Result<()> {
    let (program, installed) = (std::env::current_exe()?, folder.join("perigee"));
    if program == installed {
        return Ok(());
    }
    let partial = folder.join("perigee.partial");
    fs::create_dir_all(folder)
        .and_then(|()| fs::copy(&program, &partial))
        .and_then(|_| fs::rename(&partial, &installed))
        .with_context(|| format!("copy {} to {}", program.display(), installed.display()))
}

fn arch(name: &str) -> Result<Arch> {
    Arch::from_name(name).with_context(|| format!("expected {}", Arch::ALL.map(Arch::name).join(" or ")))
}
