//! The least memory with which a node comes up and stays up, found by search.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use perigee_image::build::Arch;

use super::{Figures, worker};
use crate::lab::{Lab, Rig};

/// Steps of the search, MiB: finer ones are noise.
const STEP_MIB: u32 = 16;
/// Where the search begins: the lower end is known to be too little, the upper one is more than the contract allows.
const SINGLE_MIB: (u32, u32) = (256, 640);
const WORKER_MIB: (u32, u32) = (80, 320);
/// A candidate counts when its pod has answered for so long.
const HOLD: Duration = Duration::from_secs(600);
const HOLD_PERIOD: Duration = Duration::from_secs(10);

/// A candidate that has not come up by then is too small: it reads its own text again and again. Three times what a boot
/// takes with plenty, under emulation.
const COME_UP: Duration = Duration::from_secs(300);

/// The least memory of a node that is the whole cluster.
pub fn single(lab: &mut Lab, arch: Arch) -> Result<Figures> {
    let mib = search("single", SINGLE_MIB, |mib, hold| {
        let mut rig = lab.rig(arch, "bench", |plan| {
            plan.nodes[0].memory_mib = mib;
            Ok(())
        })?;
        rig.wait("the demo answers", COME_UP, |rig| rig.kubectl().demo())?;
        held(&mut rig, hold, |rig| rig.kubectl().demo().map(drop))
    })?;
    Ok(Figures::from([("memory.single_min_mib".to_owned(), f64::from(mib))]))
}

/// The least memory of a worker whose control plane is another node.
pub fn worker(lab: &mut Lab, arch: Arch) -> Result<Figures> {
    let mut rig = worker::pair(lab, arch)?;
    let mib = search("worker", WORKER_MIB, |mib, hold| {
        worker::start(&mut rig, mib, COME_UP)?;
        held(&mut rig, hold, worker::answers)
    })?;
    Ok(Figures::from([("memory.worker_min_mib".to_owned(), f64::from(mib))]))
}

/// The pod goes on answering. One answer may be lost: a request's time-out is the client's choice, not the node's.
fn held(rig: &mut Rig, hold: Duration, answers: impl Fn(&Rig) -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < hold {
        std::thread::sleep(HOLD_PERIOD);
        rig.cluster.alive()?;
        answers(rig).or_else(|_| answers(rig))?;
    }
    Ok(())
}

/// Bisects with boots that are not held, then holds the least that came up, and goes up until one holds.
fn search(what: &str, (low, high): (u32, u32), mut works: impl FnMut(u32, Duration) -> Result<()>) -> Result<u32> {
    let mut attempt = |mib: u32, hold: Duration| {
        let begin = Instant::now();
        let result = works(mib, hold);
        let took = begin.elapsed().as_secs();
        match &result {
            Ok(()) => println!("bench: {what} with {mib} MiB works ({took} s, held for {} s)", hold.as_secs()),
            Err(error) => {
                let first = format!("{error:#}");
                println!("bench: {what} with {mib} MiB: {}", first.lines().next().unwrap_or_default());
            }
        }
        result.is_ok()
    };
    let (mut bad, mut good) = (low / STEP_MIB, high / STEP_MIB);
    while good - bad > 1 {
        let middle = (bad + good) / 2;
        if attempt(middle * STEP_MIB, Duration::ZERO) { good = middle } else { bad = middle }
    }
    for steps in good..=high / STEP_MIB {
        if attempt(steps * STEP_MIB, HOLD) {
            return Ok(steps * STEP_MIB);
        }
    }
    bail!("{what} does not hold with {high} MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_finds_the_least_that_holds() {
        let found = search("test", (64, 256), |mib, hold| {
            let need = if hold.is_zero() { 120 } else { 150 };
            if mib >= need { Ok(()) } else { bail!("too little") }
        });
        assert_eq!(found.unwrap(), 160);
    }

    #[test]
    fn nothing_that_holds_is_an_error() {
        assert!(search("test", (64, 256), |_, hold| if hold.is_zero() { Ok(()) } else { bail!("no") }).is_err());
    }
}
