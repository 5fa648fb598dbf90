//! Builds what is burned: kernel, root filesystem, disk. Host only.
#![forbid(unsafe_code)]

pub mod build;
