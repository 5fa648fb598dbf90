//! Times of a first boot and of a second one, single node.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use perigee_image::build::Arch;
use perigee_qemu::stage::Stages;

use super::{Figures, median};
use crate::lab::{Lab, Rig, SERVICES_TIMEOUT, service};

/// Boots that are measured; emulation on a shared host varies by a fifth.
const BOOTS: usize = 3;
/// As in the hand-made measurements that the design was made from, MiB.
pub const MEMORY_MIB: u32 = 2048;

pub fn measure(lab: &mut Lab, arch: Arch) -> Result<Figures> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for number in 1..=BOOTS {
        println!("bench: boot {number} of {BOOTS}");
        for (name, value) in once(lab, arch)? {
            all.entry(name.to_owned()).or_default().push(value);
        }
    }
    Ok(all.into_iter().filter_map(|(name, values)| Some((name, median(values)?))).collect())
}

fn once(lab: &mut Lab, arch: Arch) -> Result<Vec<(&'static str, f64)>> {
    let mut rig = lab.rig(arch, "bench", |plan| {
        plan.nodes[0].memory_mib = MEMORY_MIB;
        Ok(())
    })?;
    let (ready, pod) = times(&mut rig)?;
    let stages = Stages::of(&rig.cluster.machine(0)?.console().lines_since(0)).context("the console has no stages")?;
    let [loader_from, loader_to] = stages.loader.context("the console has no loader")?;
    let status = rig.status(0)?;
    let exec = |name: &str| -> Result<f64> {
        let exec = service(&status, name)?.first_exec_ms.with_context(|| format!("{name} was never started"))?;
        Ok(seconds(exec.saturating_sub(status.pid1_started_ms)))
    };
    // PID 1 speaks when it has a console: what it did until then is its own.
    let silent = stages.pid1_stamp.saturating_sub(Duration::from_millis(status.pid1_started_ms));
    let kernel_to_pid1 = (stages.pid1 - stages.kernel).saturating_sub(silent).as_secs_f64();
    let pid1_to_kubelet = exec("kubelet")?;
    rig.power_off()?;
    rig.cluster.power_on(0)?;
    let (_, second_pod) = times(&mut rig)?;
    Ok(vec![
        ("boot.firmware_s", loader_from.as_secs_f64()),
        ("boot.loader_s", (loader_to - loader_from).as_secs_f64()),
        ("boot.kernel_to_pid1_s", kernel_to_pid1),
        ("boot.pid1_to_containerd_exec_s", exec("containerd")?),
        ("boot.pid1_to_kubelet_exec_s", pid1_to_kubelet),
        ("boot.own_share", pid1_to_kubelet / kernel_to_pid1),
        ("boot.to_ready_s", ready.as_secs_f64()),
        ("boot.to_pod_s", pod.as_secs_f64()),
        ("boot.second_to_pod_s", second_pod.as_secs_f64()),
    ])
}

/// When the node was Ready and when the pod answered, since the machine's start.
pub fn times(rig: &mut Rig) -> Result<(Duration, Duration)> {
    let started = rig.cluster.machine(0)?.started();
    // The agent is cheap to ask; kubectl costs the host a tenth of a second each time, which is the node's.
    rig.wait("the API server is ready", SERVICES_TIMEOUT, |rig| {
        service(&rig.status(0)?, "kube-apiserver")?.first_ready_ms.context("not yet")
    })?;
    rig.wait_ready()?;
    let ready = started.elapsed();
    rig.wait_answering()?;
    Ok((ready, started.elapsed()))
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}
