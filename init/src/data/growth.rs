//! A file system that is smaller than its partition grows: as far as the services need before they start, then to its end.

use std::fs::{self, File};
use std::path::Path;

use rustix::io::Errno;
use rustix::process::Pid;

use super::plan::{self, Tried};
use super::superblock::Superblock;
use super::{ROOT, replace, walk};
use crate::child;
use crate::logs::Logs;
use crate::sys;

const SET_ASIDE: &str = "/data/set-aside";

/// How one grows.
pub struct Growth {
    to: plan::Growth,
    /// Bytes at the partition's end that [`replace`] set aside.
    aside: Option<(u64, u64)>,
}

impl Growth {
    /// None if it fills its partition.
    pub fn of(device: &Path, tried: Tried, superblock: &Superblock) -> Option<Self> {
        let bytes = walk::size(device).ok()?;
        let aside = match tried {
            Tried::Replace => fs::metadata(walk::SEED).ok().and_then(|seed| replace::aside(seed.len(), bytes)),
            _ => None,
        };
        let to = plan::Growth::of(superblock, bytes, aside.map(|(offset, _)| offset))?;
        Some(Self { to, aside })
    }

    /// Blocks that it grows to before the services start.
    pub fn first(&self) -> u64 {
        self.to.first
    }

    /// Puts what was set aside into the file system, and grows it to the end, after `first_step`, if that still runs: the
    /// kernel refuses a second one meanwhile.
    pub fn finish(self, first_step: Option<Pid>, device: &Path, logs: &mut Logs) {
        let plan::Growth { first, room, most } = self.to;
        if first == most {
            return;
        }
        // Nothing waits for it; should it fail or the power go, the file is missing, or the next boot goes on.
        let child = child::start_after(first_step, c"init-grow", || {
            let keep = |aside| resize(room).is_ok() && replace::keep(device, aside, Path::new(SET_ASIDE)).is_ok();
            let kept = self.aside.is_none_or(keep);
            i32::from(resize(most).is_err() || !kept)
        });
        let aside = self.aside.map(|_| format!(" set_aside={SET_ASIDE}/head")).unwrap_or_default();
        let name = device.display();
        logs.event(format_args!("data={name} grow_to_blocks={first},{most}{aside} child=\"{child:?}\""));
    }
}

/// Grows what is mounted.
///
/// # Errors
/// The kernel's: EBUSY while it grows already.
pub fn resize(blocks: u64) -> Result<(), Errno> {
    let root = File::open(ROOT).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    sys::ext4::resize(root, blocks)
}
