//! What the root tree holds that could be used against it: programs, setuid bits, shells.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::tree;

/// Most programs in the image. Each one more is text to load, to patch and to attack.
pub const MAX_ELF: usize = 14;
/// Setuid and setgid.
const SET_ID_BITS: u32 = 0o6000;
/// Names under which a shell would be called.
const SHELLS: [&str; 12] =
    ["sh", "ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "tcsh", "toybox", "zsh"];

/// What was found; paths relative to the tree, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Files that begin as an ELF file does. Symbolic links are not counted.
    pub elf: Vec<PathBuf>,
    /// Files with the setuid or the setgid bit.
    pub setuid: Vec<PathBuf>,
    /// Files and links with a shell's name, and scripts, which would need one.
    pub shell: Vec<PathBuf>,
}

impl Inspection {
    /// Looks at every file below `root`.
    pub fn of(root: &Path) -> Result<Self> {
        let mut inspection = Self::default();
        for path in tree::files(root)? {
            let file = root.join(&path);
            let meta = fs::symlink_metadata(&file)?;
            let magic = if meta.is_file() { first_bytes(&file)? } else { [0; 4] };
            let shell_name = path.file_name().is_some_and(|name| SHELLS.iter().any(|shell| name == *shell));
            if magic == *b"\x7fELF" {
                inspection.elf.push(path.clone());
            }
            if meta.is_file() && meta.permissions().mode() & SET_ID_BITS != 0 {
                inspection.setuid.push(path.clone());
            }
            if shell_name || magic.starts_with(b"#!") {
                inspection.shell.push(path);
            }
        }
        Ok(inspection)
    }

    /// Fails with the files' names when the image may not fly.
    pub fn check(&self) -> Result<()> {
        let Self { elf, setuid, shell } = self;
        ensure!(elf.len() <= MAX_ELF, "{} ELF files in the image, at most {MAX_ELF} may be: {elf:?}", elf.len());
        ensure!(setuid.is_empty(), "setuid files in the image: {setuid:?}");
        ensure!(shell.is_empty(), "shells or scripts in the image, which has no shell: {shell:?}");
        Ok(())
    }
}

fn first_bytes(file: &Path) -> Result<[u8; 4]> {
    let mut bytes = Vec::with_capacity(4);
    File::open(file)
        .and_then(|open| open.take(4).read_to_end(&mut bytes))
        .with_context(|| format!("read {}", file.display()))?;
    bytes.resize(4, 0);
    Ok([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;
    use crate::tree::{PROGRAM, PUBLIC, Tree};

    #[test]
    fn programs_setuid_files_and_shells_are_found_by_what_they_are() {
        let scratch = Scratch::new("inspect");
        let tree = Tree::new(scratch.path().join("root")).unwrap();
        tree.file("/usr/bin/kube", b"\x7fELF and more", PROGRAM).unwrap();
        tree.link("/usr/bin/kubelet", "kube").unwrap();
        tree.file("/usr/bin/su", b"\x7fELF", 0o4755).unwrap();
        tree.file("/etc/script", "#!/usr/bin/env lua", PUBLIC).unwrap();
        tree.link("/bin/sh", "../usr/bin/kube").unwrap();
        tree.file("/etc/short", "#", PUBLIC).unwrap();
        let found = Inspection::of(tree.root()).unwrap();
        assert_eq!(found.elf, [Path::new("usr/bin/kube"), Path::new("usr/bin/su")]);
        assert_eq!(found.setuid, [Path::new("usr/bin/su")]);
        assert_eq!(found.shell, [Path::new("bin/sh"), Path::new("etc/script")]);
        assert!(found.check().unwrap_err().to_string().contains("usr/bin/su"));
    }

    #[test]
    fn one_program_too_many_stops_the_build() {
        let mut inspection = Inspection { elf: vec![PathBuf::from("x"); MAX_ELF], ..Inspection::default() };
        inspection.check().unwrap();
        inspection.elf.push(PathBuf::from("y"));
        assert!(inspection.check().unwrap_err().to_string().starts_with("15 ELF files"));
    }
}
