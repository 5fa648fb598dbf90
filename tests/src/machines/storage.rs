//! The disk on another bus.

use anyhow::{Context, Result, ensure};
use perigee_image::build::Arch;
use perigee_qemu::Storage;

use crate::lab::Lab;

/// An SD card behind an SDHCI controller, as on a flight board: the root and the data are found by their names.
pub fn sd_card(lab: &mut Lab, arch: Arch) -> Result<()> {
    let kernel = lab.built(arch)?.kernel.clone();
    let mut rig = lab.rig(arch, "sd-card", |plan| {
        plan.storage = Storage::Sd { kernel };
        Ok(())
    })?;
    rig.wait_services(0)?;
    let mounts = rig.inspect()?.mounts;
    let data = mounts.iter().find(|mount| mount.target == "/data").context("no data is mounted")?;
    ensure!(data.source.starts_with("/dev/mmcblk"), "data is on {}", data.source);
    Ok(())
}
