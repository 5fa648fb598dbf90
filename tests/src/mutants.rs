//! Mutation tests of what decides the boot: cargo-mutants changes one thing of the code at a time, and a test has to fail.
//!
//! docs/mutants.md lists those that no test fails for, each with the reason; one that is not there is a failure. It takes
//! most of an hour, so that `make test` leaves it out.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use perigee_image::build::Ctx;
use perigee_image::native;

/// What is changed.
const FILES: [&str; 4] = ["core/src/slot.rs", "core/src/slot/*.rs", "core/src/reset.rs", "core/src/watchdog.rs"];
/// The tests that know these; the others take their time and see nothing of it.
const TESTS: [&str; 8] =
    ["boot_state", "parsers", "reed_solomon", "scrub", "slot_header", "slots", "vitals", "writing"];
/// So many of the changes that compile have to be caught.
const LEAST_PERCENT: usize = 95;
/// Survivors, with their reasons.
const REASONS: &str = "docs/mutants.md";
/// cargo-mutants: some were missed, some ran into the time limit.
const SURVIVED: [i32; 2] = [2, 3];

/// Runs them in a copy of the clone; those whose description contains `only`, if it is given.
pub fn run(ctx: &Ctx, only: Option<&str>) -> Result<bool> {
    let out = ctx.repo.join("out");
    let mut mutants = Command::new(native::cargo_mutants(ctx)?);
    mutants.arg("mutants").current_dir(&ctx.repo).args(["--package=perigee-core", "--no-shuffle", "--cap-lints=true"]);
    mutants.args(FILES.map(|file| format!("--file={file}"))).arg(format!("--jobs={}", ctx.jobs));
    mutants.arg("--output").arg(&out).args(only.map(|only| format!("--re={only}")));
    mutants.arg("--").arg("--lib").args(TESTS.map(|test| format!("--test={test}")));
    // Each of its copies has a folder of its own for what is compiled.
    mutants.env_remove("CARGO_TARGET_DIR");
    let status = mutants.status().with_context(|| format!("start {mutants:?}"))?;
    ensure!(status.success() || status.code().is_some_and(|code| SURVIVED.contains(&code)), "it ended with {status}");

    let list = |name: &str| lines(&out.join("mutants.out").join(format!("{name}.txt")));
    let (mut caught, missed) = (list("caught")?, list("missed")?);
    // A loop without an end is seen by whoever waits for it.
    caught.extend(list("timeout")?);
    let all = caught.len() + missed.len();
    println!("mutants: {} of {all} caught, {} do not compile", caught.len(), list("unviable")?.len());
    let reasons = fs::read_to_string(ctx.repo.join(REASONS)).with_context(|| format!("read {REASONS}"))?;
    let unexplained: Vec<_> = missed.iter().map(|name| what(name)).filter(|what| !reasons.contains(what)).collect();
    if !unexplained.is_empty() {
        bail!("no test fails, and {REASONS} has no reason for:\n{}", unexplained.join("\n"));
    }
    Ok(all > 0 && caught.len() * 100 >= all * LEAST_PERCENT)
}

fn lines(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// `FILE: WHAT` of cargo-mutants' `FILE:LINE:COLUMN: WHAT`: lines move.
fn what(name: &str) -> String {
    let (place, what) = name.split_once(": ").unwrap_or(("", name));
    let file = place.split(':').next().unwrap_or_default();
    format!("{file}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_survivor_is_known_wherever_its_line_has_moved_to() {
        let name = "core/src/slot.rs:12:9: replace Slot::new -> Self with Default::default()";
        assert_eq!(what(name), "core/src/slot.rs: replace Slot::new -> Self with Default::default()");
    }
}
