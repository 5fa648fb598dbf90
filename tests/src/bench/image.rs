//! What is burned: size, programs, hardening.

use anyhow::Result;
use perigee_image::build::Arch;
use perigee_image::hardening;

use super::Figures;
use crate::lab::Lab;

pub fn measure(lab: &mut Lab, arch: Arch) -> Result<Figures> {
    let built = lab.built(arch)?.clone();
    let hardening = hardening::check(lab.ctx(), &built.kernel)?;
    let root = &built.rootfs;
    let figures = [
        ("image.slot_bytes", root.bytes as f64),
        ("image.elf_count", root.inspection.elf.len() as f64),
        ("image.setuid_count", root.inspection.setuid.len() as f64),
        ("image.shell_count", root.inspection.shell.len() as f64),
        ("image.hardening_ok", hardening.ok as f64),
        ("image.hardening_total", hardening.total as f64),
    ];
    Ok(figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
