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

/// What is changed together.
struct Group {
    name: &'static str,
    /// Below `core/src`.
    files: &'static [&'static str],
    /// The tests that know these; the others take their time and see nothing of it.
    tests: &'static [&'static str],
}

const GROUPS: [Group; 4] = [
    Group {
        name: "boot-state",
        files: &["slot.rs", "slot/copies.rs", "slot/record.rs", "reset.rs"],
        tests: &["boot_state", "slots"],
    },
    Group { name: "header", files: &["slot/header.rs"], tests: &["slot_header"] },
    Group { name: "watchdog", files: &["watchdog.rs"], tests: &["vitals"] },
    Group {
        name: "blocks",
        files: &["slot/reed_solomon.rs", "slot/scrub.rs", "slot/verity.rs", "slot/writing.rs"],
        tests: &["reed_solomon", "scrub", "verity", "writing"],
    },
];
/// So many of the changes that compile have to be caught.
const LEAST_PERCENT: usize = 95;
/// Survivors, with their reasons.
const REASONS: &str = "docs/mutants.md";
/// cargo-mutants: some were missed, some ran into the time limit.
const SURVIVED: [i32; 2] = [2, 3];

/// What became of a group's changes, by their descriptions.
#[derive(Default)]
struct Outcome {
    caught: usize,
    missed: Vec<String>,
    unviable: usize,
}

/// Runs the groups whose name contains `only`, or all of them; gives whether enough was caught.
pub fn run(ctx: &Ctx, only: Option<&str>) -> Result<bool> {
    let program = native::cargo_mutants(ctx)?;
    let mut all = Outcome::default();
    for group in GROUPS.iter().filter(|group| only.is_none_or(|only| group.name.contains(only))) {
        let Outcome { caught, missed, unviable } = group.run(ctx, &program)?;
        println!("mutants: {}: {caught} caught, {} missed, {unviable} do not compile", group.name, missed.len());
        all.caught += caught;
        all.missed.extend(missed);
    }
    let total = all.caught + all.missed.len();
    println!("mutants: {} of {total} caught", all.caught);
    let reasons = fs::read_to_string(ctx.repo.join(REASONS)).with_context(|| format!("read {REASONS}"))?;
    let unexplained: Vec<_> = all.missed.iter().map(String::as_str).filter(|what| !reasons.contains(what)).collect();
    if !unexplained.is_empty() {
        bail!("no test fails, and {REASONS} has no reason for:\n{}", unexplained.join("\n"));
    }
    Ok(total > 0 && all.caught * 100 >= total * LEAST_PERCENT)
}

impl Group {
    /// Makes each change in a copy of the clone.
    fn run(&self, ctx: &Ctx, program: &Path) -> Result<Outcome> {
        let out = ctx.repo.join("out/mutants").join(self.name);
        fs::create_dir_all(&out)?;
        let mut mutants = Command::new(program);
        // Lints stay as they are: a table whose making never ends is a compile error only by one of them.
        mutants.arg("mutants").current_dir(&ctx.repo).arg("--package=perigee-core");
        mutants.args(self.files.iter().map(|file| format!("--file=core/src/{file}")));
        // Disks are sparse files of many GB, and its copies are not.
        mutants.arg("--gitignore=true");
        mutants.arg(format!("--jobs={}", ctx.jobs)).arg("--output").arg(&out);
        // For what is compiled, too: not each change compiles all tests.
        mutants.args(self.tests.iter().map(|test| format!("--cargo-arg=--test={test}")));
        // Each of its copies has a folder of its own for what is compiled; nobody debugs it.
        mutants.env_remove("CARGO_TARGET_DIR").env("CARGO_PROFILE_DEV_DEBUG", "false");
        let status = mutants.status().with_context(|| format!("start {mutants:?}"))?;
        ensure!(
            status.success() || status.code().is_some_and(|code| SURVIVED.contains(&code)),
            "it ended with {status}"
        );

        let list = |name: &str| lines(&out.join("mutants.out").join(format!("{name}.txt")));
        // A loop without an end is seen by whoever waits for it.
        let caught = list("caught")?.len() + list("timeout")?.len();
        let missed = list("missed")?.iter().map(|name| what(name)).collect();
        Ok(Outcome { caught, missed, unviable: list("unviable")?.len() })
    }
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
