//! Scrubbing a slot that is damaged in every way: what can be mended is mended, nothing wrong is ever written, and what is
//! lost is counted.

mod partition;
mod random;

use partition::{Disk, ROOTS, key};
use perigee_core::slot::header::{BLOCK_BYTES, header_blocks};
use perigee_core::slot::scrub::{Blocks as _, Scrub, Tally};
use perigee_core::slot::verity::HASHES;
use random::Random;

/// A whole scrub that begins at some step.
fn scrub(disk: &mut Disk, mut twin: Option<&mut Disk>, begin: u64) -> Option<Tally> {
    let mut scrub = Scrub::open(disk, twin.as_deref_mut(), &key().verifying_key(), begin)?;
    while scrub.step(disk, twin.as_deref_mut()) {}
    Some(scrub.tally())
}

#[test]
fn a_whole_slot_is_read_once_from_wherever_it_begins_and_nothing_is_written() {
    let (good, layout) = Disk::new(1);
    let steps = Scrub::new(layout, 0).steps();
    for begin in 0..steps + 2 {
        let mut disk = good.clone();
        disk.unwritable = (0..good.count()).collect();
        let tally = scrub(&mut disk, None, begin).unwrap();
        assert_eq!(tally, Tally { read: u64::from(layout.end_block) + 2, ..Tally::default() });
    }
}

#[test]
fn it_takes_as_many_steps_as_it_says_each_of_half_a_mebibyte() {
    // So much parity that it takes more than one, too.
    let (good, layout) = Disk::with_roots(9, 1_400, 24);
    let (tree, parity) = (layout.tree().blocks(), layout.fec().parity_blocks());
    assert!(parity > HASHES);
    let mut disk = good.clone();
    disk.blocks[good.count() as usize - 6][0] ^= 1;
    let mut scrub = Scrub::new(layout, 0);
    assert_eq!(scrub.steps(), tree.end - tree.start + parity.div_ceil(HASHES));
    let (mut steps, mut before) = (1, Tally::default());
    while scrub.step(&mut disk, None) {
        let since = scrub.tally().since(&before);
        assert!(since.read <= HASHES + 1 && since.wrong() == 0, "{since:?}");
        (steps, before) = (steps + 1, scrub.tally());
    }
    let last = scrub.tally().since(&before);
    assert_eq!((steps, last.corrected, last.wrong()), (scrub.steps(), 1, 1));
    assert_eq!(scrub.tally().read, u64::from(layout.end_block));
    assert!(!scrub.step(&mut disk, None) && disk.is_as(&good));
}

#[test]
fn parity_that_is_whole_is_not_made_anew() {
    const ROOTS: u8 = 24;
    let (good, layout) = Disk::with_roots(13, 1_400, ROOTS);
    assert!(layout.fec().parity_blocks() > HASHES, "it is read in more than one step");
    // Without them nobody could make their group's parity, and would have to say so.
    let lost: Vec<_> = layout.fec().group(0).flatten().take(usize::from(ROOTS) + 1).collect();
    let mut disk = good.clone();
    disk.unreadable.extend(&lost);
    let mut scrub = Scrub::new(layout, 0);
    while scrub.step(&mut disk, None) {}
    assert_eq!(scrub.tally().lost, lost.len() as u64);
}

#[test]
fn what_came_after_a_tally_is_the_difference_of_each_count() {
    let before = Tally { read: 10, corrected: 1, copied: 2, lost: 3 };
    let now = Tally { read: 25, corrected: 3, copied: 5, lost: 10 };
    assert_eq!(now.since(&before), Tally { read: 15, corrected: 2, copied: 3, lost: 7 });
}

#[test]
fn without_the_top_of_the_tree_all_of_it_is_lost() {
    let (good, layout) = Disk::new(10);
    let mut disk = good.clone();
    // More of its group than there is parity for.
    let top = layout.tree().top();
    let members: Vec<_> = layout.fec().group(top).flatten().filter(|member| *member != top).collect();
    disk.unreadable.extend(members.into_iter().take(usize::from(ROOTS)).chain([top]));
    let mut scrub = Scrub::new(layout, 0);
    assert!(scrub.step(&mut disk, None));
    let children = layout.tree().children(top);
    assert_eq!(scrub.tally().lost, children.end - children.start + 1);
}

#[test]
fn any_one_damaged_block_is_mended_without_a_twin() {
    let (good, layout) = Disk::new(2);
    let (data, end) = (u64::from(layout.data_blocks), u64::from(layout.end_block));
    for block in (0..data).step_by(23).chain(data - 1..end).chain(header_blocks(good.count())) {
        let mut disk = good.clone();
        if block % 3 == 0 {
            disk.unreadable.insert(block);
        } else {
            disk.blocks[block as usize][block as usize % BLOCK_BYTES] ^= 0x10;
        }
        let tally = scrub(&mut disk, None, block).unwrap();
        assert_eq!((tally.corrected, tally.wrong()), (1, 1), "block {block}");
        assert!(disk.is_as(&good), "block {block}");
    }
}

#[test]
fn as_many_lost_blocks_as_a_codeword_has_parity_are_mended_and_one_more_needs_the_twin() {
    let (good, layout) = Disk::new(3);
    let group: Vec<u64> = layout.fec().group(1).flatten().collect();
    let damaged = |count: usize| {
        let mut disk = good.clone();
        group[..count].iter().for_each(|block| disk.blocks[*block as usize] = [0xA5; BLOCK_BYTES]);
        disk
    };
    let mut disk = damaged(usize::from(ROOTS));
    assert_eq!(scrub(&mut disk, None, 0).unwrap().corrected, u64::from(ROOTS));
    assert!(disk.is_as(&good));

    let too_many = usize::from(ROOTS) + 1;
    let mut alone = damaged(too_many);
    assert_eq!(scrub(&mut alone, None, 0).unwrap().lost, too_many as u64);
    assert!(alone.blocks == damaged(too_many).blocks, "what cannot be mended is left as it is");

    let (mut disk, mut twin) = (damaged(too_many), good.clone());
    let tally = scrub(&mut disk, Some(&mut twin), 0).unwrap();
    assert_eq!(
        (tally.copied, tally.corrected, tally.lost),
        (1, u64::from(ROOTS), 0),
        "one copied makes room for the rest"
    );
    assert!(disk.is_as(&good));
}

#[test]
fn parity_is_made_anew_from_data_that_is_mended_for_it() {
    let (good, layout) = Disk::new(10);
    let (fec, steps) = (layout.fec(), Scrub::new(layout, 0).steps());
    let parity = u64::from(layout.fec_block);
    for begin in [0, steps - 1] {
        for data in [1, 600, 700, 703] {
            let mut disk = good.clone();
            // Another group's, so that what is wrong with the data can be corrected.
            let group = (data + 1) % fec.groups();
            disk.blocks[(parity + fec.parity_start(group)) as usize].fill(0xee);
            disk.blocks[data as usize][9] ^= 4;
            let tally = scrub(&mut disk, None, begin).unwrap();
            assert_eq!((tally.corrected, tally.wrong()), (2, 2), "block {data}, from step {begin}");
            assert!(disk.is_as(&good));
        }
    }
}

#[test]
fn a_twin_with_other_contents_gives_nothing() {
    let (good, layout) = Disk::new(4);
    let (other, _) = Disk::new(5);
    let group: Vec<u64> = layout.fec().group(0).flatten().collect();
    let mut disk = good.clone();
    group[..6].iter().for_each(|block| disk.blocks[*block as usize].fill(1));
    let before = disk.clone();
    let tally = scrub(&mut disk, Some(&mut other.clone()), 0).unwrap();
    assert_eq!((tally.lost, tally.wrong()), (6, 6));
    assert!(disk.blocks == before.blocks);
    // Without a header it cannot be told what this was.
    for at in header_blocks(disk.count()) {
        disk.blocks[at as usize].fill(0);
    }
    assert_eq!(scrub(&mut disk, Some(&mut other.clone()), 0), None);
    assert_eq!(scrub(&mut disk, None, 0), None);
}

#[test]
fn both_headers_come_back_from_the_twin() {
    let (good, _) = Disk::new(6);
    let (mut disk, mut twin) = (good.clone(), good.clone());
    for at in header_blocks(disk.count()) {
        disk.unreadable.insert(at);
    }
    let tally = scrub(&mut disk, Some(&mut twin), 0).unwrap();
    assert_eq!((tally.copied, tally.wrong()), (2, 2));
    assert!(disk.is_as(&good));
}

#[test]
fn what_cannot_be_written_is_lost_and_said_so() {
    let (good, _) = Disk::new(7);
    let (mut disk, mut twin) = (good.clone(), good.clone());
    disk.flip(40, &mut Random::new(1));
    disk.unwritable.insert(40);
    let tally = scrub(&mut disk, Some(&mut twin), 0).unwrap();
    assert_eq!((tally.lost, tally.wrong()), (1, 1));
}

#[test]
fn a_medium_that_keeps_nothing_or_does_not_say_that_it_has_is_not_believed() {
    let (good, _) = Disk::new(11);
    let mut damaged = good.clone();
    damaged.blocks[40][0] ^= 1;
    for (forgotten, cannot_flush) in [([40].into(), false), ([].into(), true)] {
        let mut disk = Disk { forgotten, cannot_flush, ..damaged.clone() };
        let tally = scrub(&mut disk, None, 0).unwrap();
        assert_eq!((tally.corrected, tally.copied), (0, 0), "cannot flush: {cannot_flush}");
    }
}

#[test]
fn a_twin_that_ends_before_a_block_has_it_not() {
    let (good, layout) = Disk::new(12);
    let lost: Vec<_> = layout.fec().group(300).flatten().take(usize::from(ROOTS) + 1).collect();
    let mut disk = good.clone();
    disk.unreadable.extend(&lost);
    let mut twin = good.clone();
    twin.blocks.truncate(lost[0] as usize);
    let mut scrub = Scrub::new(layout, 0);
    while scrub.step(&mut disk, Some(&mut twin)) {}
    assert_eq!(scrub.tally().lost, lost.len() as u64);
}

#[test]
fn below_a_lost_block_of_the_tree_nothing_is_judged() {
    let (good, layout) = Disk::new(8);
    let lowest = layout.tree().blocks().end - 1;
    let group: Vec<u64> = layout.fec().group(lowest).flatten().collect();
    let mut disk = good.clone();
    // Its group has five wrong blocks, all of them where it vouches for none of the others.
    let victims: Vec<u64> = group.iter().copied().filter(|block| *block < 512).take(4).chain([lowest]).collect();
    victims.iter().for_each(|block| disk.blocks[*block as usize].fill(3));
    let before = disk.clone();
    let tally = scrub(&mut disk, None, 0).unwrap();
    let children = layout.tree().children(lowest);
    assert_eq!(tally.lost, 5 + children.end - children.start, "{tally:?}");
    assert!(disk.blocks == before.blocks);
}

/// Damage of every kind at random: whatever the tally says was not lost is as it was, and what was lost is not worse.
#[test]
fn nothing_wrong_is_ever_written() {
    let (good, layout) = Disk::new(9);
    let end = u64::from(layout.end_block);
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let (mut disk, mut twin) = (good.clone(), good.clone());
        for _ in 0..random.below(40) {
            let disk = if random.below(4) == 0 { &mut twin } else { &mut disk };
            let block = random.below(end);
            match random.below(4) {
                0 => drop(disk.unreadable.insert(block)),
                1 => (block..end.min(block + random.below(20))).for_each(|block| disk.blocks[block as usize].fill(0)),
                _ => disk.flip(block, &mut random),
            }
        }
        let before = disk.clone();
        let with_twin = random.below(2) == 0;
        let tally = scrub(&mut disk, with_twin.then_some(&mut twin), random.below(100)).unwrap();
        let wrong = |disk: &Disk| {
            (0..end)
                .filter(|at| disk.blocks[*at as usize] != good.blocks[*at as usize] || disk.unreadable.contains(at))
                .count() as u64
        };
        let (wrong_before, wrong_after) = (wrong(&before), wrong(&disk));
        assert!(wrong_after <= tally.lost, "seed {seed}: {wrong_after} wrong, {tally:?}");
        assert!(wrong_before - wrong_after == tally.corrected + tally.copied, "seed {seed}: {wrong_before}, {tally:?}");
        for at in 0..end as usize {
            let block = disk.blocks[at];
            assert!(block == good.blocks[at] || block == before.blocks[at], "seed {seed}: block {at} is a new one");
        }
    }
}
