//! Updates: what a bundle is, what a node takes, and what a slot is made of from it.
//!
//! A bundle is a signed [`manifest`] and a payload. The payload is a patch ([`patch`]): it makes a new image from one that
//! a slot of the node has, or from nothing. An image is what cannot be computed: the slot's header and its data blocks.
//! Verity's tree and the parity the node makes itself ([`crate::slot::writing`]), and the header's signature is over
//! the hashes of both.
//!
//! A payload travels in pieces ([`pieces`]), in any order, over any number of passes; or as RaptorQ symbols in datagrams
//! ([`datagram`]), one transmission for as many nodes as hear it.

use core::fmt;

use serde::{Deserialize, Serialize};

pub mod course;
pub mod datagram;
pub mod manifest;
pub mod patch;
pub mod pieces;

/// A release of Perigee, by its version's three numbers: which image is older than which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Release(pub u64);

impl Release {
    /// The release of a version like `1.2.3` or `1.2.3+8f3a`; `None` for anything else.
    pub fn parse(version: &str) -> Option<Self> {
        let numbers = version.split(['+', '-']).next()?;
        let mut numbers = numbers.split('.');
        let major: u16 = numbers.next()?.parse().ok()?;
        let minor: u16 = numbers.next()?.parse().ok()?;
        let patch: u32 = numbers.next()?.parse().ok()?;
        match numbers.next() {
            Some(_) => None,
            None => Some(Self(u64::from(major) << 48 | u64::from(minor) << 32 | u64::from(patch))),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0 >> 48, self.0 >> 32 & 0xffff, self.0 & 0xffff_ffff)
    }
}
