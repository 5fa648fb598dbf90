//! The serial console: lines with the host's time since the machine's start.
//!
//! A line is stamped when its first byte comes, because that is when the guest began to say it. Lines are kept in
//! memory for [`Console::wait_for`] and written to a file for people.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Longer lines are cut into pieces: a guest that never ends its line must not fill the host's memory.
const MAX_LINE_BYTES: usize = 4096;
/// Lines kept in memory: a boot prints about a thousand; the file has all.
const MAX_LINES: usize = 50_000;
/// Lines that an error shows.
const TAIL_LINES: usize = 30;

/// One line that the guest printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Host time from the machine's start to the line's first byte.
    pub at: Duration,
    /// The line without its end, its terminal escapes and other control characters.
    pub text: String,
}

/// Cuts a stream of bytes into stamped lines.
#[derive(Debug, Default)]
struct Stamper {
    at: Duration,
    bytes: Vec<u8>,
}

impl Stamper {
    /// Takes `bytes` that came at `now`; gives each line that they end.
    fn feed(&mut self, now: Duration, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' || self.bytes.len() == MAX_LINE_BYTES {
                lines.extend(self.end());
            }
            if byte == b'\n' {
                continue;
            }
            if self.bytes.is_empty() {
                self.at = now;
            }
            self.bytes.push(byte);
        }
        lines
    }

    /// Ends the line that is under way, unless there is nothing to read in it.
    fn end(&mut self) -> Option<Line> {
        let text = printable(&String::from_utf8_lossy(&std::mem::take(&mut self.bytes)));
        (!text.is_empty()).then_some(Line { at: self.at, text })
    }
}

/// `text` without terminal escapes (ECMA-48 control sequences) and control characters.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                if chars.next_if_eq(&'[').is_some() {
                    // Parameters and intermediates, up to the final byte (ECMA-48, 5.4).
                    while chars.next().is_some_and(|c| !('\x40'..='\x7e').contains(&c)) {}
                } else {
                    chars.next();
                }
            }
            '\t' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out.trim_end().to_owned()
}

#[derive(Debug, Default)]
struct Shared {
    lines: VecDeque<Line>,
    /// Lines that were in `lines` and are no more.
    dropped: usize,
    closed: bool,
}

/// A running machine's console.
#[derive(Debug)]
pub struct Console {
    name: String,
    shared: Arc<(Mutex<Shared>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

impl Console {
    /// Reads `from` until it ends, in a thread of its own; times count from `start`. Lines also go to `log`.
    pub fn follow(name: &str, start: Instant, mut from: impl Read + Send + 'static, log: &Path) -> Result<Self> {
        let mut log = BufWriter::new(File::create(log).with_context(|| format!("create {}", log.display()))?);
        let shared = Arc::new((Mutex::new(Shared::default()), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let reader = std::thread::spawn(move || {
            let mut stamper = Stamper::default();
            let mut buffer = [0; 4096];
            loop {
                let n = match from.read(&mut buffer) {
                    Ok(n) => n,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(_) => 0,
                };
                let mut lines = stamper.feed(start.elapsed(), &buffer[..n]);
                if n == 0 {
                    lines.extend(stamper.end());
                }
                for line in &lines {
                    // The log is for people; a full host disk must not end the test.
                    let _ = writeln!(log, "{:10.3} {}", line.at.as_secs_f64(), line.text);
                }
                let _ = log.flush();
                let mut shared = lock(&theirs.0);
                shared.lines.extend(lines);
                while shared.lines.len() > MAX_LINES {
                    shared.lines.pop_front();
                    shared.dropped += 1;
                }
                shared.closed = n == 0;
                theirs.1.notify_all();
                if n == 0 {
                    return;
                }
            }
        });
        Ok(Self { name: name.to_owned(), shared, reader: Some(reader) })
    }

    /// How many lines there have been: where a later [`Self::wait_for`] can begin.
    pub fn mark(&self) -> usize {
        let shared = lock(&self.shared.0);
        shared.dropped + shared.lines.len()
    }

    /// All lines from `mark` on that are still in memory.
    pub fn lines_since(&self, mark: usize) -> Vec<Line> {
        let shared = lock(&self.shared.0);
        shared.lines.iter().skip(mark.saturating_sub(shared.dropped)).cloned().collect()
    }

    /// Waits until a line after `mark` contains `pattern`, at most for `timeout`.
    ///
    /// The error says what was waited for and shows the console's tail.
    pub fn wait_for(&self, mark: usize, pattern: &str, timeout: Duration) -> Result<Line> {
        let until = Instant::now() + timeout;
        let mut next = mark;
        let mut shared = lock(&self.shared.0);
        loop {
            let from = next.saturating_sub(shared.dropped);
            if let Some(line) = shared.lines.iter().skip(from).find(|line| line.text.contains(pattern)) {
                return Ok(line.clone());
            }
            next = shared.dropped + shared.lines.len();
            let left = until.saturating_duration_since(Instant::now());
            if shared.closed || left.is_zero() {
                let why = if shared.closed { "the machine ended".into() } else { format!("not within {timeout:?}") };
                let tail = tail(&shared);
                bail!("{}: waited for a line with `{pattern}`: {why}; the console's end:\n{tail}", self.name);
            }
            shared = self.shared.1.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The last lines, for an error.
    pub fn tail(&self) -> String {
        tail(&lock(&self.shared.0))
    }

    /// Waits for the reader to see the console's end; only after the machine has ended.
    pub(crate) fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            // The reader has no panic path that would matter: its lines are already shared.
            let _ = reader.join();
        }
    }
}

/// The lock, also after a panic of another thread: lines are whole at any time.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tail(shared: &Shared) -> String {
    let skip = shared.lines.len().saturating_sub(TAIL_LINES);
    let lines = shared.lines.iter().skip(skip);
    lines.map(|line| format!("  {:10.3} {}\n", line.at.as_secs_f64(), line.text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn line(ms: u64, text: &str) -> Line {
        Line { at: at(ms), text: text.into() }
    }

    #[test]
    fn a_line_is_stamped_with_the_time_of_its_first_byte() {
        let mut stamper = Stamper::default();
        assert_eq!(stamper.feed(at(1), b"Linux ver"), []);
        assert_eq!(stamper.feed(at(9), b"sion 6.12\r\nRun"), [line(1, "Linux version 6.12")]);
        assert_eq!(stamper.feed(at(12), b" /sbin/init\n"), [line(9, "Run /sbin/init")]);
    }

    #[test]
    fn terminal_escapes_are_not_part_of_a_line() {
        let mut stamper = Stamper::default();
        let lines = stamper.feed(at(3), b"\x1b[2J\x1b[01;01H\x1b[0mUEFI \x07Shell\x1b[m\x1b=!\n");
        assert_eq!(lines, [line(3, "UEFI Shell!")]);
    }

    #[test]
    fn empty_lines_are_left_out() {
        assert_eq!(Stamper::default().feed(at(0), b"\r\n\n\x1b[0m\n"), []);
    }

    #[test]
    fn a_line_without_end_is_cut_and_the_rest_of_a_closed_console_is_kept() {
        let mut stamper = Stamper::default();
        let lines = stamper.feed(at(5), &[b'a'; MAX_LINE_BYTES + 1]);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].text.len(), MAX_LINE_BYTES);
        assert_eq!(stamper.end(), Some(line(5, "a")));
        assert_eq!(stamper.end(), None);
    }

    fn console(bytes: &'static [u8]) -> (Console, std::path::PathBuf) {
        let id = format!("{}-{:?}", std::process::id(), std::thread::current().id());
        let log = std::env::temp_dir().join(format!("perigee-console-{id}.log"));
        (Console::follow("node-1", Instant::now(), bytes, &log).unwrap(), log)
    }

    #[test]
    fn waiting_finds_a_line_after_the_mark_only() {
        let (mut console, log) = console(b"one\ntwo\nthree\n");
        console.finish();
        assert_eq!(console.wait_for(0, "tw", Duration::ZERO).unwrap().text, "two");
        assert!(console.wait_for(2, "tw", Duration::ZERO).is_err());
        assert_eq!(console.mark(), 3);
        assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 3);
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_wait_in_vain_says_what_was_expected_and_shows_the_tail() {
        let (console, log) = console(b"Kernel panic - not syncing\n");
        let error = console.wait_for(0, "Run /sbin/init", Duration::from_secs(60)).unwrap_err().to_string();
        assert!(error.contains("node-1: waited for a line with `Run /sbin/init`: the machine ended"), "{error}");
        assert!(error.contains("Kernel panic"), "{error}");
        std::fs::remove_file(log).unwrap();
    }
}
