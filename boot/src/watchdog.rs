//! The machine's watchdog, whatever it is.

use core::time::Duration;

use uefi::boot;

use crate::i6300esb::I6300Esb;

/// Seconds after which firmware itself resets, as long as the loader runs; the only watchdog where there is no other.
const FIRMWARE_WINDOW_S: usize = 300;
/// How often it is stroked during a pause.
const STROKE_PERIOD: Duration = Duration::from_secs(1);

/// What a board's watchdog can do.
pub trait Watchdog {
    /// Its name on the console.
    fn name(&self) -> &'static str;
    /// Whether it was what reset the machine; asks once, as asking forgets.
    fn has_reset(&mut self) -> bool;
    /// Starts it so that nobody can stop it before the next reset.
    fn arm(&mut self, window: Duration);
    /// Puts its end off by its window.
    fn stroke(&mut self);
}

/// Finds the watchdog of the board.
pub fn find() -> Option<impl Watchdog> {
    I6300Esb::find()
}

/// Waits, stroking.
pub fn pause(watchdog: &mut Option<impl Watchdog>, pause: Duration) {
    let mut waited = Duration::ZERO;
    while waited < pause {
        // Firmware without one has nothing to put off.
        let _ = boot::set_watchdog_timer(FIRMWARE_WINDOW_S, 0x1_0000, None);
        if let Some(watchdog) = watchdog {
            watchdog.stroke();
        }
        boot::stall(STROKE_PERIOD);
        waited += STROKE_PERIOD;
    }
}
