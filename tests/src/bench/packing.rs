//! What a root that is packed in another way costs in flash, and in time until a pod answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use perigee_core::slot::header::BLOCK_BYTES;
use perigee_image::build::{Arch, Ctx};
use perigee_image::erofs::{self, Packing};
use perigee_image::keys::SlotKey;
use perigee_image::native;
use perigee_image::slot::{self, Slot};

use super::boot::{MEMORY_MIB, times};
use super::{Figures, median};
use crate::card::Card;
use crate::lab::Lab;
use crate::release;

/// Other ways to pack the root, by the name of their figures.
pub const PACKINGS: [(&str, Packing); 2] = [
    ("plain", Packing { compressor: None, cluster_bytes: 0, hints: &[] }),
    ("compressed", Packing { compressor: Some("lz4hc,12"), cluster_bytes: 65536, hints: &[] }),
];
/// The packing that flies.
const FLOWN: &str = "flown";
/// Boots of each, in turn, so that what the host does meanwhile is the same for all.
const BOOTS: usize = 3;

pub fn measure(lab: &mut Lab, arch: Arch) -> Result<Figures> {
    let folder = lab.folder(arch, "bench-packing");
    fs::create_dir_all(&folder)?;
    let now = release::built(lab, arch)?;
    let mut roots = vec![(FLOWN, lab.built(arch)?.rootfs.image.clone())];
    for (name, packing) in &PACKINGS {
        let root = folder.join(name);
        fs::write(&root, repack(lab.ctx(), &now, packing, &folder)?)?;
        roots.push((name, root));
    }
    let kernel = lab.built(arch)?.kernel.clone();
    let mut figures = Figures::new();
    let mut packed = Vec::new();
    for (name, root) in roots {
        figures.insert(format!("packing.{name}_root_bytes"), fs::metadata(&root)?.len() as f64);
        let slot = slot::build(lab.ctx(), arch, &kernel, &root, "0.1.0+packed")?;
        packed.push((name, slot, Vec::new()));
    }
    for number in 1..=BOOTS {
        println!("bench: boot {number} of {BOOTS} of each packing");
        for (_, slot, seconds) in &mut packed {
            seconds.push(to_pod_s(lab, arch, slot)?);
        }
    }
    for (name, _, seconds) in packed {
        figures.insert(format!("packing.{name}_to_pod_s"), median(seconds).context("no boot was measured")?);
    }
    fs::remove_dir_all(&folder)?;
    Ok(figures)
}

/// From power to the demo's first answer with another slot A, seconds.
fn to_pod_s(lab: &mut Lab, arch: Arch, slot: &Slot) -> Result<f64> {
    let headers = slot.headers(&SlotKey::find(&lab.keys())?)?;
    let card = Card::new(lab, arch, "bench-packing-card")?;
    card.put("slot-a", &fs::read(&slot.image)?, &headers)?;
    let mut rig = lab.rig(arch, "bench", |plan| {
        card.insert(plan);
        plan.nodes[0].memory_mib = MEMORY_MIB;
        Ok(())
    })?;
    Ok(times(&mut rig)?.1.as_secs_f64())
}

/// The root of a plain image, packed in another way.
pub fn repack(ctx: &Ctx, image: &[u8], packing: &Packing, folder: &Path) -> Result<Vec<u8>> {
    let (root, tree, packed): (PathBuf, _, _) = (folder.join("root"), folder.join("tree"), folder.join("packed"));
    let mkfs = native::mkfs_erofs(ctx)?;
    // Behind the header's block; the kernel at its end is nobody's.
    fs::write(&root, &image[BLOCK_BYTES..])?;
    made(
        Command::new(mkfs.with_file_name("fsck.erofs")).arg(format!("--extract={}", tree.display())).arg(&root),
        &tree,
    )?;
    let uuid = "00000000-0000-8000-8000-000000000000";
    made(&mut erofs::command(&mkfs, packing, None, uuid, &tree, &packed), &packed)?;
    fs::remove_dir_all(&tree)?;
    Ok(fs::read(&packed)?)
}

/// Runs a program; gives the length of what it made.
pub fn made(command: &mut Command, what: &Path) -> Result<u64> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(fs::metadata(what)?.len())
}
