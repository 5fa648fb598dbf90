//! How the data partition comes to be mounted: what is tried, in which order, and when it is given up.
//!
//! | what is known | what is tried |
//! |---|---|
//! | a sound superblock | mount |
//! | a superblock that notes errors | e2fsck -p, mount |
//! | no superblock | e2fsck -y (which looks for its copies), mount |
//! | the mount failed | the next stronger of: e2fsck -p, e2fsck -y, made new |
//! | the check failed | the next stronger |
//! | the mount failed for a reason that is not the partition's | give up: nothing is repaired that is not broken |
//! | the check could not run | give up: nothing is thrown away unchecked |
//! | made new, and it still does not mount | give up |
//!
//! Given up means: /data is a tmpfs, and the node comes up without its past.

use perigee_core::control::DataOrigin;

use super::superblock::Superblock;

/// The strongest remedy so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tried {
    /// None.
    Nothing,
    /// e2fsck -p: what is safe to repair.
    Preen,
    /// e2fsck -y: everything, at the cost of what is damaged.
    Force,
    /// Set aside and made new.
    Replace,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Mount it.
    Mount,
    /// Try this remedy.
    Remedy(Tried),
    /// It is mounted.
    Mounted(DataOrigin),
    /// It cannot be mounted.
    GiveUp,
}

/// How a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountEnd {
    /// Well.
    Mounted,
    /// The kernel does not like what is on the partition.
    Damaged,
    /// Something else is wrong: no mount point, no memory, no ext4 in the kernel.
    Hindered,
}

/// How a remedy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemedyEnd {
    /// The file system is sound now, as far as the remedy knows.
    Sound,
    /// It is not.
    Unsound,
    /// The remedy could not be tried.
    NotTried,
}

/// The first step.
pub fn first(superblock: Option<&Superblock>) -> Step {
    match superblock {
        Some(superblock) if superblock.errors => Step::Remedy(Tried::Preen),
        Some(_) => Step::Mount,
        None => Step::Remedy(Tried::Force),
    }
}

/// The step after a mount.
pub fn after_mount(tried: Tried, end: MountEnd) -> Step {
    match end {
        MountEnd::Mounted => Step::Mounted(match tried {
            Tried::Nothing => DataOrigin::Clean,
            Tried::Preen | Tried::Force => DataOrigin::Repaired,
            Tried::Replace => DataOrigin::New,
        }),
        MountEnd::Damaged => stronger(tried),
        MountEnd::Hindered => Step::GiveUp,
    }
}

/// The step after a remedy.
pub fn after_remedy(tried: Tried, end: RemedyEnd) -> Step {
    match end {
        RemedyEnd::Sound => Step::Mount,
        RemedyEnd::Unsound => stronger(tried),
        RemedyEnd::NotTried => Step::GiveUp,
    }
}

fn stronger(tried: Tried) -> Step {
    match tried {
        Tried::Nothing => Step::Remedy(Tried::Preen),
        Tried::Preen => Step::Remedy(Tried::Force),
        Tried::Force => Step::Remedy(Tried::Replace),
        Tried::Replace => Step::GiveUp,
    }
}

/// Bytes to grow to before the services start: what they take in their first minutes.
const GROW_AT_ONCE: u64 = 1 << 30;

/// How a file system that is smaller than its partition grows, in its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// To this before the services start.
    pub first: u64,
    /// To this before what lies behind it is a file.
    pub room: u64,
    /// To this in the end.
    pub most: u64,
}

impl Growth {
    /// None if it fills its partition. What was set aside lies at the byte `aside_at` and behind.
    pub fn of(superblock: &Superblock, partition_bytes: u64, aside_at: Option<u64>) -> Option<Self> {
        let blocks = |bytes: u64| bytes / superblock.block_bytes;
        let most = blocks(partition_bytes);
        let room = aside_at.map_or(most, blocks);
        let first = room.min(blocks(GROW_AT_ONCE)).max(superblock.blocks);
        (superblock.blocks < room).then_some(Self { first, room, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the plan on a partition that mounts once `cure` (or a stronger remedy) has been tried.
    fn walk(superblock: Option<Superblock>, cure: Tried, check: RemedyEnd) -> (Vec<Step>, Step) {
        let (mut tried, mut steps) = (Tried::Nothing, Vec::new());
        let mut step = first(superblock.as_ref());
        while !matches!(step, Step::Mounted(_) | Step::GiveUp) {
            steps.push(step);
            assert!(steps.len() < 10, "the plan does not end");
            step = match step {
                Step::Mount if tried >= cure => after_mount(tried, MountEnd::Mounted),
                Step::Mount => after_mount(tried, MountEnd::Damaged),
                Step::Remedy(remedy) => {
                    assert!(remedy > tried, "each remedy is tried once");
                    tried = remedy;
                    after_remedy(tried, if tried == Tried::Replace { RemedyEnd::Sound } else { check })
                }
                Step::Mounted(_) | Step::GiveUp => unreachable!(),
            };
        }
        (steps, step)
    }

    const SOUND: Superblock = Superblock { blocks: 1, block_bytes: 4096, errors: false };
    const ERRORS: Superblock = Superblock { errors: true, ..SOUND };

    #[test]
    fn a_sound_partition_is_only_mounted() {
        assert_eq!(
            walk(Some(SOUND), Tried::Nothing, RemedyEnd::Sound),
            (vec![Step::Mount], Step::Mounted(DataOrigin::Clean))
        );
    }

    #[test]
    fn noted_errors_are_repaired_before_the_mount() {
        assert_eq!(
            walk(Some(ERRORS), Tried::Nothing, RemedyEnd::Sound),
            (vec![Step::Remedy(Tried::Preen), Step::Mount], Step::Mounted(DataOrigin::Repaired))
        );
    }

    #[test]
    fn a_lost_superblock_is_looked_for_before_anything_is_made_new() {
        let (steps, end) = walk(None, Tried::Force, RemedyEnd::Sound);
        assert_eq!(steps, [Step::Remedy(Tried::Force), Step::Mount]);
        assert_eq!(end, Step::Mounted(DataOrigin::Repaired));
    }

    #[test]
    fn what_cannot_be_repaired_is_made_new() {
        for superblock in [Some(SOUND), Some(ERRORS), None] {
            for check in [RemedyEnd::Sound, RemedyEnd::Unsound] {
                assert_eq!(walk(superblock, Tried::Replace, check).1, Step::Mounted(DataOrigin::New));
            }
        }
    }

    #[test]
    fn nothing_is_thrown_away_that_was_not_checked() {
        for tried in [Tried::Nothing, Tried::Preen, Tried::Force, Tried::Replace] {
            assert_eq!(after_remedy(tried, RemedyEnd::NotTried), Step::GiveUp);
            assert_eq!(after_mount(tried, MountEnd::Hindered), Step::GiveUp);
        }
    }

    #[test]
    fn a_new_one_that_does_not_mount_is_given_up() {
        assert_eq!(after_mount(Tried::Replace, MountEnd::Damaged), Step::GiveUp);
    }

    /// Of a file system of `mib` on a partition of `partition_mib`, MiB.
    fn growth(mib: u64, partition_mib: u64, aside_at: Option<u64>) -> Option<[u64; 3]> {
        let superblock = Superblock { blocks: mib << 8, ..SOUND };
        let growth = Growth::of(&superblock, partition_mib << 20, aside_at.map(|mib| mib << 20))?;
        Some([growth.first, growth.room, growth.most].map(|blocks| blocks >> 8))
    }

    #[test]
    fn services_do_not_wait_for_the_growth_of_a_large_partition() {
        assert_eq!(growth(64, 7000, None), Some([1024, 7000, 7000]));
        assert_eq!(growth(64, 500, None), Some([500, 500, 500]));
        assert_eq!(growth(7000, 7000, None), None);
    }

    #[test]
    fn growth_that_was_cut_short_goes_on_and_never_back() {
        assert_eq!(growth(2048, 7000, None), Some([2048, 7000, 7000]));
    }

    #[test]
    fn what_was_set_aside_is_not_grown_over() {
        assert_eq!(growth(64, 7000, Some(6936)), Some([1024, 6936, 7000]));
        assert_eq!(growth(64, 300, Some(236)), Some([236, 236, 300]));
    }
}
