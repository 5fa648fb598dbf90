//! Services are killed, stopped and frozen at random times: each comes back, the node is Ready again, nothing leaks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perigee_core::control::{Fault, ServiceState, Status};
use perigee_core::inspect::Inspection;
use perigee_core::spec::Spec;
use perigee_image::build::Arch;
use perigee_image::services;

use super::{Random, Tally, bounds};
use crate::lab::{Lab, Rig, service};

/// Longest pause between two faults. All services may be down at the same time, so that faults meet: a hang is found out
/// after a minute; one at a time, a thousand faults would take a day.
const PAUSE_MS: u64 = 4_000;
/// After so many faults everything must be as at the beginning.
const ROUND: u32 = 25;
/// What PID 1 may grow by between two rounds and all in all: its logs' rings fill up. Bytes.
const PID1_GROWTH_BYTES: u64 = 1 << 20;
/// A process that ended is waited for, and a cgroup removed, within this time.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
const FAULTS: [Fault; 3] = [Fault::Kill, Fault::Stop, Fault::Freeze];

/// A fault that the node has not come back from yet.
struct Open {
    number: u32,
    service: String,
    fault: Fault,
    restarts: u32,
    since: Instant,
    bound: Duration,
}

/// What must not grow.
struct Baseline {
    inspection: Inspection,
    pid1_bytes: u64,
}

pub fn run(lab: &mut Lab, count: u32, mut random: Random) -> Result<Tally> {
    let specs = services::load(&lab.ctx().repo.join("rootfs/services"))?;
    let mut rig = lab.rig(Arch::X86_64, "service-kill", |_| Ok(()))?;
    rig.wait_services(0)?;
    println!("campaign: {}", rig.wait_answering()?.trim());
    let baseline = Baseline { inspection: rig.inspect()?, pid1_bytes: pid1_bytes(&rig)? };
    let mut tally = Tally::default();
    while tally.tried < count {
        let faults = ROUND.min(count - tally.tried);
        let lost = tally.lost;
        if let Err(error) = round(&mut rig, &specs, faults, &mut random, &mut tally) {
            // What had come back before this has, and the rest of the round is lost with the node.
            println!("campaign: {error:#}");
            tally.lost = tally.tried - tally.survived;
            return Ok(tally);
        }
        if let Err(error) = whole(&mut rig, &baseline) {
            println!("campaign: after {} faults: {error:#}", tally.tried);
            tally.lost = lost + 1;
            return Ok(tally);
        }
        println!("campaign: {} faults, whole again; PID 1 has {} KiB", tally.tried, pid1_bytes(&rig)? >> 10);
    }
    Ok(tally)
}

/// Makes `faults` faults, and waits until the node has come back from each.
fn round(rig: &mut Rig, specs: &[Spec], faults: u32, random: &mut Random, tally: &mut Tally) -> Result<()> {
    let end = tally.tried + faults;
    let mut open: Vec<Open> = Vec::new();
    let mut next = Instant::now();
    while tally.tried < end || !open.is_empty() {
        // An agent that is down does not answer; the others' time runs all the same.
        if let Ok(status) = rig.status(0) {
            close(&mut open, &status, tally);
            if tally.tried < end && Instant::now() >= next {
                open.extend(break_one(rig, specs, &status, &open, random, tally)?);
                next = Instant::now() + Duration::from_millis(random.below(PAUSE_MS));
            }
        }
        rig.cluster.alive()?;
        for fault in &open {
            let Open { number, service, fault, since, bound, .. } = fault;
            ensure!(since.elapsed() < *bound, "#{number} {service} {fault:?}: not ready again within {bound:?}");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Takes those out of `open` that are ready again.
fn close(open: &mut Vec<Open>, status: &Status, tally: &mut Tally) {
    open.retain(|fault| {
        let back = service(status, &fault.service)
            .is_ok_and(|now| now.restarts > fault.restarts && now.state == ServiceState::Ready);
        if back {
            tally.survived += 1;
            tally.corrected += 1;
            let Open { number, service, fault, since, .. } = fault;
            println!(
                "campaign: #{number} {service} {fault:?}: ready again after {:.1} s",
                since.elapsed().as_secs_f64()
            );
        }
        !back
    });
}

/// Breaks one daemon that is ready.
fn break_one(
    rig: &Rig,
    specs: &[Spec],
    status: &Status,
    open: &[Open],
    random: &mut Random,
    tally: &mut Tally,
) -> Result<Option<Open>> {
    let candidates: Vec<_> = status
        .services
        .iter()
        .filter(|service| service.state == ServiceState::Ready && service.pid.is_some())
        .filter(|service| !open.iter().any(|open| open.service == service.name))
        .collect();
    let (Some(target), Some(fault)) = (random.pick(&candidates), random.pick(&FAULTS)) else { return Ok(None) };
    let bound = bounds::recovery(specs, &target.name, *fault)
        .with_context(|| format!("{}: no health check, so a hang of it is never found out", target.name))?;
    let since = Instant::now();
    if let Err(error) = rig.fault(&target.name, *fault) {
        println!("campaign: {} {fault:?} was not made: {error:#}", target.name);
        return Ok(None);
    }
    tally.tried += 1;
    let restarts = target.restarts;
    Ok(Some(Open { number: tally.tried, service: target.name.clone(), fault: *fault, restarts, since, bound }))
}

/// Everything is as it was at the beginning.
fn whole(rig: &mut Rig, baseline: &Baseline) -> Result<()> {
    rig.wait_services(0)?;
    rig.wait_ready()?;
    rig.wait_answering()?;
    rig.wait("nothing is left behind", SETTLE_TIMEOUT, |rig| unchanged(&baseline.inspection, &rig.inspect()?))?;
    let (before, now) = (baseline.pid1_bytes, pid1_bytes(rig)?);
    ensure!(now <= before + PID1_GROWTH_BYTES, "PID 1 has grown from {before} to {now} bytes");
    Ok(())
}

/// No zombie, no service's cgroup more, no more mounts and pods' cgroups than there were: a pod's containers come and
/// go with new names.
fn unchanged(before: &Inspection, now: &Inspection) -> Result<()> {
    ensure!(now.zombies.is_empty(), "zombies: {:?}", now.zombies);
    let is_pods = |cgroup: &&String| cgroup.contains("kubepods");
    let new: Vec<_> =
        now.cgroups.iter().filter(|cgroup| !is_pods(cgroup) && !before.cgroups.contains(cgroup)).collect();
    ensure!(new.is_empty(), "new cgroups: {new:?}");
    let pods = |node: &Inspection| node.cgroups.iter().filter(is_pods).count();
    ensure!(pods(now) <= pods(before), "{} cgroups of pods, {} before", pods(now), pods(before));
    let (mounts, had) = (now.mounts.len(), before.mounts.len());
    ensure!(mounts <= had, "{mounts} mounts, {had} before");
    Ok(())
}

fn pid1_bytes(rig: &Rig) -> Result<u64> {
    let processes = rig.processes(0)?.processes;
    let pid1 = processes.iter().find(|process| process.pid == 1).context("no PID 1 among the processes")?;
    Ok(pid1.anonymous_bytes)
}
