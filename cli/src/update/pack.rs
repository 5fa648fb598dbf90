//! `perigee update pack`: a bundle of what is built, and what it costs to send.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use perigee_core::update::Release;
use perigee_core::update::manifest::MANIFEST_BYTES;
use perigee_image::bundle::{Pack, Packed, images};
use perigee_image::keys::SlotKey;
use perigee_image::node::Disks;
use perigee_qemu::Link;
use perigee_qemu::radio::Window;
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
    /// The link that it goes up by, for what it costs; keys as of `perigee run --link`.
    #[arg(long, value_name = "rate=64k,window=8m/96m", default_value = "rate=64k,window=8m/96m")]
    pub link: Link,
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
    link_s: u64,
    passes: u64,
    span_s: u64,
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
    let Passes { link_s, passes, span_s } = Passes::of(bytes.len() as u64, &args.link);
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
        link_s,
        passes,
        span_s,
    };
    if args.json { json(&cost) } else { Ok(text(&cost, &args.link)) }
}

fn text(cost: &Cost, link: &Link) -> String {
    let from = cost.base.as_ref().map_or_else(|| "any node".to_owned(), |base| format!("nodes with {base}"));
    format!(
        "{} for {from}: {}\n\
         {} bytes of an image of {}: steps {}, differences {}, new bytes {}\n\
         by a link of {link}: {} of it, {}, {} from the first one's begin\n",
        cost.version,
        cost.bundle.display(),
        cost.bundle_bytes,
        cost.image_bytes,
        cost.steps_bytes,
        cost.differences_bytes,
        cost.news_bytes,
        show::span(cost.link_s * 1000),
        if cost.passes == 1 { "1 pass".to_owned() } else { format!("{} passes", cost.passes) },
        show::span(cost.span_s * 1000),
    )
}

/// What it takes to send something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passes {
    /// Seconds that the link is used.
    link_s: u64,
    /// Passes, the last of them perhaps not whole.
    passes: u64,
    /// Seconds from the first pass's beginning until all is sent.
    span_s: u64,
}

impl Passes {
    /// For so many bytes, those included that are lost and sent again.
    fn of(bytes: u64, link: &Link) -> Self {
        let arrives = 1.0 - f64::from(link.loss_ppm) / 1e6;
        let bits = bytes as f64 * 8.0 / arrives.max(1e-6);
        let link_s = link.rate_bps.map_or(0, |rate| (bits / rate as f64).ceil() as u64);
        let Some(Window { up, period }) = link.window else { return Self { link_s, passes: 1, span_s: link_s } };
        let up = up.as_secs().max(1);
        let passes = link_s.div_ceil(up).max(1);
        Self { link_s, passes, span_s: (passes - 1) * period.as_secs() + (link_s - (passes - 1) * up) }
    }
}

fn release(text: &str) -> Result<Release> {
    Release::parse(text).context("expected three numbers like 1.2.3")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_costs_passes_by_rate_and_window() {
        for (bytes, link, link_s, passes, span_s) in [
            (1000, "rate=64k,window=8m/96m", 1, 1, 1),
            // 3.84 MB go up in a pass of 8 minutes.
            (3_840_000, "rate=64k,window=8m/96m", 480, 1, 480),
            (3_840_001, "rate=64k,window=8m/96m", 481, 2, 5761),
            (70_000_000, "rate=64k,window=8m/96m", 8750, 19, 18 * 5760 + 110),
            (3_840_000, "rate=64k,window=8m/96m,loss=50%", 960, 2, 6240),
            (1_000_000, "rate=1M", 8, 1, 8),
            (1_000_000, "delay=1s", 0, 1, 0),
        ] {
            let expected = Passes { link_s, passes, span_s };
            assert_eq!(Passes::of(bytes, &link.parse().unwrap()), expected, "{bytes} bytes by {link}");
        }
    }
}
