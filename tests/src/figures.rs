//! Figures from what a node says of itself.

use perigee_core::inspect::{Process, Processes};

const MIB: f64 = 1024.0 * 1024.0;

/// Services whose memory is not ours: upstream's daemons.
const UPSTREAM: [&str; 4] = ["containerd", "etcd", "images", "nat"];

/// MiB of everything that runs and is not containerd, etcd, a kube part, a shim or a pod (DESIGN, section 9).
pub fn own_pss_mib(node: &Processes) -> f64 {
    mib(node.processes.iter().filter(|process| is_own(process)).map(|process| process.pss_bytes).sum())
}

fn is_own(process: &Process) -> bool {
    let upstream = process.service.as_deref().is_some_and(|name| name.starts_with("kube") || UPSTREAM.contains(&name));
    let pod = process.cgroup.starts_with("/kubepods") || process.name.starts_with("containerd-shim");
    !upstream && !pod
}

/// MiB that the node uses: what is not available for a new program without swapping.
pub fn used_mib(node: &Processes) -> f64 {
    mib(node.memory_total_bytes.saturating_sub(node.memory_available_bytes))
}

/// Bytes as MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

/// N of `starts=N` in the demo's answer.
pub fn starts(answer: &str) -> Option<u32> {
    answer.split_whitespace().find_map(|word| word.strip_prefix("starts="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str, cgroup: &str, service: Option<&str>, mib: u64) -> Process {
        Process {
            pid: 2,
            name: name.into(),
            cgroup: cgroup.into(),
            service: service.map(str::to_owned),
            pss_bytes: mib << 20,
            rss_bytes: 0,
            anonymous_bytes: 0,
            swap_bytes: 0,
            cpu_ms: 0,
        }
    }

    fn node(processes: Vec<Process>) -> Processes {
        Processes {
            now_ms: 0,
            memory_total_bytes: 512 << 20,
            memory_available_bytes: 128 << 20,
            cpu_busy_ms: 0,
            cpu_idle_ms: 0,
            disk_written_bytes: 0,
            processes,
        }
    }

    #[test]
    fn ours_is_what_is_neither_upstreams_nor_a_pods() {
        let node = node(vec![
            process("init", "/", None, 1),
            process("perigee-agent", "/perigee/agent", Some("agent"), 2),
            process("kube-proxy", "/perigee/kube-proxy", Some("kube-proxy"), 40),
            process("kubelet", "/perigee/kubelet", Some("kubelet"), 50),
            process("containerd-shim", "/perigee/shims", None, 16),
            process("demo", "/kubepods/burstable/pod1", None, 4),
        ]);
        assert_eq!(own_pss_mib(&node), 3.0);
        assert_eq!(used_mib(&node), 384.0);
    }

    #[test]
    fn the_demos_starts_are_read_from_its_answer() {
        assert_eq!(starts("hello from pod=demo-x node=node-1 starts=3\n"), Some(3));
        assert_eq!(starts("hello"), None);
    }
}
