//! What looks like chance and is not: faults and losses from a seed that repeats them.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood, 2014): every seed gives a different, repeatable row of numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The row of numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Another row of numbers.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// A time below `end`.
    pub fn time(&mut self, end: Duration) -> Duration {
        Duration::from_millis(self.below(end.as_millis().max(1) as u64))
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
