//! Machines in QEMU: boards with their real firmware, storage, network, console and faults.
//!
//! [`config`] decides the command line (pure), [`console`] stamps what the guest prints, [`qmp`] steers the running
//! machine, [`recording`] has what it wrote, [`machine`] ties them together, [`radio`] is a link to the ground, and
//! [`cluster`] is a mission's nodes. A machine ends when its [`Machine`] is dropped, and with the process that started
//! it; nothing else is ever ended.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod config;
pub mod console;
pub mod disk;
pub mod kubectl;
pub mod machine;
pub mod qmp;
pub mod radio;
pub mod random;
pub mod recording;
pub mod router;
pub mod stage;
mod switch;

pub use cluster::{Cluster, Disks, Plan, Ports};
pub use config::{Board, Config, Firmware, Forward, Network, Protocol, Storage};
pub use console::{Console, Line};
pub use kubectl::Kubectl;
pub use machine::Machine;
pub use radio::{Channel, Link};
pub use random::Random;
pub use router::Router;
