//! A node from cold to an answering pod, past a damaged slot and without a link at first; then what it claims to be, its
//! services killed, the slot mended, a reboot into it, an update of the other one with the power gone on the way, golden,
//! a power-off.

use anyhow::{Context, Result, ensure};
use perigee_core::control::{Fault, Request, ServiceState};
use perigee_core::inspect::{Inspection, Processes};
use perigee_image::build::Arch;
use perigee_qemu::stage;

use super::{link, slots, updates};
use crate::card::Card;
use crate::figures;
use crate::lab::{ANSWER_TIMEOUT, Lab, Rig, SERVICES_TIMEOUT, service};
use crate::release::Release;
use crate::suite::Checks;

/// The whole of userspace: a fifteenth program has to give its reason here.
const MAX_ELF_FILES: usize = 14;
/// What PID 1, the agent and whatever else is ours may take together, MiB.
const MAX_OWN_PSS_MIB: f64 = 8.0;
/// When all that is in the seed was created (docs/formats.md).
const SEEDED_AT: &str = "2000-01-01T00:00:00Z";
/// A process that has ended is waited for at once, but the node may be looked at in between.
const REAP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

pub fn run(lab: &mut Lab, arch: Arch, checks: &mut Checks) -> Result<()> {
    // A bit of slot A's kernel is wrong.
    let card = Card::new(lab, arch, "boots")?;
    card.flip("slot-a", lab.built(arch)?.slot.kernel_offset() + 4096, 3)?;
    let mut rig = checks.check("pid-1", || {
        let mut rig = lab.rig(arch, "boots", |plan| {
            card.insert(plan);
            plan.link = false;
            Ok(())
        })?;
        rig.cluster.machine(0)?.console().wait_for(0, stage::PID1, SERVICES_TIMEOUT)?;
        Ok(rig)
    })?;
    checks.check("services-ready-without-link", || link::services_ready(&mut rig))?;
    checks.check("confirmed-without-link", || link::confirmed(&mut rig, "slot-b"))?;
    checks.check("reached-when-it-is-back", || link::plug(&mut rig))?;
    checks.check("other-slot", || slots::rejected(&rig.slots()?))?;
    checks.check("node-ready", || rig.wait_ready())?;
    checks.check("seeded", || seeded(&rig))?;
    checks.check("demo-answers", || rig.wait_answering())?;
    checks.check("is-what-it-claims", || is_what_it_claims(&rig.inspect()?))?;
    checks.check("own-memory", || own_memory(&rig.processes(0)?))?;
    killed(&mut rig, checks)?;
    checks.check("scrubbed", || slots::scrub(&mut rig))?;
    let starts = starts(&rig)?;
    checks.check("reboot", || reboot(&mut rig))?;
    checks.check("mended-slot-runs", || slots::runs(&rig.slots()?, "slot-a"))?;
    // What is decided is decided by the same code on both.
    if arch == Arch::X86_64 {
        checks.check("confirmed-without-api-server", || slots::confirmed_without_api_server(&mut rig, "slot-a"))?;
        let release = checks.check("bundle", || Release::changed_service(lab, arch))?;
        checks.check("update-written-past-a-cut", || updates::written_past_a_cut(&mut rig, &release))?;
        checks.check("update-confirmed", || updates::activated(&mut rig, &release))?;
    }
    checks.check("volumes-kept", || counts_on(&mut rig, starts))?;
    checks.check("golden-once", || slots::golden(&mut rig))?;
    checks.check("power-off", || rig.power_off())?;
    Ok(())
}

/// Every default role and binding is from the seed: the API server had none to make.
fn seeded(rig: &Rig) -> Result<()> {
    for kind in ["clusterroles", "clusterrolebindings", "roles", "rolebindings"] {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/{kind}?labelSelector=kubernetes.io/bootstrapping");
        let list: serde_json::Value = serde_json::from_str(&rig.kubectl().get(&path)?)?;
        let items = list["items"].as_array().filter(|items| !items.is_empty());
        for item in items.with_context(|| format!("no default {kind}"))? {
            let metadata = &item["metadata"];
            ensure!(metadata["creationTimestamp"] == SEEDED_AT, "{kind}: {} was not in the seed", metadata["name"]);
        }
    }
    Ok(())
}

fn is_what_it_claims(node: &Inspection) -> Result<()> {
    ensure!(
        node.pid1_exe == "/sbin/init" && node.pid1_static,
        "PID 1 is {} (static: {})",
        node.pid1_exe,
        node.pid1_static
    );
    let root = node.mounts.iter().find(|mount| mount.target == "/").context("no root is mounted")?;
    ensure!(root.kind == "erofs" && root.options.iter().any(|option| option == "ro"), "the root is {root:?}");
    ensure!(node.elf_files.len() <= MAX_ELF_FILES, "more than {MAX_ELF_FILES} programs: {:?}", node.elf_files);
    ensure!(node.dynamic_files.is_empty(), "not static: {:?}", node.dynamic_files);
    ensure!(node.setuid_files.is_empty(), "setuid: {:?}", node.setuid_files);
    ensure!(node.shells.is_empty(), "shells: {:?}", node.shells);
    Ok(())
}

fn own_memory(node: &Processes) -> Result<()> {
    let own = figures::own_pss_mib(node);
    ensure!(own <= MAX_OWN_PSS_MIB, "ours take {own:.1} MiB, at most {MAX_OWN_PSS_MIB} are allowed");
    Ok(())
}

/// Each daemon is killed once; it comes back, and the node is Ready again.
fn killed(rig: &mut Rig, checks: &mut Checks) -> Result<()> {
    let status = rig.status(0)?;
    let cgroups = rig.inspect()?.cgroups;
    let daemons = status.services.iter().filter(|service| service.pid.is_some());
    for name in daemons.map(|service| service.name.as_str()) {
        checks.check(&format!("{name}-killed"), || {
            let before = service(&rig.status(0)?, name)?.restarts;
            rig.fault(name, Fault::Kill)?;
            rig.wait(&format!("{name} is back"), SERVICES_TIMEOUT, |rig| {
                let status = rig.status(0)?;
                let now = service(&status, name)?;
                ensure!(now.restarts > before && now.state == ServiceState::Ready, "{name} is {now:?}");
                Ok(())
            })?;
            rig.wait_ready()
        })?;
    }
    checks.check("demo-answers-after-that", || {
        rig.wait_services(0)?;
        rig.wait_answering()
    })?;
    checks.check("nothing-left-behind", || {
        rig.wait("no zombies, no cgroup more", REAP_TIMEOUT, |rig| {
            let now = rig.inspect()?;
            ensure!(now.zombies.is_empty(), "zombies: {:?}", now.zombies);
            let more: Vec<_> = now.cgroups.iter().filter(|cgroup| !cgroups.contains(cgroup)).collect();
            ensure!(more.is_empty(), "new cgroups: {more:?}");
            Ok(())
        })
    })
}

fn reboot(rig: &mut Rig) -> Result<()> {
    let boot = rig.status(0)?.boot_id;
    rig.tell(&Request::Reboot)?;
    rig.wait("another boot", SERVICES_TIMEOUT, |rig| {
        ensure!(rig.status(0)?.boot_id != boot, "still the same boot");
        Ok(())
    })
}

/// The demo counts its starts in a file on its volume: after a reboot it goes on counting.
fn counts_on(rig: &mut Rig, before: u32) -> Result<()> {
    rig.wait("the demo counts on", ANSWER_TIMEOUT, |rig| {
        let now = starts(rig)?;
        ensure!(now > before, "the demo has started {now} times, {before} before the reboot");
        Ok(())
    })
}

fn starts(rig: &Rig) -> Result<u32> {
    let answer = rig.kubectl().get("/api/v1/namespaces/default/services/demo:80/proxy/")?;
    figures::starts(&answer).with_context(|| format!("no starts=N in the demo's answer: {answer}"))
}
