//! The node's vitals: asked here, judged by [`perigee_core::watchdog`].

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use perigee_core::control::ServiceState;
use perigee_core::slot::Slot;
use perigee_core::watchdog::{Order, Times, Vital, Watchdog};
use rustix::fs::OFlags;
use rustix::process::Pid;

use crate::services::Services;
use crate::sys;
use crate::watchdog::{Device, STROKE_PERIOD};

const TIMES: Times = Times {
    // A first boot on a slow card imports images first: a minute under emulation, on the slowest card in view ten.
    first: Duration::from_secs(600),
    // Longer than a service's longest back-off and its start together.
    again: Duration::from_secs(180),
    // A service that ends again and again is caught by it: back-off begins at half a second.
    confirm: Duration::from_secs(60),
    // More than `shutdown` takes, whatever hangs.
    end: Duration::from_secs(100),
};
/// Between two writes to data: 5 MB a day.
const WRITE_PERIOD: Duration = Duration::from_secs(60);
/// A write that takes longer has not held, whatever comes of it.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// What is written: its own block, so that nothing else of the file system changes.
const FILE: &str = "/data/.vital";
const BLOCK: [u8; 4096] = [0; 4096];

/// The vitals and the device that they keep quiet.
pub struct Vitals {
    device: Option<Device>,
    times: Times,
    watchdog: Watchdog,
    of_services: Vec<Vital>,
    stroke_at: Duration,
    write_at: Option<Duration>,
    writer: Option<(Pid, Duration)>,
}

impl Vitals {
    /// Nothing is vital yet: PID 1's own loop is all that strokes.
    pub fn new(device: Option<Device>, command_line: &str, now: Duration) -> Self {
        let times = TIMES.with(command_line);
        let watchdog = Watchdog::new(&[], times, now);
        Self { device, times, watchdog, of_services: Vec::new(), stroke_at: now, write_at: None, writer: None }
    }

    /// Begins to watch, as what the services need is there.
    pub fn begin(&mut self, slot: Option<Slot>, now: Duration) {
        let vitals = if slot == Some(Slot::Golden) { &Vital::GOLDEN[..] } else { &Vital::ALL[..] };
        self.of_services = vitals.iter().copied().filter(|vital| vital.service().is_some()).collect();
        self.watchdog = Watchdog::new(vitals, self.times, now);
        self.write_at = Some(now);
    }

    /// When [`Self::tick`] has something to do.
    pub fn deadline(&self) -> Duration {
        let watchdog = self.watchdog.next_deadline().unwrap_or(Duration::MAX);
        let writer = self.writer.map(|(_, until)| until).or(self.write_at).unwrap_or(Duration::MAX);
        self.stroke_at.min(watchdog).min(writer)
    }

    /// Asks, strokes, and tells what else is to be done.
    pub fn tick(&mut self, now: Duration, services: &Services) -> Option<Order> {
        for vital in &self.of_services {
            let state = vital.service().and_then(|name| services.state(name));
            self.watchdog.report(*vital, state == Some(ServiceState::Ready), now);
        }
        match self.writer {
            Some((_, until)) if until <= now => {
                self.watchdog.report(Vital::Data, false, now);
                // It is asked again when the write has ended, which it must first.
                self.writer = self.writer.map(|(pid, _)| (pid, now + WRITE_PATIENCE));
            }
            None if self.write_at.is_some_and(|at| at <= now) => {
                self.write_at = Some(now + WRITE_PERIOD);
                match sys::process::helper(c"init-vital", None, write) {
                    Ok(pid) => self.writer = Some((pid, now + WRITE_PATIENCE)),
                    Err(_) => self.watchdog.report(Vital::Data, false, now),
                }
            }
            _ => {}
        }
        if self.stroke_at <= now && self.watchdog.may_stroke(now) {
            self.stroke_at = now + STROKE_PERIOD;
            if let Some(device) = &self.device {
                device.stroke();
            }
        }
        self.watchdog.next_order(now)
    }

    /// Whether `pid` was the one that wrote to data.
    pub fn writer_ended(&mut self, pid: Pid, good: bool, now: Duration) -> bool {
        let ours = self.writer.take_if(|(writer, _)| *writer == pid).is_some();
        if ours {
            self.watchdog.report(Vital::Data, good, now);
        }
        ours
    }

    /// The node goes down: for so long and no longer.
    pub fn end(&mut self, now: Duration) {
        self.watchdog.end(now);
    }
}

/// Writes one block of data to the medium, by a child of PID 1. Returns its exit status.
fn write() -> i32 {
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(OFlags::DSYNC.bits().cast_signed())
        .open(Path::new(FILE))
        .and_then(|file| file.write_all_at(&BLOCK, 0));
    i32::from(written.is_err())
}
