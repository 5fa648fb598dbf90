//! Room to start in on a full data partition: a file that is freed when nothing else is, as etcd and its like cannot
//! start without a little space, and nothing could then tell them to use less.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// etcd allocates its next log segment as it starts: 64 MiB (SegmentSizeBytes in server/storage/wal), and what it gets
/// of that on a full disk stays allocated. With less beside it a service may fail to start.
const TOO_LITTLE: u64 = 80 << 20;
/// One start on a disk without a free block.
const BYTES: u64 = 96 << 20;
/// With this left beside it, the ballast is no burden.
const PLENTY: u64 = 256 << 20;

/// What to do with the ballast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Nothing.
    Keep,
    /// Give its room away.
    Free,
    /// Take room for it.
    Make,
}

/// Decides by whether it is there and how much is free. Its room is given away before the services start only: what
/// fills the disk while they run would take it, too, and the next boot would have none. It is taken while they run only:
/// no start waits for it.
pub fn decide(starting: bool, present: bool, free_bytes: u64) -> Move {
    match present {
        true if starting && free_bytes < TOO_LITTLE => Move::Free,
        false if !starting && free_bytes >= BYTES + PLENTY => Move::Make,
        _ => Move::Keep,
    }
}

/// Does it. Blocks for as long as the card takes: the caller is a child of PID 1. Returns its exit status.
pub fn act(action: Move, file: &Path) -> i32 {
    let done = match action {
        Move::Keep => Ok(()),
        Move::Free => fs::remove_file(file),
        Move::Make => make(file).inspect_err(|_| {
            // A half-made ballast is worse than none.
            let _ = fs::remove_file(file);
        }),
    };
    i32::from(done.is_err())
}

fn make(file: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, BYTES)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_freed_only_for_a_start_without_room() {
        assert_eq!(decide(true, true, 0), Move::Free);
        assert_eq!(decide(false, true, 0), Move::Keep);
        assert_eq!(decide(true, true, TOO_LITTLE), Move::Keep);
        assert_eq!(decide(true, false, 0), Move::Keep);
    }

    #[test]
    fn it_is_made_only_where_there_is_plenty() {
        assert_eq!(decide(false, false, BYTES), Move::Keep);
        assert_eq!(decide(false, false, BYTES + PLENTY), Move::Make);
        assert_eq!(decide(false, true, u64::MAX), Move::Keep);
    }

    #[test]
    fn no_start_waits_for_it_to_be_made() {
        assert_eq!(decide(true, false, u64::MAX), Move::Keep);
        assert_eq!(decide(true, true, u64::MAX), Move::Keep);
    }

    #[test]
    fn freeing_and_making_do_not_alternate() {
        let full = TOO_LITTLE - 1;
        assert_eq!(decide(true, true, full), Move::Free);
        assert_eq!(decide(true, false, full + BYTES), Move::Keep);
        assert_eq!(decide(true, true, PLENTY), Move::Keep);
    }

    #[test]
    fn it_takes_its_room_and_gives_it_back() {
        let file = std::env::temp_dir().join(format!("perigee-init-ballast-{}", std::process::id()));
        assert_eq!(act(Move::Make, &file), 0);
        assert_eq!(fs::metadata(&file).unwrap().len(), BYTES);
        assert_eq!(act(Move::Free, &file), 0);
        assert!(!file.exists());
    }
}
