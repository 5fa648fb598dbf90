//! Perigee's decisions: the service graph, service files, the mission, the control protocol.
//!
//! No I/O, no clock, no thread, no `std`: the loader, PID 1, the agent, the image builder and the simulator run
//! the same functions.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod control;
mod document;
pub mod inspect;
pub mod mission;
pub mod service;
pub mod spec;
