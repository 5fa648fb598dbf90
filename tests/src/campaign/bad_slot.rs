//! Slots that are no good, each in another way: the node comes back on the other one, confirms it, and the ledger says why.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perigee_core::slot::TRIES;
use perigee_core::slot::header;

use super::workshop::{ARCH, Image, LOOP, RETURN, Workshop, blocks, kernel, longer, other_root_hash, patch_entry};
use super::{Random, Tally};
use crate::card::Card;
use crate::lab::{Lab, Rig};
use crate::machines::slots::wait_confirmed;

/// Three tries of a slot that hangs in its second service, each ended by the watchdog or by PID 1.
const BACK_TIMEOUT: Duration = Duration::from_secs(1200);
/// Machines beside each other: one whose slot hangs is waited for by its watchdog, for minutes.
const MACHINES: usize = 3;

/// One way to be no good.
pub struct Bad {
    /// What it is called.
    pub name: &'static str,
    /// Makes such a slot.
    pub make: fn(&mut Workshop<'_>) -> Result<Image>,
    /// How each of its starts ends: the causes that the ledger may have.
    pub ends: &'static [&'static str],
}

const REJECTED: &[&str] = &["rejected"];
/// The kernel says so, if it had somewhere to.
const PANIC: &[&str] = &["panic", "unknown"];
const WATCHDOG: &[&str] = &["watchdog"];
const KUBELET: &[&str] = &["vital-kubelet"];
const CONTAINERD: &[&str] = &["vital-containerd", "vital-kubelet"];
const AGENT: &[&str] = &["vital-agent"];

/// All of them.
pub const ALL: [Bad; 24] = [
    Bad {
        name: "damaged-signature",
        make: |shop| shop.with_headers(|headers| headers[header::SIGNATURE + 9] ^= 1),
        ends: REJECTED,
    },
    Bad { name: "no-header", make: |shop| shop.with_headers(|headers| headers.fill(0)), ends: REJECTED },
    Bad { name: "signed-by-a-stranger", make: |shop| shop.stranger(), ends: REJECTED },
    Bad {
        name: "wrong-architecture",
        make: |shop| shop.with(|header| header.arch = header::Arch::Aarch64),
        ends: REJECTED,
    },
    Bad {
        name: "longer-than-its-partition",
        make: |shop| shop.with(|header| header.layout = longer(header.layout)),
        ends: REJECTED,
    },
    Bad { name: "kernel-damaged", make: |shop| shop.zeroed(|layout| kernel(layout, 1 << 20, 1)), ends: REJECTED },
    Bad {
        name: "kernel-truncated",
        make: |shop| shop.zeroed(|layout| kernel(layout, 4 << 20, u64::MAX)),
        ends: REJECTED,
    },
    Bad { name: "kernel-of-noise", make: |shop| shop.kernel(|efi| efi.fill(0x5A)), ends: REJECTED },
    Bad { name: "kernel-returns", make: |shop| shop.kernel(|efi| patch_entry(efi, &RETURN)), ends: REJECTED },
    Bad { name: "kernel-hangs", make: |shop| shop.kernel(|efi| patch_entry(efi, &LOOP)), ends: WATCHDOG },
    Bad {
        name: "kernel-panics",
        make: |shop| shop.command_line(|line| line.replace("init=/sbin/init", "init=/sbin/none")),
        ends: PANIC,
    },
    Bad { name: "root-of-another-version", make: |shop| shop.command_line(other_root_hash), ends: PANIC },
    Bad { name: "root-truncated", make: |shop| shop.zeroed(|layout| blocks(0, layout.kernel().start)), ends: PANIC },
    Bad {
        name: "tree-truncated",
        make: |shop| shop.zeroed(|layout| blocks(layout.data_blocks.into(), layout.end_block.into())),
        ends: PANIC,
    },
    Bad { name: "pid-1-is-no-program", make: |shop| shop.parts(|parts, noise| parts.flight.init = noise), ends: PANIC },
    Bad {
        name: "pid-1-exits",
        make: |shop| shop.parts(|parts, _| parts.flight.init = parts.go.runc.clone()),
        ends: PANIC,
    },
    Bad {
        name: "pid-1-hangs",
        make: |shop| shop.parts(|parts, _| parts.flight.init = parts.flight.pause.clone()),
        ends: WATCHDOG,
    },
    Bad { name: "kubelet-is-no-program", make: |shop| shop.parts(|parts, noise| parts.go.kube = noise), ends: KUBELET },
    Bad {
        name: "kubelet-exits",
        make: |shop| shop.parts(|parts, _| parts.go.kube = parts.go.runc.clone()),
        ends: KUBELET,
    },
    Bad {
        name: "kubelet-hangs",
        make: |shop| shop.parts(|parts, _| parts.go.kube = parts.flight.pause.clone()),
        ends: KUBELET,
    },
    Bad {
        name: "containerd-exits",
        make: |shop| shop.parts(|parts, _| parts.go.containerd = parts.go.runc.clone()),
        ends: CONTAINERD,
    },
    Bad {
        name: "containerd-hangs",
        make: |shop| shop.parts(|parts, _| parts.go.containerd = parts.flight.pause.clone()),
        ends: CONTAINERD,
    },
    Bad {
        name: "agent-exits",
        make: |shop| shop.parts(|parts, _| parts.flight.agent = parts.go.runc.clone()),
        ends: AGENT,
    },
    Bad {
        name: "agent-hangs",
        make: |shop| shop.parts(|parts, _| parts.flight.agent = parts.flight.pause.clone()),
        ends: AGENT,
    },
];

/// As many ways as `count` says; which of them is first is random.
pub fn run(lab: &mut Lab, count: u32, mut random: Random) -> Result<Tally> {
    let shop = Mutex::new(Workshop::new(lab)?);
    let faults = Mutex::new(super::in_turn(&ALL, count, &mut random));
    super::beside(('a'..).take(MACHINES.min(count as usize)).map(|lane| {
        let (shop, faults) = (&shop, &faults);
        let next = move || unspoiled(faults).next();
        move || Ok(super::each(std::iter::from_fn(next), |bad| (bad.name.to_owned(), back(shop, lane, bad))))
    }))
}

/// What is behind a lock, even if another lane has panicked: it is used whole, or not at all.
fn unspoiled<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Boots a node with a bad slot A, until slot B is confirmed; gives what the ledger says.
fn back(shop: &Mutex<Workshop<'_>>, lane: char, bad: &Bad) -> Result<String> {
    // The machine's disk is a copy of the card.
    let (_card, mut rig) = rig(&mut unspoiled(shop), lane, bad)?;
    rig.cluster.power_on(0)?;
    let slots = rig.wait("slot-b runs", BACK_TIMEOUT, |rig| {
        let slots = rig.slots()?;
        ensure!(slots.running == "slot-b", "{} runs", slots.running);
        Ok(slots)
    })?;
    let mut ends = BTreeMap::<_, u32>::new();
    for reset in slots.resets.iter().filter(|reset| reset.slot == "slot-a") {
        ensure!(bad.ends.contains(&reset.cause.as_str()), "expected one of {:?}, the ledger says {reset:?}", bad.ends);
        *ends.entry((reset.cause.clone(), reset.words.clone())).or_default() += 1;
    }
    let tries: u32 = ends.values().sum();
    ensure!((1..=u32::from(TRIES)).contains(&tries), "{tries} starts of slot-a are in the ledger: {ends:?}");
    wait_confirmed(&mut rig, "slot-b")?;
    let said = ends.into_iter().map(|((cause, words), times)| format!("{times} × {cause} \"{words}\""));
    Ok(said.collect::<Vec<_>>().join(", "))
}

/// A card with the bad slot, and a machine with that, switched off.
fn rig(shop: &mut Workshop<'_>, lane: char, bad: &Bad) -> Result<(Card, Rig)> {
    let image = (bad.make)(shop).with_context(|| format!("make {}", bad.name))?;
    let folder = format!("bad-slot-{lane}");
    let card = Card::new(shop.lab, ARCH, &folder)?;
    image.write(&card)?;
    let rig = shop.lab.rig_off(ARCH, &folder, |plan| {
        card.insert(plan);
        Ok(())
    })?;
    Ok((card, rig))
}
