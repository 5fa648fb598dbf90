//! Partitions by their GPT names.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use perigee_core::uevent;

use crate::sys;

/// How long a partition is waited for: the kernel mounts the root as soon as its partition is there, and the others
/// of the same card follow within milliseconds. A card that takes longer than this is not coming.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Between two looks; a look is a few dozen small reads of sysfs.
const PERIOD: Duration = Duration::from_millis(20);

/// The device of the partition `name`, if there is one now. Of two, the one whose device comes first in the alphabet.
fn look(name: &str) -> Option<PathBuf> {
    fs::read_dir("/sys/class/block")
        .ok()?
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("uevent")).ok())
        .filter_map(|uevent| {
            uevent::partition(&uevent).and_then(|(found, device)| (found == name).then(|| PathBuf::from(device)))
        })
        .min()
        .map(|device| PathBuf::from("/dev").join(device))
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
