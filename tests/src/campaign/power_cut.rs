//! Power goes at random times, in a boot and later, and with it what the disk had not yet written: each node boots again
//! by itself.
//!
//! A life is cut short early (firmware, loader, kernel, PID 1's first seconds), or when what writes to the disk is up. What
//! was not flushed is dropped, kept or torn, request by request ([`perigee_qemu::recording`]); the next life begins with what
//! that left on the card.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perigee_core::control::DataOrigin;
use perigee_image::build::Arch;
use perigee_qemu::Disks;
use perigee_qemu::recording::{Entry, Fate};

use super::{Random, Tally};
use crate::card::Card;
use crate::lab::{Lab, Rig};
use crate::machines::slots::wait_confirmed;

/// Firmware, loader, kernel and PID 1's start under emulation.
const EARLY: Duration = Duration::from_secs(14);
/// How long a node lives that is up.
const LATE: Duration = Duration::from_secs(25);
/// So many lives in a row are cut before their slot is confirmed. With more the loader would leave both slots for golden,
/// which stays for hours: as it should, and there would be nothing more to see.
const MOST_UNCONFIRMED: u32 = 4;

pub fn run(lab: &mut Lab, arch: Arch, count: u32, mut random: Random) -> Result<Tally> {
    let card = Card::new(lab, arch, "power-cut")?;
    let mut rig = lab.rig_off(arch, "power-cut", |plan| {
        card.insert(plan);
        plan.disks = Disks::Recorded;
        Ok(())
    })?;
    let memory_mib = rig.cluster.nodes()[0].memory_mib;
    let mut tally = Tally::default();
    let mut unconfirmed = 0;
    while tally.survived < count {
        rig.cluster.power_on(0)?;
        let last = tally.tried == count;
        let early = !last && unconfirmed < MOST_UNCONFIRMED && random.below(2) == 0;
        if early {
            std::thread::sleep(random.time(EARLY));
        } else {
            // All cuts since the last time it was up are behind it.
            match up(&mut rig, unconfirmed >= MOST_UNCONFIRMED) {
                Ok(mended) => {
                    tally.survived = tally.tried;
                    tally.corrected += u32::from(mended);
                }
                Err(error) => {
                    println!("campaign: after {} cuts: {error:#}", tally.tried);
                    tally.lost = tally.tried - tally.survived;
                    return Ok(tally);
                }
            }
            if last {
                break;
            }
            std::thread::sleep(random.time(LATE));
        }
        let recording = rig.cluster.power_cut_recorded(0)?;
        let mut undone = 0;
        recording.replay(&card.open()?, |entry| {
            let fate = fate(entry, &mut random);
            undone += u32::from(fate != Fate::Kept);
            fate
        })?;
        let (all, unflushed) = (recording.entries.len(), recording.entries.len() - recording.unflushed());
        rig.cluster.renew(0, memory_mib)?;
        tally.tried += 1;
        unconfirmed = if !early && unconfirmed >= MOST_UNCONFIRMED { 0 } else { unconfirmed + 1 };
        let when = if early { "early" } else { "when up" };
        println!(
            "campaign: #{} {when}: {all} requests, {unflushed} not flushed, {undone} dropped or torn",
            tally.tried
        );
    }
    Ok(tally)
}

fn fate(entry: &Entry, random: &mut Random) -> Fate {
    match random.below(3) {
        0 => Fate::Kept,
        1 => Fate::Dropped,
        _ => Fate::Torn(random.below(entry.sectors.max(1))),
    }
}

/// Waits until what writes to the disk is up; gives whether data had to be mended.
fn up(rig: &mut Rig, confirmed: bool) -> Result<bool> {
    let origin = rig.wait_writers()?.data.origin;
    ensure!(matches!(origin, DataOrigin::Clean | DataOrigin::Repaired), "data is {origin:?}: what was there is lost");
    let slots = rig.slots()?;
    ensure!(slots.running != "golden", "golden runs: {slots:?}");
    let lost = slots.resets.iter().find(|reset| reset.cause == "state-lost");
    ensure!(lost.is_none(), "the boot state was lost: {lost:?}");
    if confirmed {
        wait_confirmed(rig, &slots.running).context("after cuts")?;
    }
    Ok(origin == DataOrigin::Repaired)
}
