//! The boot state on the node's disk, as PID 1 reads and changes it.
//!
//! A disk may block for as long as it likes, so a child writes. What changes while it does is written after it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use perigee_core::slot::copies::{self, COPIES, NAMES, PLACES};
use perigee_core::slot::record::{RECORD_BYTES, Record};
use perigee_core::slot::{Slot, State};
use rustix::fs::OFlags;
use rustix::process::Pid;

use crate::block::Partitions;
use crate::logs::Logs;
use crate::sys;

/// The loader's word on the kernel's command line for what it has started.
const SLOT: &str = "perigee.slot=";

/// What the next start depends on.
pub struct BootState {
    devices: [Option<PathBuf>; COPIES],
    record: Record,
    writer: Option<Pid>,
    /// Changed since the writer began.
    dirty: bool,
    /// What runs now.
    slot: Slot,
}

impl BootState {
    /// Reads the copies. Without a loader (a kernel that was started by hand) or without any copy there is none, and
    /// nothing is confirmed or written down.
    pub fn read(cmdline: &str, partitions: &mut Partitions, logs: &mut Logs) -> Option<Self> {
        let name = cmdline.split_whitespace().find_map(|word| word.strip_prefix(SLOT));
        let Some(slot) = name.and_then(|name| Slot::ALL.into_iter().find(|slot| slot.name() == name)) else {
            logs.event(format_args!("slot=unknown reason=\"no {SLOT} on the kernel's command line\""));
            return None;
        };
        let devices = NAMES.map(|name| partitions.find(name));
        let places = devices.each_ref().map(|device| read_places(device.as_deref()));
        match copies::read(&places) {
            Ok(found) => {
                let left = found.record.state.standing(slot).left();
                let starts = found.record.state.starts;
                logs.event(format_args!("slot={} tries_left={left} starts={starts}", slot.name()));
                Some(Self { devices, record: found.record, writer: None, dirty: false, slot })
            }
            Err(lost) => {
                logs.event(format_args!("slot={} boot_state=lost error=\"{lost}\"", slot.name()));
                None
            }
        }
    }

    /// What runs now.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The state as it is, or is about to be, on the disk.
    pub fn state(&self) -> &State {
        &self.record.state
    }

    /// Changes the state, and has it written.
    pub fn change(&mut self, logs: &mut Logs, change: impl FnOnce(&mut State)) {
        let mut state = self.record.state.clone();
        change(&mut state);
        self.record = self.record.followed_by(state);
        self.dirty = true;
        self.write(logs);
    }

    /// Whether `pid` was the writer.
    pub fn writer_ended(&mut self, pid: Pid, good: bool, logs: &mut Logs) -> bool {
        if self.writer != Some(pid) {
            return false;
        }
        self.writer = None;
        if !good {
            // The loader takes a try off at each start: a state that cannot be written is at worst too old.
            logs.event(format_args!("boot_state=unwritten sequence={}", self.record.sequence));
        }
        self.write(logs);
        true
    }

    /// Whether everything is on the disk, or cannot be.
    pub fn is_written(&self) -> bool {
        self.writer.is_none()
    }

    fn write(&mut self, logs: &mut Logs) {
        if !self.dirty || self.writer.is_some() {
            return;
        }
        self.dirty = false;
        let (devices, bytes) = (self.devices.clone(), self.record.encode());
        let offset = offset(copies::place_of(self.record.sequence));
        let write = move || {
            let written = devices.iter().flatten().filter(|device| write(device, offset, &bytes).is_ok()).count();
            i32::from(written == 0)
        };
        match sys::process::helper(c"init-state", None, write) {
            Ok(pid) => self.writer = Some(pid),
            Err(error) => logs.event(format_args!("boot_state=unwritten error=\"{error}\"")),
        }
    }
}

fn read_places(device: Option<&Path>) -> copies::Places {
    let file = device.and_then(|device| File::open(device).ok());
    let mut place = 0;
    [(); PLACES].map(|()| {
        let mut bytes = [0; RECORD_BYTES];
        let read = file.as_ref().map(|file| file.read_exact_at(&mut bytes, offset(place)));
        place += 1;
        matches!(read, Some(Ok(()))).then_some(bytes)
    })
}

fn offset(place: usize) -> u64 {
    (place * RECORD_BYTES) as u64
}

/// Returns when the bytes are on the medium.
fn write(device: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::DSYNC.bits().cast_signed();
    OpenOptions::new().write(true).custom_flags(flags).open(device)?.write_all_at(bytes, offset)
}
