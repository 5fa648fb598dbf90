//! Fault campaigns: many faults at random, from a seed that repeats them.

mod bad_slot;
mod bit_flip;
mod boot_state;
mod bounds;
mod hang;
mod power_cut;
mod service_kill;
mod update_cut;
mod update_fail;
mod update_link;
mod workshop;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow, bail, ensure};
use perigee_image::build::Arch;
use perigee_qemu::Random;

use crate::lab::Lab;
use crate::suite::Suite;

/// A campaign: breaks things `count` times.
type Campaign = fn(&mut Lab, u32, Random) -> Result<Tally>;

/// All campaigns, by the name that `make campaign NAME=` takes.
const CAMPAIGNS: [(&str, Campaign); 10] = [
    ("bad-slot", bad_slot::run),
    ("bit-flip", bit_flip::run),
    ("boot-state", boot_state::run),
    ("hang", hang::run),
    ("power-cut", |lab, count, random| power_cut::run(lab, Arch::X86_64, count, random)),
    ("power-cut-aarch64", |lab, count, random| power_cut::run(lab, Arch::Aarch64, count, random)),
    ("service-kill", service_kill::run),
    ("update-cut", update_cut::run),
    ("update-fail", update_fail::run),
    ("update-link", update_link::run),
];

/// How a campaign ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Faults that were made.
    pub tried: u32,
    /// Of them: after which the node was whole again in time.
    pub survived: u32,
    /// Of the survived: those that something had to act on.
    pub corrected: u32,
    /// Of the tried: those that the node did not come back from, or that left something behind.
    pub lost: u32,
}

impl Tally {
    /// Both.
    fn and(self, other: Self) -> Self {
        Self {
            tried: self.tried + other.tried,
            survived: self.survived + other.survived,
            corrected: self.corrected + other.corrected,
            lost: self.lost + other.lost,
        }
    }
}

/// Runs the campaign `name`; gives whether nothing was lost.
pub fn run(lab: &mut Lab, name: &str, count: u32, seed: Option<u64>) -> Result<bool> {
    let Some((_, campaign)) = CAMPAIGNS.iter().find(|(known, _)| *known == name) else {
        bail!("no campaign `{name}`; expected one of: {}", CAMPAIGNS.map(|(known, _)| known).join(", "));
    };
    let seed = seed.unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |since| since.as_secs() ^ u64::from(since.subsec_nanos()))
    });
    println!("campaign: {name}, {count} faults; the same again: make campaign NAME={name} COUNT={count} SEED={seed}");
    let Tally { tried, survived, corrected, lost } = campaign(lab, count, Random::new(seed))?;
    println!("tried={tried} survived={survived} corrected={corrected} lost={lost}");
    Ok(lost == 0 && tried == count)
}

/// A few faults of each campaign on `arch` that is not too long for it, the same ones each time.
pub fn steps(suite: &mut Suite, lab: &mut Lab, arch: Arch) {
    const SEED: u64 = 1;
    let campaigns: &[_] = match arch {
        Arch::X86_64 => &[("bit-flip", 6), ("power-cut", 2), ("hang", 1)],
        Arch::Aarch64 => &[("power-cut-aarch64", 2)],
    };
    for &(name, count) in campaigns {
        suite.step(&format!("campaign-{name}"), || {
            ensure!(run(lab, name, count, Some(SEED))?, "something was lost, as said above");
            Ok(())
        });
    }
}

/// `count` of the `faults` in turn, the first of them at random, again from the beginning after the last.
fn in_turn<'a, T>(faults: &'a [T], count: u32, random: &mut Random) -> impl Iterator<Item = &'a T> + use<'a, T> {
    let first = random.below(faults.len() as u64) as usize;
    faults.iter().cycle().skip(first).take(count as usize)
}

/// Makes the `faults`, one after the other; `make` gives a fault's name and how the node came back from it.
fn each<T>(faults: impl Iterator<Item = T>, mut make: impl FnMut(T) -> (String, Result<String>)) -> Tally {
    let mut tally = Tally::default();
    for fault in faults {
        tally.tried += 1;
        match make(fault) {
            (name, Ok(how)) => {
                println!("campaign: {name}: {how}");
                tally.survived += 1;
                tally.corrected += 1;
            }
            (name, Err(error)) => {
                println!("campaign: {name}: {error:#}");
                tally.lost += 1;
            }
        }
    }
    tally
}

/// Runs all `lanes` beside each other; gives the sum of their tallies, or the first error.
fn beside<F: FnOnce() -> Result<Tally> + Send>(lanes: impl IntoIterator<Item = F>) -> Result<Tally> {
    std::thread::scope(|scope| {
        let running: Vec<_> = lanes.into_iter().map(|lane| scope.spawn(lane)).collect();
        let mut tally = Tally::default();
        for lane in running {
            tally = tally.and(lane.join().map_err(|_| anyhow!("a lane panicked"))??);
        }
        Ok(tally)
    })
}
