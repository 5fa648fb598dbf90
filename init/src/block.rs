//! Partitions by their GPT names.

use std::collections::BTreeMap;
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

/// The partitions that were there at the last look.
#[derive(Default)]
pub struct Partitions(BTreeMap<String, String>);

impl Partitions {
    /// The device of the partition `name`; looks again, for a bounded time, until it is there.
    pub fn find(&mut self, name: &str) -> Option<PathBuf> {
        let deadline = sys::now() + PATIENCE;
        loop {
            if let Some(device) = self.0.get(name) {
                return Some(Path::new("/dev").join(device));
            }
            if sys::now() >= deadline {
                return None;
            }
            self.0 = look();
            if !self.0.contains_key(name) {
                std::thread::sleep(PERIOD);
            }
        }
    }
}

/// What there is now.
fn look() -> BTreeMap<String, String> {
    let entries = fs::read_dir("/sys/class/block").into_iter().flatten();
    uevent::partitions(entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("uevent")).ok()))
}
