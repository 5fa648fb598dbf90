//! The part of the start that no service waits for.

use std::time::Duration;

use crate::block::Partitions;
use crate::boot_state::BootState;
use crate::logs::Logs;
use crate::{cgroup, mounts, pstore, sys, sysctl};

/// For so long it waits for the data partition; from then on the services need the processor.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is left of the start.
pub struct Late {
    partitions: Partitions,
    command_line: String,
    deadline: Duration,
}

impl Late {
    /// With what is known of the partitions, and the kernel's command line.
    pub fn new(partitions: Partitions, command_line: String) -> Self {
        Self { partitions, command_line, deadline: sys::now() + PATIENCE }
    }

    /// When it is done at the latest; before, as soon as all that can start has started.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Does it. Returns the boot state, where there is one.
    pub fn finish(mut self, logs: &mut Logs) -> Option<BootState> {
        cgroup::settle(logs);
        sysctl::set_others(logs);
        mounts::mount_last(logs);
        let mut boot_state = BootState::read(&self.command_line, &mut self.partitions, logs)?;
        pstore::explain(&mut boot_state, logs);
        Some(boot_state)
    }
}
