//! Where a boot is, from what the console says.

use std::time::Duration;

use crate::console::Line;

/// The loader's first line, and its last one.
const LOADER: [&str; 2] = ["boot=started", "boot=kernel"];
/// The kernel's first line.
const KERNEL: &str = "Linux version ";
/// PID 1's first line.
pub const PID1: &str = "init=started";

/// Times of a boot's first stages on the host's clock, from the machine's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stages {
    /// The loader's first line and its last one, where there is a loader: the firmware is done, the kernel is handed on.
    pub loader: Option<[Duration; 2]>,
    /// The kernel's first line: the firmware (and the loader) are done.
    pub kernel: Duration,
    /// PID 1's first line.
    pub pid1: Duration,
    /// The same by PID 1's own word: since the kernel's start.
    pub pid1_stamp: Duration,
}

impl Stages {
    /// The stages of the first boot in `lines`, once PID 1 has spoken.
    ///
    /// Where the kernel's console comes later than its log, its first line is late: then its start is counted back
    /// from PID 1's line, which has the time since the kernel's start in it.
    pub fn of(lines: &[Line]) -> Option<Self> {
        let pid1 = lines.iter().find(|line| line.text.contains(PID1))?;
        let kernel = lines.iter().find(|line| line.text.contains(KERNEL))?;
        let pid1_stamp = stamp(&pid1.text)?;
        let counted_back = pid1.at.saturating_sub(pid1_stamp);
        let [from, to] = LOADER.map(|text| lines.iter().find(|line| line.text.contains(text)).map(|line| line.at));
        let (loader, kernel) = (from.zip(to).map(<[_; 2]>::from), kernel.at.min(counted_back));
        Some(Self { loader, kernel, pid1: pid1.at, pid1_stamp })
    }
}

/// A line's own stamp, seconds since the kernel's start: `[    1.234567] …` from the kernel (CONFIG_PRINTK_TIME),
/// `[    1.234] …` from PID 1.
fn stamp(text: &str) -> Option<Duration> {
    let stamp = text.strip_prefix('[')?.split_once(']')?.0;
    Duration::try_from_secs_f64(stamp.trim().parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ms: u64, text: &str) -> Line {
        Line { at: Duration::from_millis(ms), text: text.into() }
    }

    #[test]
    fn stamps_are_read_and_nothing_else_is() {
        assert_eq!(stamp("[    1.030200] Freeing unused kernel memory"), Some(Duration::from_micros(1_030_200)));
        assert_eq!(stamp("[    6.038] init=started"), Some(Duration::from_millis(6038)));
        for text in ["", "[", "[a.000000] x", "[ -1.0] x", "[inf] x", "1.000000] x", "[    1.030200"] {
            assert_eq!(stamp(text), None, "{text}");
        }
    }

    #[test]
    fn the_kernel_starts_with_its_first_line() {
        let lines = [
            line(2000, "BdsDxe: starting Boot0001"),
            line(3000, "boot=started version=0.1.0"),
            line(3700, "boot=kernel slot=slot-a"),
            line(4100, "[    0.000000] Linux version 6.12.95"),
            line(6000, "[    1.500] init=started version=0.1.0"),
            line(9000, "[    1.400] init=started version=0.1.0"),
        ];
        let stages = Stages::of(&lines).unwrap();
        assert_eq!((stages.kernel.as_millis(), stages.pid1.as_millis()), (4100, 6000));
        assert_eq!(stages.pid1_stamp.as_millis(), 1500);
        assert_eq!(stages.loader, Some([3000, 3700].map(Duration::from_millis)));
        assert_eq!(Stages::of(&lines[..4]), None);
    }

    #[test]
    fn a_late_console_does_not_move_the_kernels_start() {
        let lines = [line(5900, "[    0.000000] Linux version 6.12.95"), line(6000, "[    1.500] init=started")];
        let stages = Stages::of(&lines).unwrap();
        assert_eq!((stages.loader, stages.kernel.as_millis()), (None, 4500));
    }
}
