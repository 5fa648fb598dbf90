//! A folder that becomes a file system: what is put in has the mode that is said, whatever the umask.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Mode of programs and folders.
pub const PROGRAM: u32 = 0o755;
/// Mode of what all may read.
pub const PUBLIC: u32 = 0o644;
/// Mode of what only root may read.
pub const SECRET: u32 = 0o600;

/// The folder. Paths inside begin with `/`; folders on the way are made.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// An empty tree in a new folder `root`.
    pub fn new(root: PathBuf) -> Result<Self> {
        let tree = Self { root };
        tree.dir("/")?;
        Ok(tree)
    }

    /// Where the tree stands on the host.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `path` of the tree stands on the host.
    pub fn host(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A folder, with those above it.
    pub fn dir(&self, path: &str) -> Result<()> {
        let mut folder = self.root.clone();
        for part in std::iter::once("").chain(path.split('/').filter(|part| !part.is_empty())) {
            folder.push(part);
            if !folder.is_dir() {
                fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
                chmod(&folder, PROGRAM)?;
            }
        }
        Ok(())
    }

    /// A file with `contents`.
    pub fn file(&self, path: &str, contents: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let host = self.place(path)?;
        fs::write(&host, contents).with_context(|| format!("write {}", host.display()))?;
        chmod(&host, mode)
    }

    /// A file with what `from`, on the host, has.
    pub fn copy(&self, from: &Path, path: &str, mode: u32) -> Result<()> {
        let host = self.place(path)?;
        fs::copy(from, &host).with_context(|| format!("copy {} to {path}", from.display()))?;
        chmod(&host, mode)
    }

    /// A symbolic link.
    pub fn link(&self, path: &str, target: &str) -> Result<()> {
        let host = self.place(path)?;
        symlink(target, &host).with_context(|| format!("link {path} to {target}"))
    }

    fn place(&self, path: &str) -> Result<PathBuf> {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.dir(folder)?;
        }
        Ok(self.host(path))
    }
}

fn chmod(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, PermissionsExt::from_mode(mode))
        .with_context(|| format!("set mode of {}", path.display()))
}

/// Regular files and links below `folder`, relative to it, in the order of their names.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(folder, Path::new(""), &mut found)?;
    found.sort();
    Ok(found)
}

fn walk(folder: &Path, relative: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let here = folder.join(relative);
    for entry in fs::read_dir(&here).with_context(|| format!("read {}", here.display()))? {
        let entry = entry?;
        let path = relative.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            walk(folder, &path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}
