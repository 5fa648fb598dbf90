//! Raw system calls: the only room with `unsafe`.

#![allow(unsafe_code)]

pub mod ext4;
pub mod process;
pub mod signals;
pub mod watchdog;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the kernel's start (CLOCK_BOOTTIME): never set, never backwards.
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}
