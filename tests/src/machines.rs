//! Steps that boot machines.

mod boots;
mod data;
mod link;
pub mod slots;
mod storage;

use anyhow::{Result, ensure};
use perigee_image::build::Arch;
use perigee_image::hardening::{self, Hardening};
use perigee_image::rootfs::MAX_BYTES;

use crate::lab::Lab;
use crate::suite::Suite;

/// Builds images and runs all of them, one after the other: two emulated machines beside each other on two processors
/// take more than twice as long each (measured: 241 s instead of 105 s to the demo's first answer).
pub fn steps(suite: &mut Suite, lab: &mut Lab) {
    for arch in Arch::ALL {
        suite.group(&format!("image-{}", arch.name()), |checks| {
            let slot_bytes = checks.check("build", || Ok(lab.built(arch)?.rootfs.bytes))?;
            checks.check("slot-size", || {
                ensure!(slot_bytes <= MAX_BYTES, "the slot has {slot_bytes} bytes, at most {MAX_BYTES} may be");
                Ok(())
            })?;
            checks.check("hardening", || hardened(lab, arch))
        });
        let name = |test: &str| format!("{test}-{}", arch.name());
        suite.group(&name("boots"), |checks| boots::run(lab, arch, checks));
        suite.group(&name("link"), |checks| link::run(lab, arch, checks));
        suite.group(&name("data"), |checks| data::run(lab, arch, checks));
    }
    suite.step("no-api-server-x86_64", || slots::confirmed_without_api_server(lab, Arch::X86_64));
    // The controller and its driver are the same on both; one of them is enough. An emulated card takes minutes, and
    // this step has not been seen to its end yet: it runs when it is asked for.
    if suite.asks_for("sd-card") {
        suite.step("sd-card-x86_64", || storage::sd_card(lab, Arch::X86_64));
    }
}

/// At least this share of kernel-hardening-checker's checks is OK, and the report gives a reason for each other one.
fn hardened(lab: &mut Lab, arch: Arch) -> Result<()> {
    const LEAST_PERCENT: usize = 80;
    const REPORT: &str = "kernel-config/hardening-report.md";
    let kernel = lab.built(arch)?.kernel.clone();
    let Hardening { ok, total, failed } = hardening::check(lab.ctx(), &kernel)?;
    ensure!(ok * 100 >= total * LEAST_PERCENT, "{ok} of {total} checks are OK; not OK: {}", failed.join(", "));
    let report = std::fs::read_to_string(lab.ctx().repo.join(REPORT))?;
    let unexplained: Vec<_> = failed.into_iter().filter(|option| !report.contains(option)).collect();
    ensure!(unexplained.is_empty(), "{REPORT} gives no reason for: {}", unexplained.join(", "));
    Ok(())
}
