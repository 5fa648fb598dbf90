//! Updates over a simulated radio link that is up for minutes a day and loses frames, with the power gone twice on the way.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use perigee_core::control::Request;
use perigee_image::build::Arch;
use perigee_qemu::Random;
use perigee_qemu::radio::Channel;

use super::Tally;
use crate::lab::{Lab, Rig};
use crate::machines::slots::wait_confirmed;
use crate::machines::updates;
use crate::release::Release;

const ARCH: Arch = Arch::X86_64;
/// Issue 5's link; its seed is added.
const LINK: &str = "rate=64k,loss=5%,window=8m/96m,speed=20";
/// What no node has yet of the release, so that it takes more than a pass.
const NEWS_BYTES: usize = 1_500_000;
/// How often the power goes while a bundle is on its way.
const CUTS: u64 = 2;
/// So many passes; three are usual, and one more for each cut.
const SEND_TIMEOUT: Duration = Duration::from_secs(20 * 288);
/// How often the link is looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// So many updates, each on a new node.
pub fn run(lab: &mut Lab, count: u32, mut random: Random) -> Result<Tally> {
    let release = Release::with_news(lab, ARCH, NEWS_BYTES)?;
    let mut tally = Tally::default();
    for number in 1..=count {
        tally.tried += 1;
        match update(lab, &release, &mut random) {
            Ok(how) => {
                println!("campaign: #{number}: {how}");
                tally.survived += 1;
            }
            Err(error) => {
                println!("campaign: #{number}: {error:#}");
                tally.lost += 1;
            }
        }
    }
    Ok(tally)
}

/// Updates a node; gives what it took.
fn update(lab: &mut Lab, release: &Release, random: &mut Random) -> Result<String> {
    let link = format!("{LINK},seed={}", random.below(1 << 32));
    let mut rig = lab.rig(ARCH, "update-link", |plan| {
        plan.radio = Some(link.parse()?);
        Ok(())
    })?;
    let radio = rig.cluster.radio().context("there is a radio")?.clone();
    // What is not the update's does not go over it.
    radio.open();
    wait_confirmed(&mut rig, "slot-a")?;
    let bytes = release.bytes()?;
    let mut cuts: Vec<u64> = (0..CUTS).map(|_| random.below(bytes)).collect();
    cuts.sort_unstable();

    radio.restore();
    let (began, port) = (Instant::now(), rig.cluster.agent_port(0));
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| release.send_to(port));
        let cut = cut(&mut rig, &radio, &cuts, || sending.is_finished() || began.elapsed() > SEND_TIMEOUT);
        // Whatever became of it: with an open link the sender ends soon.
        let in_time = sending.is_finished() || began.elapsed() <= SEND_TIMEOUT;
        let (took, up) = (began.elapsed(), radio.counters().uplink);
        if !in_time || cut.is_err() {
            radio.open();
        }
        let sent = sending.join().map_err(|_| anyhow!("the sender panicked"))?;
        cut?;
        sent?;
        ensure!(in_time, "not sent within {SEND_TIMEOUT:?}");
        Ok((took, up))
    })
    .and_then(|(took, up)| {
        radio.open();
        let update = rig.wait("the agent answers", updates::WRITE_TIMEOUT, |rig| rig.update(&Request::Update))?;
        ensure!(update.missing.is_empty() && update.version.as_ref() == Some(&release.version), "{update:?}");
        updates::wait_written(&mut rig)?;
        updates::activated(&mut rig, release)?;
        Ok(format!(
            "power cut at {cuts:?} of {bytes} bytes; {:.1} hours of the link's; uplink, frames and all: {up}",
            took.as_secs_f64() * 20.0 / 3600.0
        ))
    })
}

/// Pulls the plug each time that so many bytes have gone up, and puts it in again, until the sender `is_done`.
fn cut(rig: &mut Rig, radio: &Channel, cuts: &[u64], is_done: impl Fn() -> bool) -> Result<()> {
    let mut cuts = cuts.iter().peekable();
    while !is_done() {
        if cuts.next_if(|at| **at <= radio.counters().uplink.delivered.bytes).is_some() {
            rig.cluster.power_cut(0);
            rig.cluster.power_on(0)?;
        }
        rig.cluster.alive()?;
        std::thread::sleep(PERIOD);
    }
    ensure!(cuts.next().is_none(), "it was sent before the power went");
    Ok(())
}
