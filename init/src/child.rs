//! Children that PID 1 waits for before its loop runs, each for a bounded time, and work that could block handed to
//! a child while it runs.

use std::ffi::{CStr, CString};
use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

use crate::logs::ring::Ring;
use crate::sys;

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

/// Runs `work` in a child named `name` (at most 15 bytes) and waits at most `patience` for it.
///
/// # Errors
/// No process or memory for it.
pub fn work(name: &'static CStr, patience: Duration, work: impl FnOnce() -> i32) -> io::Result<Outcome> {
    Ok(wait(start(name, work)?, patience))
}

/// Begins `work` in a child named `name`; [`wait`] ends it.
///
/// # Errors
/// No process or memory for it.
pub fn start(name: &'static CStr, work: impl FnOnce() -> i32) -> io::Result<Pid> {
    sys::process::helper(name, None, work)
}

/// Runs a program to its end, at most `patience` long, and returns with its outcome its last words.
///
/// # Errors
/// No process, pipe or memory for it.
pub fn run(command: &[&str], patience: Duration) -> io::Result<(Outcome, String)> {
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
    let deadline = sys::now() + patience;
    let mut tail = Ring::new(TAIL);
    let mut bytes = [0; TAIL];
    while readable(&reader, deadline)
        && let Ok(length) = rustix::io::read(&reader, &mut bytes)
        && length > 0
    {
        tail.push(&bytes[..length]);
    }
    let outcome = wait(pid, deadline.saturating_sub(sys::now()));
    if let Outcome::Running(pid) = outcome {
        let _ = kill_process(pid, Signal::KILL);
    }
    Ok((outcome, tail.last_line(160)))
}

/// Waits at most `patience` for one child; leaves all others to the loop.
pub fn wait(pid: Pid, patience: Duration) -> Outcome {
    let deadline = sys::now() + patience;
    // A child that is not there any more cannot be waited for either: waitpid says which.
    if let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) {
        readable(&descriptor, deadline);
    }
    match waitpid(Some(pid), WaitOptions::NOHANG) {
        Ok(Some((_, status))) => status.exit_status().map_or(Outcome::Killed, Outcome::Ended),
        Ok(None) => Outcome::Running(pid),
        Err(_) => Outcome::Killed,
    }
}

/// Waits until there is something to read, or the deadline has come.
fn readable(descriptor: impl rustix::fd::AsFd, deadline: Duration) -> bool {
    let left = deadline.saturating_sub(sys::now());
    let timeout =
        Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
    matches!(poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)), Ok(1..))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

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
        let (outcome, _) = run(&["/bin/sh", "-c", "echo begun; exec sleep 60"], Duration::from_millis(200)).unwrap();
        assert!(matches!(outcome, Outcome::Running(_)));
        assert!(sys::now() - before < LONG);
    }

    #[test]
    fn work_is_waited_for() {
        assert_eq!(work(c"test", LONG, || 7).unwrap(), Outcome::Ended(7));
    }
}
