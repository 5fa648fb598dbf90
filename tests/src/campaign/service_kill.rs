//! Services are killed, stopped and frozen at random times: each comes back, the node is Ready again, nothing leaks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perigee_core::control::{Fault, ServiceState, Status};
use perigee_core::inspect::Inspection;
use perigee_core::spec::Spec;
use perigee_image::build::Arch;
use perigee_image::services;

use super::{Random, Tally, bounds};
use crate::lab::{AGENT, Lab, Rig, service};

/// Machines beside each other: a node that waits for a hang to be found out, or for a back-off to be over, needs no
/// processor.
const MACHINES: u32 = 3;
/// Longest pause between two faults. All services may be down at the same time, so that faults meet: a hang is found out
/// after a minute; one at a time, a thousand faults would take a day.
const PAUSE: Duration = Duration::from_secs(4);
/// After so many faults everything must be as at the beginning.
const ROUND: u32 = 100;
/// What PID 1 may grow by between two rounds and all in all: its logs' rings fill up. Bytes.
const PID1_GROWTH_BYTES: u64 = 1 << 20;
/// A process that ended is waited for, and a cgroup removed, within this time.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Half of them end a service and half of them hang it.
const FAULTS: [Fault; 4] = [Fault::Kill, Fault::Kill, Fault::Stop, Fault::Freeze];

/// A fault that the node has not come back from yet. Times are the node's own, which are as good when the agent, and with
/// it the campaign's sight, was down meanwhile.
struct Open {
    number: u32,
    service: String,
    fault: Fault,
    restarts: u32,
    since: Duration,
    /// When it has to be ready again.
    deadline: Duration,
}

/// What must not grow.
struct Baseline {
    inspection: Inspection,
    pid1_bytes: u64,
}

/// One machine and its share of the faults.
struct Lane {
    name: char,
    rig: Rig,
    random: Random,
    tally: Tally,
}

pub fn run(lab: &mut Lab, count: u32, mut random: Random) -> Result<Tally> {
    let specs = services::load(&lab.ctx().repo.join("rootfs/services"))?;
    let mut lanes = Vec::new();
    for (name, number) in ('a'..).zip(0..MACHINES.min(count)) {
        let rig = lab.rig(Arch::X86_64, &format!("service-kill-{name}"), |_| Ok(()))?;
        let share = (number..count).step_by(MACHINES as usize).count() as u32;
        lanes.push((Lane { name, rig, random: random.fork(), tally: Tally::default() }, share));
    }
    // The machines end with the thread that has started them, which is this one.
    super::beside(lanes.iter_mut().map(|(lane, share)| || lane.run(&specs, *share)))
}

impl Lane {
    fn run(&mut self, specs: &[Spec], count: u32) -> Result<Tally> {
        self.rig.wait_services(0)?;
        println!("campaign: {} {}", self.name, self.rig.wait_answering()?.trim());
        let baseline = Baseline { inspection: self.rig.inspect()?, pid1_bytes: pid1_bytes(&self.rig)? };
        while self.tally.tried < count {
            let faults = ROUND.min(count - self.tally.tried);
            let lost = self.tally.lost;
            if let Err(error) = self.round(specs, faults) {
                // What had come back before this has, and the rest of the round is lost with the node.
                println!("campaign: {} {error:#}", self.name);
                self.tally.lost = self.tally.tried - self.tally.survived;
                break;
            }
            if let Err(error) = whole(&mut self.rig, &baseline) {
                println!("campaign: {} after {} faults: {error:#}", self.name, self.tally.tried);
                self.tally.lost = lost + 1;
                break;
            }
            let pid1_kib = pid1_bytes(&self.rig)? >> 10;
            println!("campaign: {} {} faults, whole again; PID 1 has {pid1_kib} KiB", self.name, self.tally.tried);
        }
        Ok(self.tally)
    }

    /// Makes `faults` faults, and waits until the node has come back from each.
    fn round(&mut self, specs: &[Spec], faults: u32) -> Result<()> {
        let end = self.tally.tried + faults;
        let mut open: Vec<Open> = Vec::new();
        let mut next = Instant::now();
        let silence = bounds::recovery(specs, AGENT, Fault::Stop).context("the agent has no health check")?;
        let mut answered = Instant::now();
        while self.tally.tried < end || !open.is_empty() {
            // An agent that is down does not answer; the others' time runs all the same.
            if let Ok(status) = self.rig.status(0) {
                answered = Instant::now();
                self.close(&mut open, &status)?;
                if self.tally.tried < end && Instant::now() >= next {
                    self.break_one(specs, &status, &mut open)?;
                    next = Instant::now() + self.random.time(PAUSE);
                }
            }
            self.rig.cluster.alive()?;
            ensure!(answered.elapsed() < silence, "the agent has not answered for {silence:?}");
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Takes those out of `open` that are ready again; an error if one was not in time.
    fn close(&mut self, open: &mut Vec<Open>, status: &Status) -> Result<()> {
        for fault in std::mem::take(open) {
            let now = service(status, &fault.service)?;
            let is_back = now.restarts > fault.restarts && now.state == ServiceState::Ready;
            let at = Duration::from_millis(if is_back { now.since_ms } else { status.now_ms });
            let Open { number, service, fault: kind, since, deadline, .. } = &fault;
            let within = *deadline - *since;
            ensure!(at < *deadline, "#{number} {service} {kind:?}: not ready again within {within:?}");
            if is_back {
                self.tally.survived += 1;
                self.tally.corrected += 1;
                let seconds = at.saturating_sub(*since).as_secs_f64();
                println!("campaign: {} #{number} {service} {kind:?}: ready again after {seconds:.1} s", self.name);
            } else {
                open.push(fault);
            }
        }
        Ok(())
    }

    /// Breaks one daemon that is ready, if there is one that nothing waits for which is not: an API server that finds no
    /// etcd again and again takes a minute of an emulated processor each time, and shows nothing new. The agent only when
    /// there is no other: nothing can be broken without it, and the others come back meanwhile.
    fn break_one(&mut self, specs: &[Spec], status: &Status, open: &mut Vec<Open>) -> Result<()> {
        let is_broken = |name: &str| open.iter().any(|open| open.service == name);
        let (ready, others): (Vec<_>, Vec<_>) = status
            .services
            .iter()
            .partition(|service| service.state == ServiceState::Ready && !is_broken(&service.name));
        let is_waited_for = |name: &str| others.iter().any(|other| bounds::waits_for(specs, &other.name, name));
        let mut candidates: Vec<_> =
            ready.into_iter().filter(|service| service.pid.is_some() && !is_waited_for(&service.name)).collect();
        if candidates.len() > 1 {
            candidates.retain(|service| service.name != AGENT);
        }
        let (Some(target), Some(fault)) = (self.random.pick(&candidates), self.random.pick(&FAULTS)) else {
            return Ok(());
        };
        let bound = bounds::recovery(specs, &target.name, *fault)
            .with_context(|| format!("{}: no health check, so a hang of it is never found out", target.name))?;
        let since = Duration::from_millis(status.now_ms);
        if let Err(error) = self.rig.fault(&target.name, *fault) {
            println!("campaign: {} {} {fault:?} was not made: {error:#}", self.name, target.name);
            return Ok(());
        }
        // What it waits for may be broken already, and has its own time.
        let before = open.iter().filter(|other| bounds::waits_for(specs, &target.name, &other.service));
        let deadline = before.map(|other| other.deadline).fold(since, Duration::max) + bound;
        self.tally.tried += 1;
        let (number, restarts, service) = (self.tally.tried, target.restarts, target.name.clone());
        open.push(Open { number, service, fault: *fault, restarts, since, deadline });
        Ok(())
    }
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
