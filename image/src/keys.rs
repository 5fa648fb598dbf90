//! Who signs slots.
//!
//! A clone makes a key of its own, for development. A release is signed by a key from outside, which is never stored:
//! `PERIGEE_SLOT_KEY` names a file with its 32 bytes, or `PERIGEE_SLOT_SIGNER` a program that gets the bytes on its
//! standard input and writes the signature's 64 to its output; then `PERIGEE_SLOT_PUBLIC_KEY` names the public key's
//! file.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use perigee_core::slot::header::SIGNATURE_BYTES;

const KEY: &str = "PERIGEE_SLOT_KEY";
const SIGNER: &str = "PERIGEE_SLOT_SIGNER";
const PUBLIC: &str = "PERIGEE_SLOT_PUBLIC_KEY";

/// A key that can sign, or somebody who has it.
#[derive(Debug)]
pub struct SlotKey {
    verifying: VerifyingKey,
    signer: By,
}

#[derive(Debug)]
enum By {
    Key(SigningKey),
    Program(PathBuf),
}

impl SlotKey {
    /// The key from outside, if there is one; else the clone's own in `folder`, made when it is missing.
    pub fn find(folder: &Path) -> Result<Self> {
        let from = |name| std::env::var_os(name).map(PathBuf::from);
        if let Some(program) = from(SIGNER) {
            let public =
                from(PUBLIC).with_context(|| format!("{SIGNER} is set, and {PUBLIC} is not: name its file"))?;
            let verifying = VerifyingKey::from_bytes(&read(&public)?)
                .with_context(|| format!("{}: not an Ed25519 public key", public.display()))?;
            return Ok(Self { verifying, signer: By::Program(program) });
        }
        let key = match from(KEY) {
            Some(path) => read(&path)?,
            None => own(folder)?,
        };
        let key = SigningKey::from_bytes(&key);
        Ok(Self { verifying: key.verifying_key(), signer: By::Key(key) })
    }

    /// What checks its signatures.
    pub fn verifying(&self) -> &VerifyingKey {
        &self.verifying
    }

    /// Signs.
    pub fn sign(&self, bytes: &[u8]) -> Result<[u8; SIGNATURE_BYTES]> {
        match &self.signer {
            By::Key(key) => Ok(key.sign(bytes).to_bytes()),
            By::Program(program) => sign_by(program, bytes).with_context(|| format!("{SIGNER}={}", program.display())),
        }
    }
}

fn sign_by(program: &Path, bytes: &[u8]) -> Result<[u8; SIGNATURE_BYTES]> {
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("the program has no input")?.write_all(bytes)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "ended with {}", output.status);
    let length = output.stdout.len();
    output.stdout.try_into().ok().with_context(|| format!("wrote {length} bytes, expected {SIGNATURE_BYTES}"))
}

fn read(path: &Path) -> Result<[u8; 32]> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let length = bytes.len();
    bytes.try_into().ok().with_context(|| format!("{} has {length} bytes, expected 32", path.display()))
}

fn own(folder: &Path) -> Result<[u8; 32]> {
    let path = folder.join("slot.key");
    if !path.exists() {
        let mut key = [0; 32];
        let random = Path::new("/dev/urandom");
        std::io::Read::read_exact(&mut fs::File::open(random)?, &mut key).context("read /dev/urandom")?;
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        crate::pki::write(&path, &key, true)?;
    }
    read(&path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn a_clone_makes_its_key_once() {
        let scratch = Scratch::new("keys");
        let first = own(scratch.path()).unwrap();
        assert_eq!(own(scratch.path()).unwrap(), first);
        fs::write(scratch.path().join("slot.key"), "short").unwrap();
        let error = own(scratch.path()).unwrap_err().to_string();
        assert!(error.ends_with("slot.key has 5 bytes, expected 32"), "{error}");
    }

    #[test]
    fn a_signer_that_fails_or_writes_too_little_is_an_error() {
        for (program, expected) in [("/bin/false", "ended with"), ("/bin/true", "wrote 0 bytes, expected 64")] {
            let error = format!("{:#}", sign_by(Path::new(program), b"x").unwrap_err());
            assert!(error.contains(expected) || error.contains("pipe"), "{error}");
        }
    }
}
