//! Children that PID 1 waits for before its loop runs, each for a bounded time, and work that could block handed to
//! a child while it runs.
//!
//! Whoever waits longer than the watchdog's window strokes it meanwhile: a check of a large card takes minutes, and would
//! never come to its end if each start of it ended in a reset. The bound of the wait is what ends a hang.

use std::ffi::{CStr, CString};
use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

use crate::logs::ring::Ring;
use crate::sys;
use crate::watchdog::{Device, STROKE_PERIOD};

/// What a child's end is called when its program could not be executed: the shells' convention.
pub const NOT_EXECUTED: i32 = 127;
/// How much of a program's output is kept to report its last line from.
const TAIL: usize = 4096;

/// How a child that was waited for did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended with this status.
    Ended(i32),
    /// A signal ended it.
    Killed,
    /// It still runs.
    Running(Pid),
}

/// How long a child is waited for, and what is stroked meanwhile.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    /// At most so long.
    pub most: Duration,
    /// None where there is none, and where `most` is well below its window.
    pub watchdog: Option<&'a Device>,
}

impl Patience<'_> {
    /// A wait that is over long before the watchdog bites.
    pub const fn short(most: Duration) -> Self {
        Self { most, watchdog: None }
    }
}

/// Runs `work` in a child named `name` (at most 15 bytes) and waits for it.
///
/// # Errors
/// No process or memory for it.
pub fn work(name: &'static CStr, patience: Patience<'_>, work: impl FnOnce() -> i32) -> io::Result<Outcome> {
    Ok(wait(start(name, work)?, patience))
}

/// Begins `work` in a child named `name`; [`wait`] ends it.
///
/// # Errors
/// No process or memory for it.
pub fn start(name: &'static CStr, work: impl FnOnce() -> i32) -> io::Result<Pid> {
    start_after(None, name, work)
}

/// The same, but the work begins when `other`, which [`wait`] found running, has ended.
///
/// # Errors
/// No process, descriptor or memory for it.
pub fn start_after(other: Option<Pid>, name: &'static CStr, work: impl FnOnce() -> i32) -> io::Result<Pid> {
    // Not reaped yet, so that the number is still its own.
    let other = other.map(|other| pidfd_open(other, PidfdFlags::empty())).transpose()?;
    sys::process::helper(name, other.as_ref().map(AsFd::as_fd), || {
        if let Some(other) = &other {
            readable(other, Duration::MAX, None);
        }
        work()
    })
}

/// Runs a program to its end, as long as `patience` allows, and returns with its outcome its last words.
///
/// # Errors
/// No process, pipe or memory for it.
pub fn run(command: &[&str], patience: Patience<'_>) -> io::Result<(Outcome, String)> {
    let strings = command.iter().map(|part| CString::new(*part)).collect::<Result<Vec<_>, _>>()?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let pid = sys::process::fork(None, || {
        sys::signals::reset();
        let _ = rustix::stdio::dup2_stdout(&writer);
        let _ = rustix::stdio::dup2_stderr(&writer);
        if let Some(program) = strings.first() {
            sys::process::exec(program, &strings, &[]);
        }
        NOT_EXECUTED
    })?;
    drop(writer);
    let deadline = sys::now() + patience.most;
    let mut tail = Ring::new(TAIL);
    let mut bytes = [0; TAIL];
    while readable(&reader, deadline, patience.watchdog)
        && let Ok(length) = rustix::io::read(&reader, &mut bytes)
        && length > 0
    {
        tail.push(&bytes[..length]);
    }
    let outcome = wait(pid, Patience { most: deadline.saturating_sub(sys::now()), ..patience });
    if let Outcome::Running(pid) = outcome {
        let _ = kill_process(pid, Signal::KILL);
    }
    Ok((outcome, tail.last_line(160)))
}

/// Waits for one child; leaves all others to the loop.
pub fn wait(pid: Pid, patience: Patience<'_>) -> Outcome {
    let deadline = sys::now() + patience.most;
    // A child that is not there any more cannot be waited for either: waitpid says which.
    if let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) {
        readable(&descriptor, deadline, patience.watchdog);
    }
    match waitpid(Some(pid), WaitOptions::NOHANG) {
        Ok(Some((_, status))) => status.exit_status().map_or(Outcome::Killed, Outcome::Ended),
        Ok(None) => Outcome::Running(pid),
        Err(_) => Outcome::Killed,
    }
}

/// Waits until there is something to read, or the deadline has come; strokes the watchdog.
fn readable(descriptor: impl AsFd, deadline: Duration, watchdog: Option<&Device>) -> bool {
    loop {
        let mut left = deadline.saturating_sub(sys::now());
        if let Some(watchdog) = watchdog {
            watchdog.stroke();
            left = left.min(STROKE_PERIOD);
        }
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)) {
            Ok(0) if sys::now() < deadline => {}
            outcome => return matches!(outcome, Ok(1..)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Patience<'static> = Patience::short(Duration::from_millis(200));
    const LONG: Patience<'static> = Patience::short(Duration::from_secs(20));

    #[test]
    fn a_program_reports_its_status_and_its_last_words() {
        let (outcome, words) = run(&["/bin/sh", "-c", "echo first; echo last >&2; exit 3"], LONG).unwrap();
        assert_eq!(outcome, Outcome::Ended(3));
        assert_eq!(words, "last");
    }

    #[test]
    fn a_program_that_is_not_there_is_told_from_one_that_failed() {
        assert_eq!(run(&["/nonexistent"], LONG).unwrap().0, Outcome::Ended(NOT_EXECUTED));
    }

    #[test]
    fn a_program_that_hangs_is_not_waited_for() {
        let before = sys::now();
        let (outcome, _) = run(&["/bin/sh", "-c", "echo begun; exec sleep 60"], SHORT).unwrap();
        assert!(matches!(outcome, Outcome::Running(_)));
        assert!(sys::now() - before < LONG.most);
    }

    #[test]
    fn the_watchdog_is_stroked_while_a_child_is_waited_for() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let device = Device::from(writer);
        let patience = Patience { watchdog: Some(&device), ..LONG };
        assert_eq!(work(c"test", patience, || 7).unwrap(), Outcome::Ended(7));
        assert!(rustix::io::read(&reader, &mut [0; 16]).unwrap() >= 1);
    }

    #[test]
    fn work_is_waited_for() {
        assert_eq!(work(c"test", LONG, || 7).unwrap(), Outcome::Ended(7));
    }

    #[test]
    fn work_waits_for_another_childs_end() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let first = child_that_ends_with(reader);
        let second = start_after(Some(first), c"test", || 7).unwrap();
        assert_eq!(wait(second, SHORT), Outcome::Running(second));
        drop(writer);
        assert_eq!(wait(second, LONG), Outcome::Ended(7));
        assert_eq!(wait(first, LONG), Outcome::Ended(0));
    }

    /// A child that ends when nobody can write to the pipe any more.
    fn child_that_ends_with(pipe: rustix::fd::OwnedFd) -> Pid {
        sys::process::helper(c"test", Some(pipe.as_fd()), || {
            let _ = rustix::io::read(&pipe, &mut [0]);
            0
        })
        .unwrap()
    }
}
