//! The loader's way from its first line to the kernel's.

use alloc::string::ToString;
use core::convert::Infallible;
use core::time::Duration;

use perigee_core::reset::Cause;
use perigee_core::slot::{Choice, FIRST_PAUSE, Rejected, Side, Slot, State};
use perigee_core::watchdog::WINDOW;
use uefi::Status;
use uefi::runtime::{self, ResetType};

use crate::disk::Disk;
use crate::error::Error;
use crate::image::{self, Kernel};
use crate::state::Store;
use crate::watchdog::{self, Watchdog};

/// Starts a kernel, or resets the machine.
pub fn run() -> Status {
    say!("started version={}", env!("CARGO_PKG_VERSION"));
    let mut watchdog = watchdog::find();
    let device = watchdog.as_mut().and_then(arm);
    let (pause, why) = match start(&mut watchdog, device) {
        Ok(pause) => (pause, None),
        Err(error) => (FIRST_PAUSE, Some(error)),
    };
    if let Some(why) = why {
        say!("failed reason=\"{why}\"");
    }
    reset_after(&mut watchdog, pause)
}

/// Arms the watchdog before anything can hang; tells whether it was what ended the last start.
fn arm(watchdog: &mut impl Watchdog) -> Option<Cause> {
    let has_reset = watchdog.has_reset();
    watchdog.arm(WINDOW);
    say!("watchdog device={} window_s={} has_reset={has_reset}", watchdog.name(), WINDOW.as_secs());
    has_reset.then_some(Cause::Watchdog)
}

/// Starts slots until one runs; comes back with the pause before the reset when there is none left.
fn start(watchdog: &mut Option<impl Watchdog>, device: Option<Cause>) -> Result<Duration, Error> {
    let mut disk = Disk::of_loader()?;
    let mut store = Store::find(&disk);
    let mut state = store.read(&mut disk).unwrap_or_else(|lost| {
        say!("state-lost reason=\"{lost}\"");
        let mut state = State::new(Side::A, Slot::ALL.map(|slot| image::exists(&mut disk, slot)));
        state.lost(&lost.to_string());
        state
    });
    state.account(device);
    let mut rejected = Rejected::default();
    loop {
        let choice = state.choose(rejected);
        if let Err(error) = store.write(&mut disk, &state) {
            // Better a start that is not counted than none.
            say!("state-unwritten reason=\"{error}\"");
        }
        let (slot, pause) = match choice {
            Choice::Start { slot, pause } => (slot, pause),
            Choice::Reset { pause } => return Ok(pause),
        };
        if !pause.is_zero() {
            say!("pause seconds={} rounds={}", pause.as_secs(), state.rounds);
            watchdog::pause(watchdog, pause);
        }
        let left = state.standing(slot).left();
        say!("try slot={} tries_left={left} start={}", slot.name(), state.starts);
        let Err(why) = run_slot(&mut disk, slot, watchdog);
        say!("rejected slot={} reason=\"{why}\"", slot.name());
        state.reject(slot, &why.to_string());
        rejected.add(slot);
    }
}

fn run_slot(disk: &mut Disk, slot: Slot, watchdog: &mut Option<impl Watchdog>) -> Result<Infallible, Error> {
    let kernel = Kernel::read(disk, slot)?.load()?;
    if let Some(watchdog) = watchdog {
        watchdog.stroke();
    }
    say!("kernel slot={}", slot.name());
    Err(kernel.start())
}

fn reset_after(watchdog: &mut Option<impl Watchdog>, pause: Duration) -> ! {
    say!("reset in_s={}", pause.as_secs());
    watchdog::pause(watchdog, pause);
    runtime::reset(ResetType::COLD, Status::ABORTED, None)
}
