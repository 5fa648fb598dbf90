//! The loader: an application of the firmware that starts a slot's kernel.
//!
//! Firmware finds it on either ESP. It arms the watchdog, reads the boot state and lets [`perigee_core::slot`] choose;
//! takes the try off, checks signature and kernel of the slot, and gives the kernel its command line. What it cannot
//! start it leaves for the next slot; each word of why goes to the console and to the ledger.
#![cfg_attr(target_os = "uefi", no_main, no_std)]
#![deny(unsafe_code)]

#[cfg(target_os = "uefi")]
extern crate alloc;

/// A line of the console, in the form of all Perigee's: `boot=<event> key=value …`.
#[cfg(target_os = "uefi")]
macro_rules! say {
    ($($line:tt)*) => { uefi::println!("boot={}", format_args!($($line)*)) };
}

#[cfg(target_os = "uefi")]
mod app;
#[cfg(target_os = "uefi")]
mod disk;
#[cfg(target_os = "uefi")]
mod error;
#[cfg(target_os = "uefi")]
mod i6300esb;
#[cfg(target_os = "uefi")]
mod image;
#[cfg(target_os = "uefi")]
mod state;
#[cfg(target_os = "uefi")]
#[allow(unsafe_code, reason = "firmware's interfaces: the one room for it")]
mod sys;
#[cfg(target_os = "uefi")]
mod watchdog;

#[cfg(target_os = "uefi")]
#[uefi::entry]
fn main() -> uefi::Status {
    app::run()
}

/// So that `cargo build` on a host is no error.
#[cfg(not(target_os = "uefi"))]
fn main() -> std::process::ExitCode {
    eprintln!("boot is an application for UEFI firmware: `make build` builds it into a disk");
    std::process::ExitCode::from(2)
}
