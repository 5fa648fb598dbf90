//! Fault campaigns: many faults at random, from a seed that repeats them.

mod bounds;
mod service_kill;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::lab::Lab;

/// A campaign: breaks things `count` times.
type Campaign = fn(&mut Lab, u32, Random) -> Result<Tally>;

/// All campaigns, by the name that `make campaign NAME=` takes.
const CAMPAIGNS: [(&str, Campaign); 1] = [("service-kill", service_kill::run)];

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
    let Tally { tried, survived, corrected, lost } = campaign(lab, count, Random(seed))?;
    println!("tried={tried} survived={survived} corrected={corrected} lost={lost}");
    Ok(lost == 0 && tried == count)
}

/// SplitMix64 (Steele, Lea, Flood, 2014): every seed gives a different, repeatable row of numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0; the bias for ends far below 2^64 is of no matter here.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of `items`, unless there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let end = u64::try_from(items.len()).ok().filter(|end| *end > 0)?;
        items.get(usize::try_from(self.below(end)).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself() {
        let row = |seed| {
            std::iter::repeat_with({
                let mut random = Random(seed);
                move || random.below(1000)
            })
        };
        assert!(row(7).take(100).eq(row(7).take(100)));
        assert!(row(7).take(100).ne(row(8).take(100)));
        assert_eq!(Random(0).next(), 0xE220_A839_7B1D_CDAF);
    }

    #[test]
    fn every_item_is_picked_sooner_or_later() {
        let mut random = Random(3);
        let picked: std::collections::BTreeSet<_> = (0..100).filter_map(|_| random.pick(&[1, 2, 3])).collect();
        assert_eq!(picked.len(), 3);
        assert_eq!(random.pick::<u8>(&[]), None);
    }
}
