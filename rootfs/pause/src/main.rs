//! The process of a pod's sandbox: it holds the pod's namespaces, and as PID 1 of a shared process namespace it waits
//! for the orphans that end there. It ends with status 0 on SIGTERM or SIGINT.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

fn main() -> ExitCode {
    // Blocked, not handled: a blocked signal is kept until sigwait takes it, even where its default is to be ignored
    // (SIGCHLD) and even for PID 1 of a namespace (SIGTERM), so none is lost between two waits.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD].into_iter().collect();
    if signals.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        match signals.wait() {
            Ok(Signal::SIGTERM | Signal::SIGINT) => return ExitCode::SUCCESS,
            Ok(_) => reap(),
            Err(Errno::EINTR) => {}
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// Waits for every child that has ended: many may share one SIGCHLD.
fn reap() {
    while !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(_)) {}
}
