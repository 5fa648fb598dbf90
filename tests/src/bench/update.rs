//! What updates cost: bytes to be sent for a changed service file and for a patch release of Kubernetes, what other ways
//! would take for the same pair, and the agent's memory meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perigee_core::control::{Request, UpdatePhase};
use perigee_image::build::{Arch, Ctx, Key};
use perigee_image::bundle::payload;
use perigee_image::debian::Package;
use sha2::{Digest as _, Sha256};

use super::Figures;
use super::packing::{PACKINGS, made, repack};
use crate::figures;
use crate::lab::Lab;
use crate::machines::updates::WRITE_TIMEOUT;
use crate::release::{self, Release};

/// The service whose memory is measured.
const AGENT: &str = "agent";
/// Clusters that a patch by clusters is made of: dm-verity's, and the root's compressed ones.
const CLUSTERS: [usize; 2] = [4096, 65536];

pub fn measure(lab: &mut Lab, arch: Arch) -> Result<Figures> {
    let mut figures = Figures::new();
    let mut add = |name: &str, bytes: u64| {
        figures.insert(format!("update.{name}"), bytes as f64);
    };
    let now = release::built(lab, arch)?;
    let (version, before) = release::kubernetes_before(lab, arch)?;
    println!("bench: from Kubernetes {version} to this one");
    add("image_bytes", now.len() as u64);
    add("bundle_small_bytes", Release::changed_service(lab, arch)?.bytes()?);
    add("bundle_patch_bytes", payload(&before, &now)?.0.len() as u64);
    add("full_bytes", payload(&[], &now)?.0.len() as u64);

    let folder = lab.folder(arch, "bench-update");
    fs::create_dir_all(&folder)?;
    let [old, new] = [("before", &before), ("now", &now)].map(|(name, bytes)| {
        let path = folder.join(name);
        fs::write(&path, bytes).map(|()| path)
    });
    let (old, new) = (old?, new?);
    add("zstd_bytes", zstd(&old, &new, &folder)?);
    add("bsdiff_bytes", bsdiff(lab.ctx(), &old, &new, &folder)?);
    for bytes in CLUSTERS {
        add(&format!("clusters_{bytes}_bytes"), clusters(&before, &now, bytes)?);
    }
    for (name, packing) in &PACKINGS {
        let [before, now] = [&before, &now].map(|image| repack(lab.ctx(), image, packing, &folder));
        add(&format!("{name}_patch_bytes"), payload(&before?, &now?)?.0.len() as u64);
    }
    // Back to what was before: as many differences, and no other node is to be had that takes the way forth.
    let release = Release::of(lab, arch, "0.1.0+before", &before)?;
    figures.insert("update.agent_peak_pss_mib".to_owned(), agent_peak_mib(lab, arch, &release)?);
    fs::remove_dir_all(&folder)?;
    Ok(figures)
}

/// The most memory that the agent has from the first piece to the whole slot, MiB.
fn agent_peak_mib(lab: &mut Lab, arch: Arch, release: &Release) -> Result<f64> {
    let mut rig = lab.rig(arch, "bench", |_| Ok(()))?;
    rig.wait_services(0)?;
    let mut peak: f64 = 0.0;
    std::thread::scope(|scope| {
        let port = rig.cluster.agent_port(0);
        let sending = scope.spawn(move || release.send_to(port));
        rig.wait("the slot is written", WRITE_TIMEOUT, |rig| {
            let seen = rig.processes(0)?;
            let agent = seen.processes.iter().filter(|process| process.service.as_deref() == Some(AGENT));
            peak = peak.max(figures::mib(agent.map(|process| process.pss_bytes).sum()));
            let update = rig.update(&Request::Update)?;
            ensure!([UpdatePhase::Ready, UpdatePhase::Failed].contains(&update.phase), "{update:?}");
            Ok(update)
        })
        .and_then(|update| {
            ensure!(update.phase == UpdatePhase::Ready, "{:?}", update.reason);
            sending.join().ok().context("the sender panicked")??;
            Ok(peak)
        })
    })
}

/// Compressed as zstd does it at its best with all of the old image in its window.
fn zstd(old: &Path, new: &Path, folder: &Path) -> Result<u64> {
    let patch = folder.join("zstd");
    let mut command = Command::new("zstd");
    command.args(["-q", "-f", "-19", "--long=30", "--single-thread"]);
    command.arg(format!("--patch-from={}", old.display())).arg(new).arg("-o").arg(&patch);
    made(&mut command, &patch)
}

fn bsdiff(ctx: &Ctx, old: &Path, new: &Path, folder: &Path) -> Result<u64> {
    let [package] = Package::binaries(ctx, ["bsdiff"])?;
    let program = ctx.step("bsdiff", Duration::from_secs(2), Key::new("1").text(&package.id()), |job| {
        package.unpack(job, &job.out)
    })?;
    let patch = folder.join("bsdiff");
    made(Command::new(program.join("usr/bin/bsdiff")).args([old, new, &patch]), &patch)
}

/// A patch of aligned clusters: those that the old image has nowhere, one behind the other, and for each of the new
/// image's where it comes from; both compressed.
fn clusters(old: &[u8], new: &[u8], bytes: usize) -> Result<u64> {
    let known: BTreeMap<_, _> = old.chunks(bytes).map(Sha256::digest).zip(0_u32..).collect();
    let (mut news, mut places) = (Vec::new(), Vec::new());
    let mut before = 0;
    for cluster in new.chunks(bytes) {
        let place = known.get(&Sha256::digest(cluster)).copied();
        if place.is_none() {
            news.extend(cluster);
        }
        // As the distance from the last one: runs are short then.
        let place = place.unwrap_or(u32::MAX);
        places.extend(place.wrapping_sub(before).to_le_bytes());
        before = place;
    }
    Ok((payload(&[], &news)?.0.len() + payload(&[], &places)?.0.len()) as u64)
}
