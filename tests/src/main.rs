//! What crosses processes: the suite, the fault campaigns, the bench.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::suite::Suite;

mod host;
mod suite;
mod tidy;

/// Exit code for wrong use, as of `perigee`.
const WRONG_USE: u8 = 2;

const USAGE: &str = "usage: perigee-tests test [NAME]
       perigee-tests bench [NAME]
       perigee-tests campaign NAME COUNT [SEED]";

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let passed = match args.as_slice() {
        ["test"] => test(None)?,
        ["test", only] => test(Some((*only).to_owned()))?,
        _ => {
            eprintln!("{USAGE}");
            return Ok(ExitCode::from(WRONG_USE));
        }
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn test(only: Option<String>) -> Result<bool> {
    let repo = repo()?;
    let mut suite = Suite::new(only);
    host::steps(&mut suite, &repo);
    Ok(suite.finish())
}

/// The clone's root: this crate's parent.
fn repo() -> Result<PathBuf> {
    let parent = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ has no parent folder")?;
    Ok(parent.to_owned())
}
