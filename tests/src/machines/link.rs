//! A network card without a carrier: nothing waits for it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use perigee_core::control::Status;

use crate::lab::{Rig, SERVICES_TIMEOUT};

/// What PID 1 says on the console when every service is ready for the first time.
const NODE_READY: &str = "node=ready";

/// Between the last service's readiness and the plug: the clocks of node and host are compared, and an emulated node's
/// runs unevenly.
const QUIET: Duration = Duration::from_secs(10);

/// Every service becomes ready; nobody can ask the node, so the console says it.
pub fn services_ready(rig: &mut Rig) -> Result<()> {
    rig.cluster.machine(0)?.console().wait_for(0, NODE_READY, SERVICES_TIMEOUT).map(drop)
}

/// The vitals have held for long enough.
pub fn confirmed(rig: &mut Rig, slot: &str) -> Result<()> {
    let says = format!("slot={slot} state=confirmed");
    rig.cluster.machine(0)?.console().wait_for(0, &says, SERVICES_TIMEOUT).map(drop)
}

/// The plug is put in: the node answers, and no service has waited for that.
pub fn plug(rig: &mut Rig) -> Result<()> {
    std::thread::sleep(QUIET);
    rig.cluster.machine(0)?.set_link(true)?;
    let plugged = Instant::now();
    // Taken before the question: an answer is as old as its way back is long.
    let (ago, status) = rig.wait("the agent answers", SERVICES_TIMEOUT, |rig| {
        let ago = plugged.elapsed();
        Ok((ago, rig.status(0)?))
    })?;
    ready_before(&status, ago)
}

/// Every service was ready longer ago than `ago`.
fn ready_before(status: &Status, ago: Duration) -> Result<()> {
    ensure!(status.links.iter().all(|link| link.carrier && link.configured), "links: {:?}", status.links);
    for service in &status.services {
        let ready = service.first_ready_ms.map(|ready| Duration::from_millis(status.now_ms.saturating_sub(ready)));
        ensure!(ready.is_some_and(|ready| ready > ago), "{} waited for the link: {service:?}", service.name);
    }
    Ok(())
}
