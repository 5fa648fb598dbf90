//! The boot chain on a running machine: what the loader chose and why, confirmation, scrubbing, golden.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perigee_core::control::{Request, Slots};
use perigee_core::slot::TRIES;

use crate::lab::{Rig, SERVICES_TIMEOUT, service};

/// All vitals hold, and then for a minute.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(600 + 60);
/// Three slots' blocks, hashed by an emulated processor.
const SCRUB_TIMEOUT: Duration = Duration::from_secs(900);

/// This slot runs.
pub fn runs(slots: &Slots, slot: &str) -> Result<()> {
    ensure!(slots.running == slot, "{} runs", slots.running);
    Ok(())
}

/// The loader has found slot A's kernel to be wrong, has said so, and has started slot B.
pub fn rejected(slots: &Slots) -> Result<()> {
    runs(slots, "slot-b")?;
    let reset = slots.resets.first().context("nothing in the ledger")?;
    ensure!(reset.slot == "slot-a" && reset.cause == "rejected", "the ledger begins with {reset:?}");
    ensure!(reset.words == "the kernel's SHA-256 differs", "the ledger says {:?}", reset.words);
    Ok(())
}

/// Waits until the node has confirmed its slot.
pub fn wait_confirmed(rig: &mut Rig, slot: &str) -> Result<()> {
    rig.wait(&format!("{slot} is confirmed"), CONFIRM_TIMEOUT, |rig| {
        let slots = rig.slots()?;
        ensure!(is_confirmed(&slots, slot), "{:?}", slots.slots);
        Ok(())
    })
}

/// In this start: it has back the try that the loader took off.
fn is_confirmed(slots: &Slots, slot: &str) -> bool {
    slots.slots.iter().any(|now| now.name == slot && now.standing == "confirmed" && now.tries_left == TRIES)
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
        runs(&slots, "golden")?;
        Ok(slots)
    })?;
    ensure!(slots.once.is_none() && slots.resets.last().is_some_and(|reset| reset.cause == "command"), "{slots:?}");
    Ok(())
}

/// A slot that has just started is confirmed although no API server answers in this boot: another slot could not cure
/// that.
pub fn confirmed_without_api_server(rig: &mut Rig, slot: &str) -> Result<()> {
    let api_server = || "kube-apiserver".to_owned();
    rig.wait("the API server is ended", SERVICES_TIMEOUT, |rig| rig.tell(&Request::Stop { service: api_server() }))?;
    ensure!(!is_confirmed(&rig.slots()?, slot), "{slot} is confirmed already");
    wait_confirmed(rig, slot)?;
    let status = rig.status(0)?;
    let stopped = service(&status, &api_server())?;
    ensure!(stopped.first_ready_ms.is_none(), "{stopped:?}");
    rig.tell(&Request::Start { service: api_server() })
}
