//! Partitions by their GPT names.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use perigee_core::uevent;

use crate::sys;

/// How long a partition is waited for: the kernel mounts the root as soon as its partition is there, and the others
/// of the same card follow within milliseconds. A card that takes longer than this is not coming.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Between two looks; a look is a few dozen small reads of sysfs.
const PERIOD: Duration = Duration::from_millis(20);

/// The device of the partition `name`, if there is one now.
fn look(name: &str) -> Option<PathBuf> {
    let uevents = fs::read_dir("/sys/class/block").ok()?;
    let uevents = uevents.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("uevent")).ok());
    uevent::find(name, uevents).map(|device| Path::new("/dev").join(device))
}

/// The device of the partition `name`; waits a bounded time for it.
pub fn find(name: &str) -> Option<PathBuf> {
    let deadline = sys::now() + PATIENCE;
    loop {
        match look(name) {
            Some(device) => return Some(device),
            None if sys::now() >= deadline => return None,
            None => std::thread::sleep(PERIOD),
        }
    }
}
