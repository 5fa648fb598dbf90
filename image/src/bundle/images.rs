//! Images of what was built, so that a later one can be sent as a patch.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

/// How many are kept, the newest: a node that is further behind gets a bundle that needs none.
const KEPT: usize = 4;

/// The folder of a mission's images in `out/<target>/<mission>`.
pub fn folder(mission: &Path) -> PathBuf {
    mission.join("images")
}

/// Keeps a plain image, by the name of its version.
///
/// # Errors
/// It cannot be read or written.
pub fn keep(folder: &Path, version: &str, image: &[u8]) -> Result<()> {
    let path = folder.join(version);
    if fs::read(&path).is_ok_and(|found| found == image) {
        return Ok(());
    }
    let partial = folder.join("partial");
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&partial, image))
        .and_then(|()| fs::rename(&partial, &path))
        .with_context(|| format!("keep {}", path.display()))?;
    for old in kept(folder)?.into_iter().skip(KEPT) {
        fs::remove_file(folder.join(&old)).with_context(|| format!("remove image {old}"))?;
    }
    Ok(())
}

/// The versions that are kept, the newest first.
///
/// # Errors
/// The folder cannot be read.
pub fn kept(folder: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("read {}; `perigee build` makes it", folder.display()))?;
    let mut found: Vec<(SystemTime, String)> = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "partial" {
            found.push((entry.metadata()?.modified()?, name));
        }
    }
    found.sort();
    Ok(found.into_iter().rev().map(|(_, name)| name).collect())
}

/// The image that a patch is for: the one called `base`, the newest other than `new` without a name, none for `none`.
///
/// # Errors
/// There is no such image: tells which there are.
pub fn base(folder: &Path, new: &str, base: Option<&str>) -> Result<Option<String>> {
    let kept = kept(folder)?;
    match base {
        Some("none") => Ok(None),
        None => Ok(kept.into_iter().find(|version| version != new)),
        Some(base) if kept.iter().any(|version| version == base) => Ok(Some(base.to_owned())),
        Some(base) => bail!("no image {base} in {}; there is: none, {}", folder.display(), kept.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn the_newest_four_are_kept_and_the_one_before_is_the_base() {
        let scratch = Scratch::new("images");
        let folder = folder(scratch.path());
        for number in 1..=6 {
            keep(&folder, &format!("1.0.{number}"), &[number; 9]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(kept(&folder).unwrap(), ["1.0.6", "1.0.5", "1.0.4", "1.0.3"]);
        assert_eq!(fs::read(folder.join("1.0.6")).unwrap(), [6; 9]);
        assert_eq!(base(&folder, "1.0.6", None).unwrap().as_deref(), Some("1.0.5"));
        assert_eq!(base(&folder, "1.0.6", Some("1.0.3")).unwrap().as_deref(), Some("1.0.3"));
        assert_eq!(base(&folder, "1.0.6", Some("none")).unwrap(), None);
        let error = base(&folder, "1.0.6", Some("1.0.1")).unwrap_err().to_string();
        assert!(error.ends_with("there is: none, 1.0.6, 1.0.5, 1.0.4, 1.0.3"), "{error}");
    }
}
