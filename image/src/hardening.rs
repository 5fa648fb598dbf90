//! What kernel-hardening-checker says of a kernel's configuration. The program is Debian's package of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::build::{Ctx, Key};
use crate::debian::Package;

/// The release that `kernel-config/hardening-report.md` was written against.
const UPSTREAM: &str = "0.6.17.1";

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardening {
    /// Checks that are OK.
    pub ok: usize,
    /// All checks for this architecture.
    pub total: usize,
    /// Options that are not as recommended, without `CONFIG_`.
    pub failed: Vec<String>,
}

/// Checks the configuration of the built `kernel`, which lies beside it.
///
/// # Errors
/// The checker is not to be had, or does not understand the configuration.
pub fn check(ctx: &Ctx, kernel: &Path) -> Result<Hardening> {
    let output = Command::new("python3")
        .args(["-c", "from kernel_hardening_checker import main; main()", "-m", "json", "-c"])
        .arg(kernel.with_file_name("config"))
        .env("PYTHONPATH", checker(ctx)?)
        .output()
        .context("run kernel-hardening-checker with python3")?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("kernel-hardening-checker ended with {}:\n{}", output.status, String::from_utf8_lossy(&said));
    }
    read(&output.stdout)
}

/// The folder with its Python module.
fn checker(ctx: &Ctx) -> Result<PathBuf> {
    let package = Package::binary_of_upstream(ctx, "kernel-hardening-checker", UPSTREAM)?;
    let key = Key::new("1").text(&package.id());
    let done = ctx.step("kernel-hardening-checker", Duration::from_secs(3), key, |job| {
        package.unpack(job, &job.out.join("root"))
    })?;
    Ok(done.join("root/usr/lib/python3/dist-packages"))
}

/// One entry of what `-m json` prints.
#[derive(Deserialize)]
struct Check {
    option_name: String,
    check_result_bool: bool,
}

fn read(json: &[u8]) -> Result<Hardening> {
    let checks: Vec<Check> = serde_json::from_slice(json).context("kernel-hardening-checker's answer")?;
    let failed = checks.iter().filter(|check| !check.check_result_bool);
    let failed: Vec<_> = failed
        .map(|check| check.option_name.strip_prefix("CONFIG_").unwrap_or(&check.option_name).to_owned())
        .collect();
    Ok(Hardening { ok: checks.len() - failed.len(), total: checks.len(), failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_options_are_named() {
        let json = br#"[{"option_name": "CONFIG_BUG", "check_result": "OK", "check_result_bool": true},
                        {"option_name": "CONFIG_AIO", "check_result": "FAIL: \"y\"", "check_result_bool": false}]"#;
        assert_eq!(read(json).unwrap(), Hardening { ok: 1, total: 2, failed: vec!["AIO".to_owned()] });
        assert!(read(b"[+] no JSON").is_err());
    }
}
