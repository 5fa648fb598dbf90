//! The program's promises, asked of the program itself.
#![allow(clippy::unwrap_used)]

use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends `signal` to a fresh `pause` and returns how it ended within `wait`, if it did.
fn ended_by(signal: Signal, wait: Duration) -> Option<ExitStatus> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pause")).spawn().unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    // It is ready when it sits in sigwait.
    let waits = format!("{} ", nix::libc::SYS_rt_sigtimedwait);
    while !std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap().starts_with(&waits) {
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(pid, signal).unwrap();
    let start = Instant::now();
    while start.elapsed() < wait {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

#[test]
fn ends_with_status_0_on_sigterm_and_on_sigint() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        assert_eq!(ended_by(signal, Duration::from_secs(20)).and_then(|status| status.code()), Some(0), "{signal}");
    }
}

#[test]
fn goes_on_after_sigchld() {
    assert_eq!(ended_by(Signal::SIGCHLD, Duration::from_millis(300)), None);
}
