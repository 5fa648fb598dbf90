//! Room to start in on a full data partition: a file that is freed when nothing else is, as etcd and its like cannot
//! start without a little space, and nothing could then tell them to use less.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// Enough for etcd's next log segment of a small cluster and everyone's state files.
const BYTES: u64 = 32 << 20;
/// Below this a service may fail to start.
const TOO_LITTLE: u64 = 16 << 20;
/// With this left beside it, the ballast is no burden, and kubelet's image collection has begun long before.
const PLENTY: u64 = 4 * BYTES;

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

/// Decides by whether it is there and how much is free.
pub fn decide(present: bool, free_bytes: u64) -> Move {
    match present {
        true if free_bytes < TOO_LITTLE => Move::Free,
        false if free_bytes >= BYTES + PLENTY => Move::Make,
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
    fn it_is_freed_only_when_nothing_else_is_free() {
        assert_eq!(decide(true, 0), Move::Free);
        assert_eq!(decide(true, TOO_LITTLE), Move::Keep);
        assert_eq!(decide(false, 0), Move::Keep);
    }

    #[test]
    fn it_is_made_only_where_there_is_plenty() {
        assert_eq!(decide(false, BYTES), Move::Keep);
        assert_eq!(decide(false, BYTES + PLENTY), Move::Make);
        assert_eq!(decide(true, u64::MAX), Move::Keep);
    }

    #[test]
    fn freeing_and_making_do_not_alternate() {
        let full = TOO_LITTLE - 1;
        assert_eq!(decide(true, full), Move::Free);
        assert_eq!(decide(false, full + BYTES), Move::Keep);
        assert_eq!(decide(true, PLENTY), Move::Keep);
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
