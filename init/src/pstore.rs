//! What the kernel of the last start had time to leave behind (Documentation/ABI/testing/pstore).

use std::fs;
use std::path::Path;

use perigee_core::reset::Cause;

use crate::boot_state::BootState;
use crate::logs::Logs;

const FOLDER: &str = "/sys/fs/pstore";
/// A kernel's last log is a few of these; what is longer is not read.
const MOST_BYTES: usize = 64 * 1024;

/// Explains the last end by a panic that was left, and makes room for the next one.
pub fn explain(boot_state: &mut BootState, logs: &mut Logs) {
    let mut records: Vec<_> = fs::read_dir(FOLDER)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_log(path))
        .collect();
    // By name, which has the time: the last one is of the last start.
    records.sort();
    let panic = records.iter().rev().filter_map(|path| fs::read(path).ok()).find_map(|bytes| {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MOST_BYTES)]);
        panic_line(&text).map(str::to_owned)
    });
    for record in &records {
        // A record that stays is seen again, and then explains nothing: the last end is another one.
        let _ = fs::remove_file(record);
    }
    if let Some(words) = panic {
        logs.event(format_args!("last_end=panic words=\"{words}\""));
        boot_state.change(logs, |state| state.ledger.amend(Cause::Panic, &words));
    }
}

fn is_log(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("dmesg-"))
}

/// The line of a kernel's log that says why it ended, without its time.
fn panic_line(log: &str) -> Option<&str> {
    let line = log.lines().find(|line| line.contains("Kernel panic"))?;
    line.find("Kernel panic").map(|at| line[at..].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_panic_is_found() {
        let log = "Panic#1 Part1\n<6>[    1.5] a\n<0>[    2.0] Kernel panic - not syncing: No working init found. \n<4>[ 2.1] CPU: 0\n";
        assert_eq!(panic_line(log), Some("Kernel panic - not syncing: No working init found."));
        assert_eq!(panic_line("<6>[    1.5] all is well\n"), None);
        assert_eq!(panic_line(""), None);
    }

    #[test]
    fn only_logs_are_read() {
        assert!(is_log(Path::new("/sys/fs/pstore/dmesg-efi_pstore-167")));
        assert!(!is_log(Path::new("/sys/fs/pstore/console-ramoops-0")));
    }
}
