//! Faults of the boot state's copies: in-process on the real code, and a sample of them on machines.

use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use perigee_core::slot::copies::{NAMES, PLACES};
use perigee_core::slot::record::RECORD_BYTES;
use perigee_image::build::{self, Arch};

use super::{Random, Tally};
use crate::card::{Card, partition};
use crate::lab::{Lab, SERVICES_TIMEOUT};

/// One in so many faults is made on a machine, too.
const PER_MACHINE: u32 = 20_000;
/// The end of the test's output.
const VERDICT: &str = "faults, 0 wrong";

/// Which partitions are damaged on a machine.
const DAMAGES: [&[&str]; 5] = [
    &["state-0"],
    &["state-1", "state-2"],
    &["state-0", "state-2"],
    &["state-2"],
    // Made anew from the slots' own headers.
    &NAMES,
];

pub fn run(lab: &mut Lab, count: u32, mut random: Random) -> Result<Tally> {
    in_process(lab, count, &mut random)?;
    let mut tally = Tally { tried: count, survived: count, corrected: count, lost: 0 };
    for machine in 0..count.div_ceil(PER_MACHINE) {
        let arch = Arch::ALL[machine as usize % Arch::ALL.len()];
        let damaged = DAMAGES[machine as usize % DAMAGES.len()];
        if let Err(error) = on_machine(lab, arch, damaged, &mut random) {
            println!("campaign: {} with {} damaged: {error:#}", arch.name(), damaged.join(", "));
            tally.survived -= 1;
            tally.lost += 1;
        }
    }
    Ok(tally)
}

/// `core`'s own test with as many faults.
fn in_process(lab: &Lab, count: u32, random: &mut Random) -> Result<()> {
    let mut cargo = build::cargo(&lab.ctx().repo);
    cargo
        .args(["test", "--quiet", "--package=perigee-core", "--test=boot_state", "a_life_full_of_faults"])
        .args(["--", "--nocapture"])
        .env("PERIGEE_FAULTS", count.to_string())
        .env("PERIGEE_SEED", random.below(u64::MAX).to_string());
    let output = cargo.output().context("start cargo")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let verdict =
        said.lines().find(|line| line.ends_with(VERDICT)).with_context(|| format!("no verdict in: {said}"))?;
    println!("campaign: in-process: {verdict}");
    Ok(())
}

/// A node whose copies are noise: it starts slot A, and says so if the state was lost.
fn on_machine(lab: &mut Lab, arch: Arch, damaged: &[&str], random: &mut Random) -> Result<()> {
    let card = Card::new(lab, arch, "boot-state")?;
    for name in damaged {
        let noise: Vec<u8> = (0..RECORD_BYTES * PLACES).map(|_| random.below(256) as u8).collect();
        card.open()?.write_all_at(&noise, partition(name)?.start)?;
    }
    let mut rig = lab.rig_on(&card, arch, "boot-state")?;
    let slots = rig.wait("slots are told", SERVICES_TIMEOUT, |rig| rig.slots())?;
    ensure!(slots.running == "slot-a", "{} runs", slots.running);
    let lost = slots.resets.iter().any(|reset| reset.cause == "state-lost");
    ensure!(lost == (damaged.len() == 3), "the ledger: {:?}", slots.resets);
    println!("campaign: {} with {} damaged: {} runs", arch.name(), damaged.join(", "), slots.running);
    Ok(())
}
