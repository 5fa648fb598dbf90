//! Secure Boot: loader and kernel signed for firmware that believes the user's own key.
//!
//! Firmware checks both: the loader when it starts it, the kernel when the loader hands it on. What Perigee itself checks,
//! slots by their Ed25519 signature, does not depend on that. The key is never stored: `PERIGEE_DB_KEY` names its file (PEM)
//! and `PERIGEE_DB_CERT` its certificate's (X.509, PEM), which firmware has in `db`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::build::{Ctx, Key};

const KEY: &str = "PERIGEE_DB_KEY";
const CERTIFICATE: &str = "PERIGEE_DB_CERT";

/// A key that firmware believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DbKey {
    /// The private key's file.
    pub key: PathBuf,
    /// The certificate's file.
    pub certificate: PathBuf,
}

impl DbKey {
    /// The one that the environment names, if it names one.
    ///
    /// # Errors
    /// It names half of one.
    pub fn from_environment() -> Result<Option<Self>> {
        Self::of(std::env::var_os(KEY).map(PathBuf::from), std::env::var_os(CERTIFICATE).map(PathBuf::from))
    }

    fn of(key: Option<PathBuf>, certificate: Option<PathBuf>) -> Result<Option<Self>> {
        match (key, certificate) {
            (None, None) => Ok(None),
            (Some(key), Some(certificate)) => Ok(Some(Self { key, certificate })),
            (Some(_), None) => bail!("{KEY} is set and {CERTIFICATE} is not: name the certificate's file, PEM"),
            (None, Some(_)) => bail!("{CERTIFICATE} is set and {KEY} is not: name the key's file, PEM"),
        }
    }

    /// A signed copy of an EFI application. Kept by the certificate: what the key is, nothing tells.
    ///
    /// # Errors
    /// It is no EFI application; the key is not the certificate's.
    pub fn sign(&self, ctx: &Ctx, application: &Path) -> Result<PathBuf> {
        let key = ctx.input(Key::new("signed 1"), application)?.path(&self.certificate)?;
        let name = application.file_name().context("an application has a name")?;
        let done = ctx.step("signed", Duration::from_secs(1), key, |job| {
            let mut sign = Command::new("sbsign");
            sign.arg("--key").arg(&self.key).arg("--cert").arg(&self.certificate);
            job.run(sign.arg("--output").arg(job.out.join(name)).arg(application))
        })?;
        Ok(done.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_key_is_a_mistake_with_its_cure() {
        let path = || Some(PathBuf::from("file"));
        assert_eq!(DbKey::of(None, None).unwrap(), None);
        assert!(DbKey::of(path(), path()).unwrap().is_some());
        assert!(DbKey::of(path(), None).unwrap_err().to_string().contains("PERIGEE_DB_CERT is not"));
        assert!(DbKey::of(None, path()).unwrap_err().to_string().contains("PERIGEE_DB_KEY is not"));
    }
}
