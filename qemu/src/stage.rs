//! Where a boot is, from what the console says.

use std::time::Duration;

use crate::console::Line;

/// The kernel's first line in its log; its clock is about zero there.
pub const KERNEL: &str = "Linux version ";
/// The kernel's last line before PID 1's first instruction.
pub const PID1: &str = "Run /sbin/init as init process";

/// Times of a boot's first stages on the host's clock, from the machine's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stages {
    /// The kernel's clock began to count: the firmware (and the loader) are done.
    pub kernel: Duration,
    /// PID 1 was started.
    pub pid1: Duration,
}

impl Stages {
    /// The stages of the first boot in `lines`, once PID 1 has been started.
    ///
    /// The kernel's log begins before its console does, so its start is taken from its own stamp of the line about
    /// PID 1, which comes on the console when it is written.
    pub fn of(lines: &[Line]) -> Option<Self> {
        let pid1 = lines.iter().find(|line| line.text.contains(PID1))?;
        let since_kernel = kernel_stamp(&pid1.text)?;
        Some(Self { kernel: pid1.at.saturating_sub(since_kernel), pid1: pid1.at })
    }
}

/// The kernel's own stamp of a line: `[    1.234567] …` (CONFIG_PRINTK_TIME), seconds since its start.
pub fn kernel_stamp(text: &str) -> Option<Duration> {
    let stamp = text.trim_start().strip_prefix('[')?.split_once(']')?.0;
    let (seconds, micros) = stamp.trim().split_once('.')?;
    (micros.len() == 6).then_some(())?;
    Some(Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_stamps_are_read_and_nothing_else_is() {
        assert_eq!(kernel_stamp("[    1.030200] Run /sbin/init"), Some(Duration::from_micros(1_030_200)));
        assert_eq!(kernel_stamp("[12345.000001] x"), Some(Duration::from_micros(12_345_000_001)));
        for text in ["", "[", "[1.0]", "[a.000000] x", "[ 1.00000b] x", "1.000000] x", "[    1.030200"] {
            assert_eq!(kernel_stamp(text), None, "{text}");
        }
    }

    #[test]
    fn the_kernels_start_is_counted_back_from_the_line_about_pid_1() {
        let line = |ms, text: &str| Line { at: Duration::from_millis(ms), text: text.into() };
        let lines = [
            line(2000, "BdsDxe: starting Boot0001"),
            line(5100, "[    0.000000] Linux version 6.12.95"),
            line(6000, "[    1.500000] Run /sbin/init as init process"),
            line(9000, "[    1.400000] Run /sbin/init as init process"),
        ];
        let stages = Stages::of(&lines).unwrap();
        assert_eq!((stages.kernel.as_millis(), stages.pid1.as_millis()), (4500, 6000));
        assert_eq!(Stages::of(&lines[..2]), None);
    }
}
