//! Perigee's decisions: boot state and slots, resets, the watchdog, the service graph, service files, the mission, updates,
//! the control protocol.
//!
//! No I/O, no clock, no thread, no `std`: the loader, PID 1, the agent, the image builder and the simulator run
//! the same functions.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod control;
mod document;
pub mod gpt;
pub mod inspect;
pub mod mission;
pub mod reset;
pub mod service;
pub mod slot;
pub mod spec;
pub mod uevent;
pub mod update;
pub mod watchdog;
