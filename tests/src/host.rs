//! Steps that need no machine: tidiness, format, lints, unit tests of all languages, dependencies.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use perigee_image::build::{self, Ctx};
use perigee_image::{go, native};

use crate::suite::Suite;
use crate::tidy;

/// How much of a failed command's output is shown, bytes.
const TAIL_BYTES: usize = 8 * 1024;

/// Runs those of the clone of `ctx` that need nothing of an image.
pub fn steps(suite: &mut Suite, ctx: &Ctx) {
    let repo = &ctx.repo;
    suite.step("tidy", || tidy::run(repo));
    suite.step("fmt", || run(cargo(repo).args(["fmt", "--all", "--check"])).map(drop));
    suite.step("clippy", || {
        run(cargo(repo).args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])).map(drop)
    });
    suite.group("unit", |checks| {
        let output = run(cargo(repo).args(["test", "--workspace", "--no-fail-fast"]))?;
        checks.add_passed(passed(&output));
        Ok(())
    });
    suite.step("deny", || {
        let program = native::cargo_deny(ctx)?;
        run(Command::new(program).current_dir(repo).args(["check", "bans", "licenses", "sources"])).map(drop)
    });
}

/// Tests our own Go code. Most of what that compiles an image for this host has, too: it is not to run beside its build.
pub fn go(suite: &mut Suite, ctx: &Ctx) {
    suite.step("go", || go::test(ctx));
}

fn cargo(repo: &Path) -> Command {
    let mut command = build::cargo(repo);
    command.env("CARGO_TERM_QUIET", "true");
    command
}

/// Runs `command`; gives what it printed, or an error with the end of it.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        let from = said.ceil_char_boundary(said.len().saturating_sub(TAIL_BYTES));
        bail!("{command:?} ended with {}:\n{}", output.status, &said[from..]);
    }
    Ok(said)
}

/// How many tests passed: libtest ends each program's run with `test result: ok. N passed; …`.
fn passed(output: &str) -> u32 {
    let results = output.lines().filter_map(|line| line.strip_prefix("test result: ok. "));
    results.filter_map(|rest| rest.split_once(" passed")?.0.parse::<u32>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_of_all_programs_are_added_up() {
        let output = "running 2 tests\n..\ntest result: ok. 2 passed; 0 failed; 0 ignored\n\n\
                      test result: ok. 17 passed; 0 failed; 1 ignored\ntest result: FAILED. 3 passed; 1 failed\n";
        assert_eq!(passed(output), 19);
    }

    #[test]
    fn a_failed_command_shows_the_end_of_its_output() {
        let error = run(Command::new("sh").args(["-c", "echo said; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("said"), "{error}");
    }
}
