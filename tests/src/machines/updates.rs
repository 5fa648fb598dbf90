//! An update on a running machine: sent as a person would, the power gone while the slot is written.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perigee_core::control::{Request, Update, UpdatePhase};

use super::slots;
use crate::lab::Rig;
use crate::release::Release;

/// All blocks of a slot, verity's tree and parity by an emulated processor: ten times what is usual.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(1200);

/// Sends the bundle, pulls the plug with half of the slot made, and waits until the node has made all of it by itself.
pub fn written_past_a_cut(rig: &mut Rig, release: &Release) -> Result<()> {
    let sent = release.send(rig)?;
    ensure!(sent.here_bytes == sent.payload_bytes && sent.missing.is_empty(), "{sent:?}");
    rig.wait("half of the slot is made", WRITE_TIMEOUT, |rig| {
        let update = rig.update(&Request::Update)?;
        let (done, all) = update.blocks.with_context(|| format!("not being written: {update:?}"))?;
        ensure!(done >= all / 2, "{done} of {all} blocks");
        Ok(())
    })?;
    rig.cluster.power_cut(0);
    rig.cluster.power_on(0)?;
    rig.cluster.machine(0)?.set_link(true)?;
    wait_written(rig)
}

/// Waits until the slot is whole.
pub fn wait_written(rig: &mut Rig) -> Result<()> {
    wait(rig, UpdatePhase::Ready, WRITE_TIMEOUT).map(drop)
}

/// Has the update that is ready started, and waits until it is confirmed.
pub fn activated(rig: &mut Rig, release: &Release) -> Result<()> {
    let update = rig.update(&Request::UpdateActivate { at: None })?;
    ensure!(update.activate_at == Some(0), "{update:?}");
    confirmed(rig, release)
}

/// Waits until the update is confirmed, and all services are ready in it.
pub fn confirmed(rig: &mut Rig, release: &Release) -> Result<()> {
    let update = wait(rig, UpdatePhase::Confirmed, WRITE_TIMEOUT)?;
    let slot = update.slot.context("an update has a slot")?;
    slots::runs(&rig.slots()?, &slot)?;
    let version = rig.status(0)?.version;
    ensure!(version == release.version, "{version} runs, expected {}", release.version);
    rig.wait_services(0).map(drop)
}

/// Waits until the first node's update is in `phase`, or has failed instead.
pub fn wait(rig: &mut Rig, phase: UpdatePhase, timeout: Duration) -> Result<Update> {
    let update = rig.wait(&format!("the update is {phase:?}"), timeout, |rig| {
        let update = rig.update(&Request::Update)?;
        ensure!([phase, UpdatePhase::Failed].contains(&update.phase), "{update:?}");
        Ok(update)
    })?;
    ensure!(update.phase == phase, "{:?}", update.reason);
    Ok(update)
}
