//! Steps that boot machines.

mod boots;
mod data;
mod link;
mod storage;

use perigee_image::build::Arch;

use crate::lab::Lab;
use crate::suite::Suite;

/// Builds images and runs all of them on both architectures.
pub fn steps(suite: &mut Suite, lab: &mut Lab) {
    for arch in Arch::ALL {
        suite.step(&format!("image-{}", arch.name()), || lab.built(arch).map(drop));
    }
    for arch in Arch::ALL {
        let name = |test: &str| format!("{test}-{}", arch.name());
        suite.group(&name("boots"), |checks| boots::run(lab, arch, checks));
        suite.group(&name("link"), |checks| link::run(lab, arch, checks));
        for damage in data::Damage::ALL {
            suite.step(&name(damage.name()), || data::run(lab, arch, damage));
        }
    }
    // The controller and its driver are the same on both; one of them is enough.
    suite.step("sd-card-x86_64", || storage::sd_card(lab, Arch::X86_64));
}
