//! Builds what is burned: kernel, root filesystem, disk. Host only.
#![forbid(unsafe_code)]

pub mod build;
pub mod debian;
pub mod kernel;
pub mod native;
pub mod solink;
