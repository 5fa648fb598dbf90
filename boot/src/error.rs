//! Why a slot was not started, or the loader could not do its work.

use perigee_core::{gpt, slot::header};
use thiserror::Error;
use uefi::Status;

/// What failed.
#[derive(Clone, Copy, Debug, Error)]
pub enum Error {
    /// Firmware refused.
    #[error("{doing}: firmware says {status:?}")]
    Firmware {
        /// What was being done.
        doing: &'static str,
        /// Its answer.
        status: Status,
    },
    /// The disk's partition table cannot be read.
    #[error(transparent)]
    Table(#[from] gpt::Error),
    /// The table has no such partition.
    #[error("the disk has no partition {0}")]
    NoPartition(&'static str),
    /// The disk counts in other sectors.
    #[error("the disk has sectors of {0} bytes, expected 512")]
    Sector(u32),
    /// Something reaches behind its partition's end.
    #[error("{0} reaches behind its partition's end")]
    Behind(&'static str),
    /// The slot is not for this machine or this partition.
    #[error(transparent)]
    Header(#[from] header::Error),
    /// Bits flipped in it, and the loader cannot correct them.
    #[error("the kernel's SHA-256 differs")]
    Kernel,
    /// The kernel came back.
    #[error("the kernel ended before it ran: firmware says {0:?}")]
    Returned(Status),
    /// It cannot be told to the kernel.
    #[error("the command line cannot be written in UCS-2")]
    CommandLine,
}

impl Error {
    /// Turns firmware's answer into an error that says what was being done.
    pub fn firmware<T: core::fmt::Debug>(doing: &'static str) -> impl FnOnce(uefi::Error<T>) -> Self {
        move |error| Self::Firmware { doing, status: error.status() }
    }
}
