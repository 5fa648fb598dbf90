//! Power goes at random times, in a boot and later, and with it what the disk had not yet written: each node boots again
//! by itself.
//!
//! A life is cut short early (firmware, loader, kernel, PID 1's first seconds), or when what writes to the disk is up. What
//! was not flushed is dropped, kept or torn, request by request ([`perigee_qemu::recording`]); the next life begins with what
//! that left on the card.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perigee_core::control::{DataOrigin, Slots};
use perigee_core::slot::TRIES;
use perigee_image::build::Arch;
use perigee_qemu::Disks;
use perigee_qemu::recording::{Entry, Fate};

use super::{Random, Tally};
use crate::card::Card;
use crate::lab::{Lab, Rig, SERVICES_TIMEOUT};
use crate::machines::slots::confirmed_without_api_server;

/// Firmware, loader, kernel and PID 1's start under emulation, until it is known how long they take here.
const EARLY: Duration = Duration::from_secs(14);
/// How long a node lives that is up.
const LATE: Duration = Duration::from_secs(25);
/// Machines beside each other: one that waits for its slot to be confirmed needs hardly any processor.
const MACHINES: u32 = 4;
/// So many starts in a row are cut before a slot is confirmed: a third one would leave the first slot for good, which has
/// never lived until then.
const MOST_UNCONFIRMED: u32 = TRIES as u32 - 1;
/// The same once a slot has lived: another one is tried after it, and with that one's confirmation it has one try again.
/// After more the loader would leave both slots for golden, which stays for hours: as it should, and there would be nothing
/// more to see.
const MOST_UNCONFIRMED_LATER: u32 = TRIES as u32;

/// One machine and what it has been through.
struct Lane {
    name: char,
    card: Card,
    rig: Rig,
    random: Random,
    tally: Tally,
    /// Starts since a slot was last confirmed.
    unconfirmed: u32,
    /// How many of them there may be.
    most_unconfirmed: u32,
    /// From power to the agent's first answer, in the last life that came so far.
    early: Duration,
}

pub fn run(lab: &mut Lab, arch: Arch, count: u32, mut random: Random) -> Result<Tally> {
    let mut lanes = Vec::new();
    for (name, number) in ('a'..).zip(0..MACHINES.min(count)) {
        let folder = format!("power-cut-{name}");
        let card = Card::new(lab, arch, &folder)?;
        let rig = lab.rig_off(arch, &folder, |plan| {
            card.insert(plan);
            plan.disks = Disks::Recorded;
            Ok(())
        })?;
        let share = (number..count).step_by(MACHINES as usize).count() as u32;
        let (random, tally) = (random.fork(), Tally::default());
        let most_unconfirmed = MOST_UNCONFIRMED;
        lanes.push((Lane { name, card, rig, random, tally, unconfirmed: 0, most_unconfirmed, early: EARLY }, share));
    }
    // The machines end with the thread that has started them, which is the lane's.
    super::beside(lanes.iter_mut().map(|(lane, share)| || lane.run(*share)))
}

impl Lane {
    fn run(&mut self, count: u32) -> Result<Tally> {
        while self.tally.survived < count {
            let begin = Instant::now();
            self.rig.cluster.power_on(0)?;
            let last = self.tally.tried == count;
            let must_confirm = self.unconfirmed >= self.most_unconfirmed;
            let early = !last && !must_confirm && self.random.below(2) == 0;
            if early {
                std::thread::sleep(self.random.time(self.early));
            } else {
                // All cuts since the last time it was up are behind it.
                let answers = self.rig.wait("slots are told", SERVICES_TIMEOUT, |rig| rig.slots());
                self.early = begin.elapsed();
                match answers.and_then(|slots| up(&mut self.rig, &slots, must_confirm)) {
                    Ok(mended) => {
                        self.tally.survived = self.tally.tried;
                        self.tally.corrected += u32::from(mended);
                    }
                    Err(error) => {
                        println!("campaign: {} after {} cuts: {error:#}", self.name, self.tally.tried);
                        self.tally.lost = self.tally.tried - self.tally.survived;
                        return Ok(self.tally);
                    }
                }
                if must_confirm {
                    (self.unconfirmed, self.most_unconfirmed) = (0, MOST_UNCONFIRMED_LATER);
                }
                if last {
                    break;
                }
                std::thread::sleep(self.random.time(LATE));
            }
            let requests = self.cut(if early { "early" } else { "when up" })?;
            // Before it starts a slot the loader writes that it does.
            self.unconfirmed += u32::from(!must_confirm && requests > 0);
        }
        Ok(self.tally)
    }

    /// Pulls the plug, and does to the card what the machine's requests did; gives how many there were.
    fn cut(&mut self, when: &str) -> Result<usize> {
        let recording = self.rig.cluster.power_cut_recorded(0)?;
        let mut undone = 0;
        recording.replay(&self.card.open()?, |entry| {
            let fate = fate(entry, &mut self.random);
            undone += u32::from(fate != Fate::Kept);
            fate
        })?;
        let memory_mib = self.rig.cluster.nodes()[0].memory_mib;
        self.rig.cluster.renew(0, memory_mib)?;
        self.tally.tried += 1;
        let (all, unflushed) = (recording.entries.len(), recording.entries.len() - recording.unflushed());
        let Self { name, tally: Tally { tried, .. }, .. } = self;
        println!("campaign: {name} #{tried} {when}: {all} requests, {unflushed} not flushed, {undone} dropped or torn");
        Ok(all)
    }
}

fn fate(entry: &Entry, random: &mut Random) -> Fate {
    match random.below(3) {
        0 => Fate::Kept,
        1 => Fate::Dropped,
        _ => Fate::Torn(random.below(entry.sectors.max(1))),
    }
}

/// Waits until what writes to the disk is up; gives whether data had to be mended.
fn up(rig: &mut Rig, slots: &Slots, confirm: bool) -> Result<bool> {
    ensure!(slots.running != "golden", "golden runs: {slots:?}");
    let lost = slots.resets.iter().find(|reset| reset.cause == "state-lost");
    ensure!(lost.is_none(), "the boot state was lost: {lost:?}");
    if confirm {
        // It has no part in that, and takes most of an emulated processor's time.
        confirmed_without_api_server(rig, &slots.running).context("after cuts")?;
    }
    let origin = rig.wait_writers()?.data.origin;
    ensure!(matches!(origin, DataOrigin::Clean | DataOrigin::Repaired), "data is {origin:?}: what was there is lost");
    Ok(origin == DataOrigin::Repaired)
}
