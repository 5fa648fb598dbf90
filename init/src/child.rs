//! Children of PID 1 that are no services: work that could block is theirs while PID 1 goes on.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd;
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::sys;

/// What a child's end is called when its program could not be executed: the shells' convention.
pub const NOT_EXECUTED: i32 = 127;

/// Begins `work` in a child named `name`.
///
/// # Errors
/// No process or memory for it.
pub fn start(name: &'static CStr, work: impl FnOnce() -> i32) -> io::Result<Pid> {
    start_after(None, name, work)
}

/// The same, but the work begins when `other`, a child that has not been waited for, has ended.
///
/// # Errors
/// No process, descriptor or memory for it.
pub fn start_after(other: Option<Pid>, name: &'static CStr, work: impl FnOnce() -> i32) -> io::Result<Pid> {
    // Not reaped yet, so that the number is still its own.
    let other = other.map(|other| pidfd_open(other, PidfdFlags::empty())).transpose()?;
    sys::process::helper(name, other.as_ref().map(AsFd::as_fd), || {
        if let Some(other) = &other {
            // A process's end makes its descriptor readable (pidfd_open(2)). No signal interrupts a helper.
            let _ = poll(&mut [PollFd::new(other, PollFlags::IN)], None);
        }
        work()
    })
}

/// Begins a program. Returns with it the end of its output, non-blocking.
///
/// # Errors
/// No process, pipe or memory for it.
pub fn run(command: &[&str]) -> io::Result<(Pid, OwnedFd)> {
    let strings = command.iter().map(|part| CString::new(*part)).collect::<Result<Vec<_>, _>>()?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK)?;
    let pid = sys::process::fork(None, || {
        sys::signals::reset();
        let _ = rustix::stdio::dup2_stdout(&writer);
        let _ = rustix::stdio::dup2_stderr(&writer);
        if let Some(program) = strings.first() {
            sys::process::exec(program, &strings, &[]);
        }
        NOT_EXECUTED
    })?;
    Ok((pid, reader))
}

#[cfg(test)]
mod tests {
    use rustix::process::{WaitOptions, waitpid};

    use super::*;

    /// The status of a child that has ended, or ends now.
    fn end(pid: Pid) -> Option<i32> {
        waitpid(Some(pid), WaitOptions::empty()).unwrap().and_then(|(_, status)| status.exit_status())
    }

    /// Runs a program to its end; its status, and what it said.
    fn said(command: &[&str]) -> (Option<i32>, String) {
        let (pid, output) = run(command).unwrap();
        let status = end(pid);
        let mut bytes = [0; 4096];
        let length = rustix::io::read(&output, &mut bytes).unwrap();
        (status, String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    #[test]
    fn a_program_reports_its_status_and_what_it_says() {
        let (status, said) = said(&["/bin/sh", "-c", "echo first; echo last >&2; exit 3"]);
        assert_eq!((status, said.as_str()), (Some(3), "first\nlast\n"));
    }

    #[test]
    fn a_program_that_is_not_there_is_told_from_one_that_failed() {
        assert_eq!(said(&["/nonexistent"]), (Some(NOT_EXECUTED), String::new()));
    }

    #[test]
    fn work_waits_for_another_childs_end() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let first = sys::process::helper(c"test", Some(reader.as_fd()), || {
            let _ = rustix::io::read(&reader, &mut [0]);
            0
        });
        let first = first.unwrap();
        let second = start_after(Some(first), c"test", || 7).unwrap();
        assert!(waitpid(Some(second), WaitOptions::NOHANG).unwrap().is_none());
        drop(writer);
        assert_eq!((end(second), end(first)), (Some(7), Some(0)));
    }
}
