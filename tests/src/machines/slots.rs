//! The boot chain on a running machine: what the loader chose and why, confirmation, scrubbing, golden.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perigee_core::control::{Request, Slots};
use perigee_image::build::Arch;

use crate::lab::{Lab, Rig, SERVICES_TIMEOUT};

/// All vitals hold, and then for a minute.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(600 + 60);
/// Three slots' blocks, hashed by an emulated processor.
const SCRUB_TIMEOUT: Duration = Duration::from_secs(900);

/// The loader has found slot A's kernel to be wrong, has said so, and has started slot B.
pub fn rejected(slots: &Slots) -> Result<()> {
    ensure!(slots.running == "slot-b", "{} runs", slots.running);
    let reset = slots.resets.first().context("nothing in the ledger")?;
    ensure!(reset.slot == "slot-a" && reset.cause == "rejected", "the ledger begins with {reset:?}");
    ensure!(reset.words == "the kernel's SHA-256 differs", "the ledger says {:?}", reset.words);
    Ok(())
}

/// Waits until the node has confirmed its slot.
pub fn wait_confirmed(rig: &mut Rig, slot: &str) -> Result<()> {
    rig.wait(&format!("{slot} is confirmed"), CONFIRM_TIMEOUT, |rig| {
        let slots = rig.slots()?;
        let confirmed = slots.slots.iter().any(|now| now.name == slot && now.standing == "confirmed");
        ensure!(confirmed, "{:?}", slots.slots);
        Ok(())
    })
}

/// Has all slots read: the one wrong block is found and mended.
pub fn scrub(rig: &mut Rig) -> Result<()> {
    rig.tell(&Request::Scrub)?;
    let found = rig.wait("all slots are read", SCRUB_TIMEOUT, |rig| {
        let scrubs = rig.scrubs()?;
        ensure!(scrubs.rounds == 1, "{scrubs:?}");
        Ok(scrubs)
    })?;
    for slot in &found.slots {
        let expected = u64::from(slot.name == "slot-a");
        let (corrected, otherwise) = (slot.corrected, slot.copied + slot.lost);
        ensure!(slot.has_image && corrected == expected && otherwise == 0, "{found:?}");
    }
    Ok(())
}

/// Golden runs when it is told to, once.
pub fn golden(rig: &mut Rig) -> Result<()> {
    rig.tell(&Request::RebootInto { slot: "golden".to_owned() })?;
    let slots = rig.wait("golden runs", SERVICES_TIMEOUT, |rig| {
        let slots = rig.slots()?;
        ensure!(slots.running == "golden", "{} runs", slots.running);
        Ok(slots)
    })?;
    ensure!(slots.once.is_none() && slots.resets.last().is_some_and(|reset| reset.cause == "command"), "{slots:?}");
    Ok(())
}

/// A slot is confirmed although no API server has ever answered: another slot could not cure that.
pub fn confirmed_without_api_server(lab: &mut Lab, arch: Arch) -> Result<()> {
    let mut rig = lab.rig(arch, "no-api-server", |_| Ok(()))?;
    rig.wait("the API server is ended", SERVICES_TIMEOUT, |rig| {
        rig.tell(&Request::Stop { service: "kube-apiserver".to_owned() })
    })?;
    wait_confirmed(&mut rig, "slot-a")?;
    let status = rig.status(0)?;
    let api_server = crate::lab::service(&status, "kube-apiserver")?;
    ensure!(api_server.first_ready_ms.is_none(), "{api_server:?}");
    Ok(())
}
