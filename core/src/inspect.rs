//! What the agent sees of the running node by itself: processes and their memory, and the facts that a person would
//! look up with a shell if there were one.
//!
//! Sizes are bytes, times are milliseconds. Lists are sorted, so that two answers can be compared.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// Processes and the node's counters, for `perigee processes` and the bench.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processes {
    /// Now, since the kernel's start (CLOCK_BOOTTIME).
    pub now_ms: u64,
    /// MemTotal of /proc/meminfo.
    pub memory_total_bytes: u64,
    /// MemAvailable of /proc/meminfo.
    pub memory_available_bytes: u64,
    /// Time that all processors together were not idle, since the kernel's start (/proc/stat).
    pub cpu_busy_ms: u64,
    /// Time that all processors together were idle.
    pub cpu_idle_ms: u64,
    /// Bytes written to whole disks since the kernel's start (/proc/diskstats).
    pub disk_written_bytes: u64,
    /// User processes in the order of their pids; kernel threads have no memory and are left out.
    pub processes: Vec<Process>,
}

/// One user process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its name as in `/proc/<pid>/comm`: 15 bytes at most.
    pub name: String,
    /// Its cgroup v2 path: `/perigee/etcd`, `/kubepods/…`.
    pub cgroup: String,
    /// The service of PID 1's that it belongs to, from its cgroup.
    pub service: Option<String>,
    /// Its share of what it has in memory (smaps_rollup Pss).
    pub pss_bytes: u64,
    /// All it has in memory (smaps_rollup Rss).
    pub rss_bytes: u64,
    /// Of it without a file behind it (smaps_rollup Anonymous).
    pub anonymous_bytes: u64,
    /// What it has in swap, its share (smaps_rollup SwapPss).
    pub swap_bytes: u64,
    /// CPU time of the process, user and system.
    pub cpu_ms: u64,
}

/// Facts of the running node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// /proc/sys/kernel/osrelease.
    pub kernel: String,
    /// /proc/cmdline.
    pub command_line: String,
    /// PID 1's program as /proc/1/exe names it.
    pub pid1_exe: String,
    /// Whether PID 1's program asks for no dynamic loader (no PT_INTERP).
    pub pid1_static: bool,
    /// Everything mounted in PID 1's mount namespace, in the order of mounting; `/` is the root.
    pub mounts: Vec<Mount>,
    /// ELF files on the root file system (symbolic links are not counted).
    pub elf_files: Vec<String>,
    /// Of `elf_files`, those that ask for a dynamic loader.
    pub dynamic_files: Vec<String>,
    /// Files on the root file system with the setuid or the setgid bit.
    pub setuid_files: Vec<String>,
    /// Shells on the root file system: files or links by a shell's name, and scripts (`#!`).
    pub shells: Vec<String>,
    /// Pids of processes that ended and were not waited for.
    pub zombies: Vec<i32>,
    /// All cgroups, as paths below /sys/fs/cgroup.
    pub cgroups: Vec<String>,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where.
    pub target: String,
    /// What is mounted: a device or the file system's name.
    pub source: String,
    /// The file system's type: `erofs`, `ext4`, `tmpfs`.
    pub kind: String,
    /// Options of the mount and of the file system: `ro`, `nosuid`, `size=…`.
    pub options: Vec<String>,
}
