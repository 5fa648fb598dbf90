//! The machine's progress stops at some stage, with nobody left to notice but the watchdog: it resets within its window.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use perigee_core::control::{Fault, INIT, Request};
use perigee_core::watchdog::WINDOW;

use super::workshop::{ARCH, LOOP, Workshop, patch_entry};
use super::{Random, Tally};
use crate::card::Card;
use crate::lab::SERVICES_TIMEOUT;

/// The loader's words: it starts, it hands on to a kernel, it finds that the watchdog was what ended the last start.
const LOADER: &str = "boot=started";
const HANDED_ON: &str = "boot=kernel slot=slot-a";
const HAS_RESET: &str = "has_reset=true";
/// What a reset may be late by.
const LATE: f64 = 1.2;
/// A watchdog that does not reset in this time does not reset.
const RESET_TIMEOUT: Duration = Duration::from_secs(300);

/// Where it hangs.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The loader has handed on to a kernel that does nothing.
    Loader,
    /// The kernel waits for its root.
    Kernel,
    /// PID 1's loop does not turn any more.
    Pid1,
}

const STAGES: [Stage; 3] = [Stage::Loader, Stage::Kernel, Stage::Pid1];

pub fn run(lab: &mut crate::lab::Lab, count: u32, mut random: Random) -> Result<Tally> {
    let mut shop = Workshop::new(lab)?;
    Ok(super::each(super::in_turn(&STAGES, count, &mut random), |stage| {
        let took = one(&mut shop, *stage);
        (format!("{stage:?}"), took.map(|took| format!("reset after {:.1} s", took.as_secs_f64())))
    }))
}

/// Hangs a machine; gives the time from its last sign of life to the reset.
fn one(shop: &mut Workshop<'_>, stage: Stage) -> Result<Duration> {
    let card = Card::new(shop.lab, ARCH, "hang")?;
    match stage {
        Stage::Loader => shop.kernel(|efi| patch_entry(efi, &LOOP))?.write(&card)?,
        Stage::Kernel => shop.command_line(|line| line + " rootwait root=/dev/none")?.write(&card)?,
        Stage::Pid1 => {}
    }
    let mut rig = shop.lab.rig_on(&card, ARCH, "hang")?;
    let firmware = rig.cluster.machine(0)?.console().wait_for(0, LOADER, SERVICES_TIMEOUT)?.at;
    let mut from = rig.cluster.machine(0)?.console().wait_for(0, HANDED_ON, SERVICES_TIMEOUT)?.at;
    if let Stage::Pid1 = stage {
        rig.wait("the agent answers", SERVICES_TIMEOUT, |rig| rig.status(0))?;
        from = rig.cluster.machine(0)?.started().elapsed();
        // PID 1 does not live to say that it has understood.
        if rig.tell(&Request::Fault { service: INIT.to_owned(), fault: Fault::Stop }).is_ok() {
            bail!("PID 1 answers");
        }
    }
    let reset = rig.cluster.machine(0)?.console().wait_for(0, HAS_RESET, RESET_TIMEOUT)?.at;
    let took = reset.saturating_sub(from + firmware);
    ensure!(took <= WINDOW.mul_f64(LATE), "reset after {:.1} s, the window is {WINDOW:?}", took.as_secs_f64());
    if let Stage::Pid1 = stage {
        let slots = rig.wait("the node is back", SERVICES_TIMEOUT, |rig| rig.slots())?;
        ensure!(slots.resets.last().is_some_and(|reset| reset.cause == "watchdog"), "the ledger: {:?}", slots.resets);
    }
    Ok(took)
}
