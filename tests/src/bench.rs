//! Measures, and writes out/bench.json: one flat object a target, names as in DESIGN's contracts.

mod boot;
mod idle;
mod image;
mod memory;
mod packing;
mod table;
mod update;
mod worker;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use perigee_image::build::Arch;

use crate::lab::Lab;

/// Figures of one target, by name.
pub type Figures = BTreeMap<String, f64>;
/// A part of the bench: measures some of the figures.
type Part = fn(&mut Lab, Arch) -> Result<Figures>;

/// All parts, by the name that `make bench ONLY=` takes; what takes hours is last.
const PARTS: [(&str, Part); 8] = [
    ("image", image::measure),
    ("boot", boot::measure),
    ("idle", idle::measure),
    ("packing", packing::measure),
    ("update", update::measure),
    ("worker", worker::measure),
    ("memory-worker", memory::worker),
    ("memory-single", memory::single),
];

/// Runs the parts whose `<name>-<target>` contains `only`; figures of other parts stay as they are in the file.
pub fn run(lab: &mut Lab, only: Option<&str>) -> Result<()> {
    let path = lab.ctx().repo.join("out/bench.json");
    let mut all = load(&path)?;
    let mut measured = 0;
    for (name, part) in PARTS {
        for arch in Arch::ALL {
            let name = format!("{name}-{}", arch.name());
            if only.is_some_and(|only| !name.contains(only)) {
                continue;
            }
            println!("bench: {name} …");
            let figures = part(lab, arch).with_context(|| format!("bench {name}"))?;
            for (name, value) in &figures {
                println!("bench: {name} {value}");
            }
            all.entry(arch.name().to_owned()).or_default().extend(figures);
            save(&path, &all)?;
            measured += 1;
        }
    }
    ensure!(
        measured > 0,
        "no part has `{}` in its name; parts are: {}",
        only.unwrap_or(""),
        PARTS.map(|p| p.0).join(", ")
    );
    print!("{}", table::table(&all));
    println!("bench: written to {}", path.display());
    Ok(())
}

fn load(path: &Path) -> Result<BTreeMap<String, Figures>> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(BTreeMap::new()) };
    serde_json::from_str(&text).with_context(|| format!("{}: not what this bench wrote; delete it", path.display()))
}

fn save(path: &Path, all: &BTreeMap<String, Figures>) -> Result<()> {
    let text = serde_json::to_string_pretty(all)?;
    std::fs::write(path, format!("{text}\n")).with_context(|| format!("write {}", path.display()))
}

/// The middle one of an odd number of values, the upper middle one of an even number.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![]), None);
    }
}
