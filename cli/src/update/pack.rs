//! `perigee update pack`: a bundle of what is built, and what it costs to send.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perigee_core::update::Release;
use perigee_core::update::manifest::MANIFEST_BYTES;
use perigee_image::bundle::{Pack, Packed, images};
use perigee_image::keys::SlotKey;
use perigee_image::node::Disks;
use serde::Serialize;

use crate::ask::json;
use crate::{build, show};

/// What is packed for whom.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// What is built, as for `perigee build`.
    #[command(flatten)]
    pub build: build::Args,
    /// The version that the nodes have; `none`: a bundle for any node. The last one that was built before unless said.
    #[arg(long, value_name = "VERSION")]
    pub base: Option<String>,
    /// With the new image confirmed, a node takes no release older than this one any more.
    #[arg(long, value_name = "X.Y.Z", value_parser = release, default_value = "0.0.0")]
    pub floor: Release,
    /// Let nodes take it although it is older than what they take otherwise.
    #[arg(long)]
    pub downgrade: bool,
    /// Bits a second of the link, for what it costs: 64k, 2M.
    #[arg(long, value_name = "RATE", value_parser = rate, default_value = "64k")]
    pub rate: u64,
    /// Minutes that the link is up in a pass, and from pass to pass.
    #[arg(long, value_name = "UP/PERIOD", value_parser = window, default_value = "8/96")]
    pub window: (u64, u64),
    /// Where the bundle goes; out/<version>.bundle unless said.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print the costs as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What a bundle costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Cost {
    bundle: PathBuf,
    version: String,
    base: Option<String>,
    image_bytes: u64,
    bundle_bytes: u64,
    manifest_bytes: u64,
    steps_bytes: u64,
    differences_bytes: u64,
    news_bytes: u64,
    seconds: u64,
    passes: u64,
    days: u64,
}

/// Builds, packs, and says what it costs.
///
/// # Errors
/// The build fails; there is no such base; the bundle cannot be written.
pub fn pack(args: &Args) -> Result<String> {
    let built = build::mission(&args.build, Disks::Leave)?;
    let key = SlotKey::find(&build::out()?.join("keys"))?;
    let folder = images::folder(&built.folder);
    let version = built.slot.version().to_owned();
    let base = images::base(&folder, &version, args.base.as_deref())?;
    let read = |version: &str| {
        let path = folder.join(version);
        fs::read(&path).with_context(|| format!("read {}", path.display()))
    };
    let old = base.as_deref().map(read).transpose()?;
    let new = read(&version)?;
    let pack = Pack { old: old.as_deref(), new: &new, floor: args.floor, is_downgrade: args.downgrade };
    let Packed { bytes, streams } = pack.pack(&key)?;
    let bundle = match &args.output {
        Some(output) => output.clone(),
        None => build::out()?.join(format!("{version}.bundle")),
    };
    let partial = bundle.with_extension("partial");
    fs::write(&partial, &bytes)
        .and_then(|()| fs::rename(&partial, &bundle))
        .with_context(|| format!("write {}", bundle.display()))?;
    let (seconds, passes, days) = passes(bytes.len() as u64, args.rate, args.window);
    let [steps_bytes, differences_bytes, news_bytes] = streams;
    let cost = Cost {
        bundle,
        version,
        base,
        image_bytes: new.len() as u64,
        bundle_bytes: bytes.len() as u64,
        manifest_bytes: MANIFEST_BYTES as u64,
        steps_bytes,
        differences_bytes,
        news_bytes,
        seconds,
        passes,
        days,
    };
    if args.json { json(&cost) } else { Ok(text(&cost, args)) }
}

fn text(cost: &Cost, args: &Args) -> String {
    let from = cost.base.as_ref().map_or_else(|| "any node".to_owned(), |base| format!("nodes with {base}"));
    let (up, period) = args.window;
    format!(
        "{} for {from}: {}\n\
         {} bytes of an image of {}: steps {}, differences {}, new bytes {}\n\
         at {} bit/s: {} of link; {} of {up} minutes in {period}, within {} days\n",
        cost.version,
        cost.bundle.display(),
        cost.bundle_bytes,
        cost.image_bytes,
        cost.steps_bytes,
        cost.differences_bytes,
        cost.news_bytes,
        args.rate,
        show::span(cost.seconds * 1000),
        if cost.passes == 1 { "1 pass".to_owned() } else { format!("{} passes", cost.passes) },
        cost.days,
    )
}

/// Seconds of link, passes, and days until the last of them is over.
fn passes(bytes: u64, rate: u64, (up, period): (u64, u64)) -> (u64, u64, u64) {
    let seconds = (bytes * 8).div_ceil(rate);
    let passes = seconds.div_ceil(up * 60).max(1);
    let span = Duration::from_secs((passes - 1) * period * 60 + up * 60);
    (seconds, passes, span.as_secs().div_ceil(24 * 3600))
}

fn release(text: &str) -> Result<Release> {
    Release::parse(text).context("expected three numbers like 1.2.3")
}

fn rate(text: &str) -> Result<u64> {
    let (number, factor) = match text.strip_suffix(['k', 'M']) {
        Some(number) if text.ends_with('k') => (number, 1000),
        Some(number) => (number, 1_000_000),
        None => (text, 1),
    };
    let rate = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    rate.filter(|rate| *rate > 0).context("expected bits a second, for example 64k")
}

fn window(text: &str) -> Result<(u64, u64)> {
    let expected = || "expected minutes up and minutes from pass to pass, for example 8/96";
    let (up, period) = text.split_once('/').with_context(expected)?;
    let (up, period) = (up.parse().with_context(expected)?, period.parse().with_context(expected)?);
    ensure!(0 < up && up <= period && period <= 525_600, expected());
    Ok((up, period))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_costs_passes_by_rate_and_window() {
        assert_eq!(passes(1000, 64_000, (8, 96)), (1, 1, 1));
        // 3.84 MB go up in a pass of 8 minutes.
        assert_eq!(passes(3_840_000, 64_000, (8, 96)), (480, 1, 1));
        assert_eq!(passes(3_840_001, 64_000, (8, 96)), (481, 2, 1));
        assert_eq!(passes(70_000_000, 64_000, (8, 96)), (8750, 19, 2));
    }

    #[test]
    fn rates_and_windows_are_read_or_refused_with_an_example() {
        assert_eq!([rate("9600").unwrap(), rate("64k").unwrap(), rate("2M").unwrap()], [9600, 64_000, 2_000_000]);
        assert_eq!(window("8/96").unwrap(), (8, 96));
        for wrong in ["", "k", "0", "-1", "64 k", "99999999999999999999M"] {
            assert!(rate(wrong).unwrap_err().to_string().contains("64k"), "{wrong}");
        }
        for wrong in ["", "8", "8/", "0/5", "9/8", "a/b", "1/9999999"] {
            assert!(window(wrong).unwrap_err().to_string().contains("8/96"), "{wrong}");
        }
    }
}
