//! Power goes at each write of an update.
//!
//! All that a node writes from its start to the update's confirmation is recorded. Then each prefix of it, and each
//! prefix with its last write torn, is judged as the loader would: which slot it would start, and whether that one is
//! whole. From some of them, at random, a node is started and goes on with the update.

mod judge;

use anyhow::{Context, Result};
use perigee_core::control::Request;
use perigee_qemu::recording::{Entry, Kind, Recording};
use perigee_qemu::{Disks, Random};

use self::judge::Judge;
use super::Tally;
use super::workshop::ARCH;
use crate::card::Card;
use crate::lab::Lab;
use crate::machines::slots::wait_confirmed;
use crate::machines::updates;
use crate::release::Release;

const NAME: &str = "update-cut";
/// Writes of so many sectors are torn at each of them, longer ones at as many places.
const TEARS: u64 = 8;

/// An update, recorded.
struct Recorded {
    release: Release,
    recording: Recording,
    /// The first request after the update had begun.
    begin: usize,
}

/// Judges all states, and goes on from `count` of them.
pub fn run(lab: &mut Lab, count: u32, mut random: Random) -> Result<Tally> {
    let recorded = record(lab)?;
    let mut tally = Tally { lost: judge_all(lab, &recorded)?, ..Tally::default() };
    for _ in 0..count {
        tally.tried += 1;
        let Recorded { recording, begin, .. } = &recorded;
        let at = begin + random.below((recording.entries.len() - begin) as u64) as usize;
        let torn = random.below(recording.entries[at].sectors + 1);
        match go_on(lab, &recorded, at, torn) {
            Ok(()) => {
                println!("campaign: from request {at}, {torn} of its sectors: confirmed");
                tally.survived += 1;
            }
            Err(error) => {
                println!("campaign: from request {at}, {torn} of its sectors: {error:#}");
                tally.lost += 1;
            }
        }
    }
    Ok(tally)
}

/// Updates a node, and records all that it writes.
fn record(lab: &mut Lab) -> Result<Recorded> {
    let release = Release::changed_service(lab, ARCH)?;
    let card = Card::new(lab, ARCH, NAME)?;
    let mut rig = lab.rig(ARCH, NAME, |plan| {
        card.insert(plan);
        plan.disks = Disks::Recorded;
        Ok(())
    })?;
    wait_confirmed(&mut rig, "slot-a")?;
    let begin = rig.cluster.recorded(0)?.entries.len();
    release.send(&rig)?;
    updates::wait_written(&mut rig)?;
    updates::activated(&mut rig, &release)?;
    let recording = rig.cluster.power_cut_recorded(0)?;
    Ok(Recorded { release, recording, begin })
}

/// Judges every prefix, and every prefix with its last write torn; gives how many of them are no good.
fn judge_all(lab: &mut Lab, recorded: &Recorded) -> Result<u32> {
    let card = Card::new(lab, ARCH, NAME)?;
    let disk = card.open()?;
    let mut judge = Judge::new(lab.built(ARCH)?, &recorded.release)?;
    let (mut states, mut lost) = (0_u64, 0);
    for (number, entry) in recorded.recording.entries.iter().enumerate() {
        for sectors in tears(entry).chain([entry.sectors]) {
            recorded.recording.write(&disk, entry, sectors)?;
            states += 1;
            // What starts does not depend on anything else, and was judged before.
            if let Err(error) = judge.judge(&disk, entry) {
                println!("campaign: request {number}, {sectors} of {} sectors: {error:#}", entry.sectors);
                lost += 1;
            }
        }
    }
    judge.sees_a_flipped_bit(&disk)?;
    println!("campaign: {} requests, {states} states, {} judged anew: {lost} no good", recorded.len(), judge.judged);
    Ok(lost)
}

impl Recorded {
    fn len(&self) -> usize {
        self.recording.entries.len()
    }
}

/// After how many sectors a write is torn.
fn tears(entry: &Entry) -> impl Iterator<Item = u64> + use<> {
    let sectors = if matches!(entry.kind, Kind::Write { .. }) { entry.sectors } else { 0 };
    let step = sectors.div_ceil(TEARS).max(1);
    (1..sectors).step_by(step as usize)
}

/// Starts a node with what a power cut in request `at` has left, and has it go on to the new release.
fn go_on(lab: &mut Lab, recorded: &Recorded, at: usize, torn: u64) -> Result<()> {
    let card = Card::new(lab, ARCH, NAME)?;
    let disk = card.open()?;
    let (before, rest) = recorded.recording.entries.split_at(at);
    for entry in before {
        recorded.recording.write(&disk, entry, entry.sectors)?;
    }
    recorded.recording.write(&disk, rest.first().context("there is such a request")?, torn)?;
    let mut rig = lab.rig_on(&card, ARCH, NAME)?;
    recorded.release.send(&rig)?;
    rig.wait("it is to be started", updates::WRITE_TIMEOUT, |rig| {
        rig.update(&Request::UpdateActivate { at: None }).map(drop)
    })?;
    updates::confirmed(&mut rig, &recorded.release)
}
