//! A worker whose control plane is another node.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perigee::machines;
use perigee_image::build::Arch;

use super::Figures;
use super::idle::Idle;
use crate::lab::{ANSWER_TIMEOUT, Lab, Rig};

/// One node of each kind, on the network that QEMU's machines share.
const MISSION: &str = r#"name = "pair"

[[node]]
name = "node-1"
roles = ["control-plane"]
address = "10.0.2.15/24"

[[node]]
name = "node-2"
roles = ["worker"]
address = "10.0.2.16/24"
"#;
const WORKER: &str = "node-2";
/// The worker's place in the mission.
pub const PLACE: usize = 1;
/// A pod for the worker alone, from the image of the demo.
const POD: &str = r#"apiVersion: v1
kind: Pod
metadata: { name: bench, namespace: default }
spec:
  nodeName: node-2
  automountServiceAccountToken: false
  tolerations: [{ operator: Exists }]
  containers:
    - name: demo
      image: perigee.local/demo:1
      imagePullPolicy: Never
      securityContext: { runAsUser: 65532, runAsGroup: 65532 }
      volumeMounts: [{ name: data, mountPath: /data }]
      env: [{ name: DEMO_DATA, value: /data }]
  volumes: [{ name: data, emptyDir: {} }]
"#;
const ANSWER: &str = "/api/v1/namespaces/default/pods/bench:8080/proxy/healthz";
/// Plenty for a worker with one small pod, MiB.
const MEMORY_MIB: u32 = 512;
const CONTROL_PLANE_MIB: u32 = 1024;

pub fn measure(lab: &mut Lab, arch: Arch) -> Result<Figures> {
    let mut rig = pair(lab, arch)?;
    let started = start(&mut rig, MEMORY_MIB, ANSWER_TIMEOUT)?;
    let idle = Idle::of(&rig, PLACE)?;
    let figures = [
        ("boot.worker_to_pod_s", started.as_secs_f64()),
        ("memory.worker_used_mib", idle.used_mib),
        ("idle.worker_cpu_share", idle.cpu_share),
    ];
    Ok(figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// A running control plane, and a worker that is off and has a pod waiting for it.
pub fn pair(lab: &mut Lab, arch: Arch) -> Result<Rig> {
    let folder = lab.folder(arch, "bench-pair");
    fs::create_dir_all(&folder)?;
    let (mission, pod) = (folder.join("mission.toml"), folder.join("pod.yaml"));
    fs::write(&mission, MISSION)?;
    fs::write(&pod, POD)?;
    let built = lab.build(arch, &mission)?;
    let plan = machines::fresh(machines::plan(&built, arch, Some(CONTROL_PLANE_MIB)), folder)?;
    let mut rig = Rig::off(plan, &built.pki)?;
    rig.cluster.power_on(0)?;
    rig.wait_services(0)?;
    rig.wait("the pod is accepted", ANSWER_TIMEOUT, |rig| apply(rig, &pod))?;
    Ok(rig)
}

fn apply(rig: &Rig, pod: &Path) -> Result<()> {
    rig.kubectl().run(&["apply", "-f", pod.to_str().context("a path in UTF-8")?]).map(drop)
}

/// Starts the worker on a fresh disk with `memory_mib`; gives the time until its pod answers, at most `timeout`.
pub fn start(rig: &mut Rig, memory_mib: u32, timeout: Duration) -> Result<Duration> {
    rig.cluster.renew(PLACE, memory_mib)?;
    rig.cluster.power_on(PLACE)?;
    let started = rig.cluster.machine(PLACE)?.started();
    rig.wait("the worker's pod answers", timeout, answers)?;
    let took = started.elapsed();
    ensure!(rig.kubectl().ready_nodes()?.contains(&WORKER.to_owned()), "{WORKER} is not Ready");
    Ok(took)
}

/// Whether the worker's pod answers now.
pub fn answers(rig: &Rig) -> Result<()> {
    rig.kubectl().get(ANSWER).map(drop)
}
