//! Processes with their memory, from /proc.

use perigee_core::inspect::{Process, Processes};
use procfs::prelude::*;
use procfs::process::StatFlags;
use procfs::{DiskStats, KernelStats, Meminfo, ProcError, ProcResult};
use rustix::time::{ClockId, clock_gettime};

/// Where PID 1 keeps the services' cgroups.
const SERVICES: &str = "/perigee/";
/// /proc/diskstats counts these, whatever the disk's own are (Documentation/admin-guide/iostats.rst).
const SECTOR_BYTES: u64 = 512;

/// All user processes, and the node's counters. A process that ends meanwhile is left out.
///
/// # Errors
/// /proc cannot be read.
pub fn read() -> ProcResult<Processes> {
    let memory = Meminfo::current()?;
    let cpu = KernelStats::current()?.total;
    let mut processes = Vec::new();
    for found in procfs::process::all_processes()? {
        match found.and_then(|process| one(&process)) {
            Ok(process) => processes.extend(process),
            Err(ProcError::NotFound(_)) => {}
            // ESRCH: it ended between two reads.
            Err(ProcError::Io(error, _)) if error.raw_os_error() == Some(3) => {}
            Err(error) => return Err(error),
        }
    }
    processes.sort_by_key(|process| process.pid);
    let now = clock_gettime(ClockId::Boottime);
    let waited = cpu.iowait_ms().unwrap_or(0);
    let interrupts = cpu.irq_ms().unwrap_or(0) + cpu.softirq_ms().unwrap_or(0);
    Ok(Processes {
        now_ms: u64::try_from(now.tv_sec * 1000 + now.tv_nsec / 1_000_000).unwrap_or(0),
        memory_total_bytes: memory.mem_total,
        memory_available_bytes: memory.mem_available.unwrap_or(memory.mem_free),
        cpu_busy_ms: cpu.user_ms() + cpu.nice_ms() + cpu.system_ms() + interrupts,
        cpu_idle_ms: cpu.idle_ms() + waited,
        disk_written_bytes: written(&DiskStats::current()?),
        processes,
    })
}

/// `None` for a kernel thread and for a process that has ended.
fn one(process: &procfs::process::Process) -> ProcResult<Option<Process>> {
    let stat = process.stat()?;
    let kernel_thread = StatFlags::from_bits_truncate(stat.flags).contains(StatFlags::PF_KTHREAD);
    let Some(memory) = process.smaps_rollup()?.memory_map_rollup.0.into_iter().next().filter(|_| !kernel_thread) else {
        return Ok(None);
    };
    let bytes = |field: &str| memory.extension.map.get(field).copied().unwrap_or(0);
    let cgroup = process.cgroups()?.into_iter().find(|group| group.hierarchy == 0);
    let cgroup = cgroup.map(|group| group.pathname).unwrap_or_default();
    Ok(Some(Process {
        pid: process.pid(),
        name: stat.comm,
        service: service(&cgroup),
        cgroup,
        pss_bytes: bytes("Pss"),
        rss_bytes: bytes("Rss"),
        anonymous_bytes: bytes("Anonymous"),
        swap_bytes: bytes("SwapPss"),
        cpu_ms: (stat.utime + stat.stime).saturating_mul(1000) / procfs::ticks_per_second(),
    }))
}

/// The service that a cgroup belongs to.
fn service(cgroup: &str) -> Option<String> {
    cgroup.strip_prefix(SERVICES)?.split('/').next().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Bytes written to whole disks: a partition's writes are its disk's, too, and must not count twice.
fn written(disks: &DiskStats) -> u64 {
    let names: Vec<&str> = disks.0.iter().map(|disk| disk.name.as_str()).collect();
    let is_partition = |name: &str| names.iter().any(|disk| partition_of(name, disk));
    disks.0.iter().filter(|disk| !is_partition(&disk.name)).map(|disk| disk.sectors_written * SECTOR_BYTES).sum()
}

/// `vda1` of `vda`, `mmcblk0p1` of `mmcblk0`: a disk whose name ends with a digit has a `p` between.
fn partition_of(name: &str, disk: &str) -> bool {
    let number = name.strip_prefix(disk).and_then(|rest| {
        if disk.ends_with(|c: char| c.is_ascii_digit()) { rest.strip_prefix('p') } else { Some(rest) }
    });
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_process_is_seen_with_its_memory() {
        let own = one(&procfs::process::Process::myself().unwrap()).unwrap().unwrap();
        assert_eq!(own.pid, i32::try_from(std::process::id()).unwrap());
        assert!(own.pss_bytes > 0 && own.rss_bytes >= own.pss_bytes && own.anonymous_bytes > 0, "{own:?}");
    }

    #[test]
    fn a_cgroup_below_perigee_is_its_services() {
        assert_eq!(service("/perigee/etcd"), Some("etcd".into()));
        assert_eq!(service("/perigee/containerd/shims"), Some("containerd".into()));
        assert_eq!((service("/"), service("/perigee/"), service("/kubepods/burstable")), (None, None, None));
    }

    #[test]
    fn partitions_do_not_count_beside_their_disk() {
        assert!(partition_of("vda1", "vda") && partition_of("mmcblk0p12", "mmcblk0"));
        assert!(!partition_of("vda", "vda") && !partition_of("vdab", "vda") && !partition_of("mmcblk01", "mmcblk0"));
        assert!(!partition_of("mmcblk0boot0", "mmcblk0"));
    }
}
