//! The kernel's watchdog interface (Documentation/watchdog/watchdog-api.rst).

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};

/// `WDIOC_SETTIMEOUT`: `_IOWR('W', 6, int)`, seconds.
const SET_TIMEOUT: rustix::ioctl::Opcode = opcode::read_write::<i32>(b'W', 6);

/// Sets the time without a stroke after which the device resets the machine; gives what it took, seconds.
///
/// # Errors
/// The kernel's: EINVAL for a time that the device cannot count to, EOPNOTSUPP for one that has a fixed time.
pub fn set_timeout(device: impl AsFd, seconds: i32) -> Result<i32, Errno> {
    let mut seconds = seconds;
    // SAFETY: the opcode is the kernel's for an int that it reads and writes.
    unsafe { ioctl(device, Updater::<SET_TIMEOUT, i32>::new(&mut seconds)) }?;
    Ok(seconds)
}
