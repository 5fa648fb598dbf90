//! A network card without a carrier: nothing waits for it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use perigee_core::control::Status;
use perigee_image::build::Arch;

use crate::lab::{Lab, SERVICES_TIMEOUT};
use crate::suite::Checks;

/// What PID 1 says on the console when every service is ready for the first time, and when the vitals have held for
/// long enough.
const NODE_READY: &str = "node=ready";
const CONFIRMED: &str = "slot=slot-a state=confirmed";

/// Between the last service's readiness and the plug: the clocks of node and host are compared, and an emulated node's
/// runs unevenly.
const QUIET: Duration = Duration::from_secs(10);

pub fn run(lab: &mut Lab, arch: Arch, checks: &mut Checks) -> Result<()> {
    let mut rig = checks.check("services-ready-without", || {
        let mut rig = lab.rig(arch, "link", |plan| {
            plan.link = false;
            Ok(())
        })?;
        rig.cluster.machine(0)?.console().wait_for(0, NODE_READY, SERVICES_TIMEOUT)?;
        Ok(rig)
    })?;
    checks.check("confirmed-without", || {
        rig.cluster.machine(0)?.console().wait_for(0, CONFIRMED, SERVICES_TIMEOUT).map(drop)
    })?;
    checks.check("reached-when-it-is-back", || {
        std::thread::sleep(QUIET);
        rig.cluster.machine(0)?.set_link(true)?;
        let plugged = Instant::now();
        // Taken before the question: an answer is as old as its way back is long.
        let (ago, status) = rig.wait("the agent answers", SERVICES_TIMEOUT, |rig| {
            let ago = plugged.elapsed();
            Ok((ago, rig.status(0)?))
        })?;
        ready_before(&status, ago)
    })?;
    checks.check("demo-answers", || rig.wait_answering()).map(drop)
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
