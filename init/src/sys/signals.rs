//! Signals as a descriptor: none ever interrupts PID 1.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

/// What PID 1 listens to. SIGINT is the kernel's word for Ctrl-Alt-Del, SIGPWR some power supplies' for "soon out".
const HEARD: [i32; 4] = [libc::SIGCHLD, libc::SIGINT, libc::SIGTERM, libc::SIGPWR];

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A child ended.
    Child,
    /// SIGINT or SIGTERM.
    Reboot,
    /// SIGPWR.
    PowerOff,
}

/// Blocks every signal and returns a non-blocking descriptor from which those in [`HEARD`] are read.
///
/// # Errors
/// The kernel's: out of descriptors or memory.
pub fn listen() -> io::Result<OwnedFd> {
    let mut heard = MaybeUninit::<libc::sigset_t>::uninit();
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset and sigfillset initialise the set that they are given; the others read initialised sets;
    // the descriptor is new and owned by nobody else.
    unsafe {
        libc::sigemptyset(heard.as_mut_ptr());
        for signal in HEARD {
            libc::sigaddset(heard.as_mut_ptr(), signal);
        }
        libc::sigfillset(all.as_mut_ptr());
        if libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, heard.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        }
    }
}

/// The next signal, if there is one.
pub fn next(signals: &OwnedFd) -> Option<Heard> {
    let mut info = [0; size_of::<libc::signalfd_siginfo>()];
    // ssi_signo is the record's first field (signalfd(2)).
    while let Ok(length) = rustix::io::read(signals, &mut info)
        && length == info.len()
    {
        match i32::from_ne_bytes([info[0], info[1], info[2], info[3]]) {
            libc::SIGCHLD => return Some(Heard::Child),
            libc::SIGINT | libc::SIGTERM => return Some(Heard::Reboot),
            libc::SIGPWR => return Some(Heard::PowerOff),
            _ => {}
        }
    }
    None
}

/// Gives a child the dispositions and the mask that programs expect: Rust's runtime ignores SIGPIPE, and PID 1 blocks
/// everything.
pub fn reset() {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: SIG_DFL is a valid disposition; sigemptyset initialises the set that sigprocmask reads.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}
