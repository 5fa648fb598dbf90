//! Haste while booting: the kernel waits for all processors (RCU's grace periods) whenever a cgroup, a mount or a
//! network namespace changes, tens of milliseconds each time that it waits politely. It was impolite until it started
//! PID 1; it stays so until the node is ready, as Android's init has it. Afterwards an idle node's processors are left
//! asleep.

use std::fs;
use std::time::Duration;

use crate::sys;

const EXPEDITED: &str = "/sys/kernel/rcu_expedited";
/// A boot that takes longer has other troubles.
const AT_MOST: Duration = Duration::from_secs(180);

/// The kernel is in haste.
#[derive(Debug)]
pub struct Haste {
    until: Duration,
}

impl Haste {
    /// Begins. A kernel that cannot be hurried is as good, only slower.
    pub fn begin() -> Self {
        let _ = fs::write(EXPEDITED, "1");
        Self { until: sys::now() + AT_MOST }
    }

    /// When it ends at the latest.
    pub fn deadline(&self) -> Duration {
        self.until
    }

    /// Ends.
    pub fn end(self) {
        let _ = fs::write(EXPEDITED, "0");
    }
}
