//! `perigee`, the one command people type: builds, runs, and asks nodes. Its verbs are functions that tests can call.
#![forbid(unsafe_code)]

pub mod ask;
pub mod build;
pub mod client;
pub mod machines;
pub mod run;
mod show;
pub mod update;
