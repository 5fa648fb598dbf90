//! What crosses processes: the suite, the fault campaigns, the bench.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result};
use perigee_image::build::{Arch, Ctx};

use crate::lab::Lab;
use crate::suite::Suite;

mod bench;
mod campaign;
mod card;
mod figures;
mod host;
mod lab;
mod machines;
mod mutants;
mod release;
mod suite;
mod tidy;

/// Exit code for wrong use, as of `perigee`.
const WRONG_USE: u8 = 2;

const USAGE: &str = "usage: perigee-tests test [NAME]
       perigee-tests bench [NAME]
       perigee-tests campaign NAME COUNT [SEED]
       perigee-tests mutants [NAME]";

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let passed = match args.as_slice() {
        ["test"] => test(None)?,
        ["test", only] => test(Some((*only).to_owned()))?,
        ["bench"] => bench(None)?,
        ["bench", only] => bench(Some(only))?,
        ["campaign", name, count] => campaign::run(&mut Lab::new(&repo()?)?, name, number(count)?, None)?,
        ["campaign", name, count, seed] => {
            campaign::run(&mut Lab::new(&repo()?)?, name, number(count)?, Some(number(seed)?))?
        }
        ["mutants"] => mutants::run(&Ctx::new(repo()?)?, None)?,
        ["mutants", only] => mutants::run(&Ctx::new(repo()?)?, Some(only))?,
        _ => {
            eprintln!("{USAGE}");
            return Ok(ExitCode::from(WRONG_USE));
        }
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn test(only: Option<String>) -> Result<bool> {
    let mut lab = Lab::new(&repo()?)?;
    let mut suite = Suite::new(only);
    // What runs machines leaves much of the processors idle, and so does some of what needs none: images are built beside
    // them.
    let [first, second] = Arch::ALL;
    machines::prepare(&suite, &mut lab, first);
    host::steps(&mut suite, lab.ctx());
    machines::image_step(&mut suite, &mut lab, first);
    machines::prepare(&suite, &mut lab, second);
    host::go(&mut suite, lab.ctx());
    machines::steps(&mut suite, &mut lab, first);
    campaign::steps(&mut suite, &mut lab, first);
    machines::image_step(&mut suite, &mut lab, second);
    machines::steps(&mut suite, &mut lab, second);
    campaign::steps(&mut suite, &mut lab, second);
    Ok(suite.finish())
}

fn bench(only: Option<&str>) -> Result<bool> {
    bench::run(&mut Lab::new(&repo()?)?, only)?;
    Ok(true)
}

fn number<T: FromStr>(text: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().with_context(|| format!("{text}: expected a number"))
}

/// The clone's root: this crate's parent.
fn repo() -> Result<PathBuf> {
    let parent = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ has no parent folder")?;
    Ok(parent.to_owned())
}
