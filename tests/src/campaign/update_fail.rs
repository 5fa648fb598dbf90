//! Updates to images that are whole, signed, and do not live: the node goes back by itself, and says why.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perigee_core::control::{Request, UpdatePhase};
use perigee_qemu::Random;

use super::Tally;
use super::bad_slot::{ALL, Bad};
use super::workshop::{ARCH, Workshop};
use crate::lab::{Lab, Rig};
use crate::machines::slots::{runs, wait_confirmed};
use crate::machines::updates;

/// Each fails in another part: the loader's, the kernel's, PID 1's, and two vitals'.
const WAYS: [&str; 5] = ["kernel-returns", "kernel-panics", "pid-1-hangs", "kubelet-exits", "agent-hangs"];
/// Three tries of an image that hangs, each ended by the watchdog or by PID 1, and the way back.
const BACK_TIMEOUT: Duration = Duration::from_secs(1800);

/// One update after the other, to the same node.
pub fn run(lab: &mut Lab, count: u32, mut random: Random) -> Result<Tally> {
    let mut shop = Workshop::new(lab)?;
    let mut rig = shop.lab.rig(ARCH, "update-fail", |_| Ok(()))?;
    wait_confirmed(&mut rig, "slot-a")?;
    let ways: Vec<_> = ALL.iter().filter(|bad| WAYS.contains(&bad.name)).collect();
    Ok(super::each(super::in_turn(&ways, count, &mut random), |bad| {
        (bad.name.to_owned(), back(&mut shop, &mut rig, bad))
    }))
}

/// Updates the node, until it is back; gives its reason.
fn back(shop: &mut Workshop<'_>, rig: &mut Rig, bad: &Bad) -> Result<String> {
    let image = (bad.make)(shop).with_context(|| format!("make {}", bad.name))?;
    let release = image.release(shop.lab)?;
    release.send(rig)?;
    let version = rig.status(0)?.version;
    rig.update(&Request::UpdateActivate { at: None })?;
    let update = updates::wait(rig, UpdatePhase::Failed, BACK_TIMEOUT)?;
    runs(&rig.slots()?, "slot-a")?;
    ensure!(rig.status(0)?.version == version && update.version.as_ref() == Some(&release.version), "{update:?}");
    let reason = update.reason.context("it failed for no reason")?;
    ensure!(bad.ends.iter().any(|end| reason.starts_with(end)), "expected one of {:?}: {reason}", bad.ends);
    Ok(reason)
}
