//! The watchdog's device. The loader has armed it; from here on PID 1 strokes.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use perigee_core::watchdog::WINDOW;
use rustix::fs::OFlags;

use crate::logs::Logs;
use crate::sys;

const DEVICE: &str = "/dev/watchdog";
/// Five strokes may be lost before it counts.
pub const STROKE_PERIOD: Duration = Duration::from_secs(10);

/// An open watchdog. It is never closed in peace: the kernel would take that for a hang, and it would be one.
pub struct Device(OwnedFd);

impl Device {
    /// Takes the watchdog over, without a gap: opening it is a stroke. A board without one is watched by nobody.
    pub fn open(logs: &mut Logs) -> Option<Self> {
        let flags = OFlags::CLOEXEC.bits().cast_signed();
        let file = OpenOptions::new().write(true).custom_flags(flags).open(DEVICE);
        let device = match file {
            Ok(file) => Self(OwnedFd::from(file)),
            Err(error) => {
                logs.event(format_args!("watchdog=none error=\"{error}\""));
                return None;
            }
        };
        let window = i32::try_from(WINDOW.as_secs()).unwrap_or(i32::MAX);
        match sys::watchdog::set_timeout(&device.0, window) {
            Ok(window_s) => logs.event(format_args!("watchdog=taken window_s={window_s}")),
            Err(error) => logs.event(format_args!("watchdog=taken window_s=unknown error=\"{error}\"")),
        }
        Some(device)
    }

    /// Puts the reset off by the window.
    pub fn stroke(&self) {
        // One that fails is one that is lost: the device decides.
        let _ = rustix::io::write(&self.0, &[0]);
    }
}
