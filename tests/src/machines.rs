//! Steps that boot machines.

mod boots;
mod data;
mod firmware;
mod link;
pub mod slots;
mod storage;
pub mod updates;

use std::fs::{self, File};
use std::time::SystemTime;

use anyhow::{Result, ensure};
use perigee_image::build::Arch;
use perigee_image::hardening::{self, Hardening};
use perigee_image::keys::SlotKey;
use perigee_image::loader;
use perigee_image::rootfs::MAX_BYTES;

use crate::lab::Lab;
use crate::suite::{Checks, Suite};

/// A step for one architecture, whose name goes before the architecture's.
type Step = (&'static str, fn(&mut Lab, Arch, &mut Checks) -> Result<()>);

const IMAGE: Step = ("image", image);
const MACHINES: [Step; 2] = [("boots", boots::run), ("data", data::run)];

/// Begins to build the image for `arch` beside whatever comes next, if a step wants it.
pub fn prepare(suite: &Suite, lab: &mut Lab, arch: Arch) {
    if MACHINES.iter().chain([&IMAGE]).any(|(name, _)| suite.wants(&of(name, arch))) {
        lab.prepare(arch);
    }
}

/// Waits for the image for `arch`, and looks at it.
pub fn image_step(suite: &mut Suite, lab: &mut Lab, arch: Arch) {
    let (name, run) = IMAGE;
    suite.group(&of(name, arch), |checks| run(lab, arch, checks));
}

/// Runs machines, one after the other: two emulated ones beside each other on two processors take more than twice as
/// long each (measured: 241 s instead of 105 s to the demo's first answer).
pub fn steps(suite: &mut Suite, lab: &mut Lab, arch: Arch) {
    for (name, run) in MACHINES {
        suite.group(&of(name, arch), |checks| run(lab, arch, checks));
    }
    match arch {
        Arch::X86_64 => suite.group("secure-boot-x86_64", |checks| firmware::secure_boot(lab, checks)),
        Arch::Aarch64 => suite.step("u-boot-aarch64", || firmware::u_boot(lab)),
    }
    // The controller and its driver are the same on both; one of them is enough. An emulated card takes minutes, and
    // this step has not been seen to its end yet: it runs when it is asked for.
    if arch == Arch::X86_64 && suite.asks_for("sd-card") {
        suite.step("sd-card-x86_64", || storage::sd_card(lab, arch));
    }
}

fn of(step: &str, arch: Arch) -> String {
    format!("{step}-{}", arch.name())
}

fn image(lab: &mut Lab, arch: Arch, checks: &mut Checks) -> Result<()> {
    let slot_bytes = checks.check("build", || Ok(lab.built(arch)?.rootfs.bytes))?;
    checks.check("slot-size", || {
        ensure!(slot_bytes <= MAX_BYTES, "the slot has {slot_bytes} bytes, at most {MAX_BYTES} may be");
        Ok(())
    })?;
    checks.check("loader-again", || same_loader(lab, arch))?;
    checks.check("hardening", || hardened(lab, arch))
}

/// Linked again, the loader has the same bytes: it is not written to cards that have it.
fn same_loader(lab: &mut Lab, arch: Arch) -> Result<()> {
    let (key, path) = (SlotKey::find(&lab.keys())?, lab.built(arch)?.loader.clone());
    let before = fs::read(&path)?;
    let source = lab.ctx().repo.join("boot/src/main.rs");
    File::options().append(true).open(&source).and_then(|file| file.set_modified(SystemTime::now()))?;
    ensure!(fs::read(loader::build(lab.ctx(), arch, &key)?)? == before, "{} is another one now", path.display());
    Ok(())
}

/// At least this share of kernel-hardening-checker's checks is OK, and the report gives a reason for each other one.
fn hardened(lab: &mut Lab, arch: Arch) -> Result<()> {
    const LEAST_PERCENT: usize = 80;
    const REPORT: &str = "kernel-config/hardening-report.md";
    let kernel = lab.built(arch)?.kernel.clone();
    let Hardening { ok, total, failed } = hardening::check(lab.ctx(), &kernel)?;
    ensure!(ok * 100 >= total * LEAST_PERCENT, "{ok} of {total} checks are OK; not OK: {}", failed.join(", "));
    let report = fs::read_to_string(lab.ctx().repo.join(REPORT))?;
    let unexplained: Vec<_> = failed.into_iter().filter(|option| !report.contains(option)).collect();
    ensure!(unexplained.is_empty(), "{REPORT} gives no reason for: {}", unexplained.join(", "));
    Ok(())
}
