//! Debian packages as inputs of build steps: which version apt would fetch, and the unpacked package or source.
//!
//! apt checks signatures and hashes; the suites are those that `image/setup.sh` configured. apt's answers are kept in
//! the cache, since a machine that keeps no index of the package lists needs seconds for each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::build::{Ctx, Job, Key};

/// A Debian package, binary (`nftables:arm64`) or source, in the version that apt offers.
#[derive(Clone, Debug)]
pub struct Package {
    name: String,
    /// Debian's version, as in `1.0.6-2+deb12u2`.
    pub version: String,
}

impl Package {
    /// The binary packages called `names`, in the versions that apt would install.
    pub fn binaries<const N: usize>(ctx: &Ctx, names: [&str; N]) -> Result<[Self; N]> {
        let policy = apt_cache(ctx, &["policy"], &names)?;
        let mut candidates = policy.lines().filter_map(|line| line.trim().strip_prefix("Candidate: "));
        let mut packages = Vec::with_capacity(N);
        for name in names {
            match candidates.next() {
                Some(version) if version != "(none)" => {
                    packages.push(Self { name: name.to_owned(), version: version.to_owned() });
                }
                _ => bail!("apt knows no package {name}; run `make setup` (image/setup.sh) and try again"),
            }
        }
        packages.try_into().map_err(|_| anyhow::anyhow!("apt-cache policy answered for other packages than asked"))
    }

    /// The newest revision of the binary package `name` that packages exactly `upstream`, from any configured suite.
    pub fn binary_of_upstream(ctx: &Ctx, name: &str, upstream: &str) -> Result<Self> {
        let table = apt_cache(ctx, &["madison"], &[name])?;
        let versions = table.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
        // madison lists the newest first; Debian marks a repacked source as in `1.95.0+dfsg1-2`.
        let version = versions
            .into_iter()
            .find(|version| version.strip_prefix(upstream).is_some_and(|rest| rest.starts_with(['+', '-'])));
        let version = version.with_context(|| format!("no configured Debian suite has {name} {upstream}"))?;
        Ok(Self { name: name.to_owned(), version: version.to_owned() })
    }

    /// The source package called `name`, in the newest version among the configured suites.
    pub fn source(ctx: &Ctx, name: &str) -> Result<Self> {
        let shown = apt_cache(ctx, &["showsrc", "--only-source"], &[name])?;
        let mut newest: Option<&str> = None;
        for version in shown.lines().filter_map(|line| line.strip_prefix("Version: ")) {
            if newest.is_none_or(|known| is_newer(version, known)) {
                newest = Some(version);
            }
        }
        let version = newest.with_context(|| {
            format!("apt knows no source package {name}; run `make setup` (image/setup.sh) and try again")
        })?;
        Ok(Self { name: name.to_owned(), version: version.to_owned() })
    }

    /// Name and version in apt's notation, which is also what a step's key takes.
    pub fn id(&self) -> String {
        format!("{}={}", self.name, self.version)
    }

    /// The version of the packaged program: Debian's without epoch and revision.
    pub fn upstream(&self) -> &str {
        let version = self.version.split_once(':').map_or(&*self.version, |(_, rest)| rest);
        version.rsplit_once('-').map_or(version, |(upstream, _)| upstream)
    }

    /// Fetches the binary package and unpacks its files into `root`.
    pub fn unpack(&self, job: &Job, root: &Path) -> Result<()> {
        let download = job.out.join(format!("download-{}", self.name.replace(':', "_")));
        fs::create_dir_all(&download)?;
        job.run(Command::new("apt-get").args(["download", "-qq", &self.id()]).current_dir(&download))?;
        let deb = only_file(&download, "deb")?;
        job.run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(root))?;
        Ok(fs::remove_dir_all(download)?)
    }

    /// Fetches the source package into `work` and unpacks it there, with Debian's patches; returns the tree.
    pub fn unpack_source(&self, job: &Job, work: &Path) -> Result<PathBuf> {
        fs::create_dir_all(work)?;
        job.run(Command::new("apt-get").args(["source", "-qq", "--download-only", &self.id()]).current_dir(work))?;
        // apt has checked the files against the signed index; the uploader's own key is not ours to know.
        let description = only_file(work, "dsc")?;
        let tree = work.join("tree");
        job.run(Command::new("dpkg-source").args(["--no-check", "-x"]).arg(description).arg(&tree))?;
        Ok(tree)
    }
}

/// What `apt-cache` says, from the cache as long as the package lists are the same.
fn apt_cache(ctx: &Ctx, verb: &[&str], names: &[&str]) -> Result<String> {
    let mut key = package_lists(Key::new("1"))?;
    for word in verb.iter().chain(names) {
        key = key.text(word);
    }
    let step = format!("apt-{}", names.first().map_or("lists", |name| name).replace(':', "-"));
    let done = ctx.step(&step, Duration::from_secs(2), key, |job| {
        let output =
            Command::new("apt-cache").args(verb).args(names).env("LC_ALL", "C").output().context("run apt-cache")?;
        Ok(fs::write(job.out.join("answer"), output.stdout)?)
    })?;
    Ok(fs::read_to_string(done.join("answer"))?)
}

/// The identity of all that apt answers from: its lists and its preferences, by name, size and time.
fn package_lists(mut key: Key) -> Result<Key> {
    for folder in ["/var/lib/apt/lists", "/etc/apt/preferences.d"] {
        let mut files = fs::read_dir(folder)
            .with_context(|| format!("read {folder}"))?
            .map(|entry| {
                let entry = entry?;
                let meta = entry.metadata()?;
                let age = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
                Ok((meta.is_file(), format!("{} {} {}", entry.path().display(), meta.len(), age.as_secs())))
            })
            .collect::<Result<Vec<_>>>()?;
        files.sort();
        for (_, file) in files.into_iter().filter(|(is_file, _)| *is_file) {
            key = key.text(&file);
        }
    }
    Ok(key)
}

fn is_newer(version: &str, than: &str) -> bool {
    Command::new("dpkg").args(["--compare-versions", version, "gt", than]).status().is_ok_and(|status| status.success())
}

fn only_file(folder: &Path, extension: &str) -> Result<PathBuf> {
    fs::read_dir(folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|found| found == extension))
        .with_context(|| format!("apt-get left no .{extension} file in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(version: &str) -> Package {
        Package { name: "nftables".to_owned(), version: version.to_owned() }
    }

    #[test]
    fn the_upstream_version_has_neither_epoch_nor_revision() {
        assert_eq!(package("1.0.6-2+deb12u2").upstream(), "1.0.6");
        assert_eq!(package("2:6.2.1+dfsg1-1.1").upstream(), "6.2.1+dfsg1");
        assert_eq!(package("3").upstream(), "3");
    }

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        assert!(is_newer("1.8.10-1", "1.8.6-1"));
        assert!(!is_newer("1.8~rc1-1", "1.8-1"));
    }
}
