//! Cached build steps: each is named, keyed by the hash of everything it reads, and shows its progress.
//!
//! A step's result is a folder in the cache, `<name>-<key>`, that exists only when it is complete: it is
//! made beside its final place and renamed. Deleting the cache only costs time.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

/// How often a long step says that it is still working.
const PROGRESS_PERIOD: Duration = Duration::from_secs(20);
/// How much of a failed step's log is shown.
const LOG_TAIL_BYTES: u64 = 6 * 1024;

/// How the variables begin by which cargo tells a program its package.
const STARTED_AS: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// A machine architecture that Perigee is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// PC-like boards, QEMU's q35.
    X86_64,
    /// 64-bit Arm boards, QEMU's virt.
    Aarch64,
}

impl Arch {
    /// Both, in the order in which they are built.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// The name that `TARGET=` takes and that folders in `out/` have.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The architecture called `name`, if it is one of ours.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arch| arch.name() == name)
    }

    /// Rust's target triple.
    pub const fn rust_target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Go's GOARCH.
    pub const fn goarch(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Debian's name, and the OCI platform's (`linux/amd64`), which is the same.
    pub const fn debian(self) -> &'static str {
        self.goarch()
    }

    /// The kernel's ARCH.
    pub const fn kernel(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Prefix of the GNU tool chain, as in `<prefix>gcc`.
    pub const fn gnu_prefix(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu-",
            Self::Aarch64 => "aarch64-linux-gnu-",
        }
    }
}

/// Where the sources are, where results are kept, and how many jobs may run at once.
#[derive(Clone, Debug)]
pub struct Ctx {
    /// The clone's root.
    pub repo: PathBuf,
    /// Results and logs, outside the clone.
    pub cache: PathBuf,
    /// Parallel jobs for compilers.
    pub jobs: usize,
}

impl Ctx {
    /// A context for the clone at `repo`; the cache is `$PERIGEE_CACHE`, or `~/.cache/perigee`.
    pub fn new(repo: PathBuf) -> Result<Self> {
        let cache = match std::env::var_os("PERIGEE_CACHE") {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(std::env::var_os("HOME").context("neither PERIGEE_CACHE nor HOME is set")?)
                .join(".cache/perigee"),
        };
        fs::create_dir_all(cache.join("log")).with_context(|| format!("create {}", cache.display()))?;
        let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Self { repo, cache, jobs })
    }

    /// Adds an input to `key`: a step's result by its folder's name, which has the hash of all that it was made from;
    /// any other file by its contents.
    pub fn input(&self, key: Key, path: &Path) -> Result<Key> {
        match self.in_result(path) {
            Some(inside) => Ok(key.text(inside)),
            None => key.path(path),
        }
    }

    /// The path from the cache on, if it is a step's result or in one.
    fn in_result<'a>(&self, path: &'a Path) -> Option<&'a str> {
        path.strip_prefix(&self.cache).ok().and_then(Path::to_str).filter(|inside| is_result(inside))
    }

    /// Runs `work` unless the cache holds the result for `key`; returns the result's folder.
    ///
    /// `usual` is how long the step takes on two cores, for the progress line.
    pub fn step(
        &self,
        name: &str,
        usual: Duration,
        key: Key,
        work: impl FnOnce(&Job) -> Result<()>,
    ) -> Result<PathBuf> {
        let done = self.cache.join(format!("{name}-{}", key.finish()));
        if done.is_dir() {
            return Ok(done);
        }
        let partial = self.cache.join(format!("{name}.partial-{}", std::process::id()));
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)?;
        self.always(name, usual, &partial, work)?;
        match fs::rename(&partial, &done) {
            // Another build was faster; the same inputs gave it the same bytes.
            Err(_) if done.is_dir() => fs::remove_dir_all(&partial)?,
            renamed => renamed.with_context(|| format!("keep {}", done.display()))?,
        }
        Ok(done)
    }

    /// Runs `work` each time, with a step's progress and log: for tools that know themselves what is stale in `out`.
    pub fn always(&self, name: &str, usual: Duration, out: &Path, work: impl FnOnce(&Job) -> Result<()>) -> Result<()> {
        ensure!(self.in_result(out).is_none(), "{} would be taken for the result of a step", out.display());
        let log = self.cache.join("log").join(format!("{name}.log"));
        File::create(&log).with_context(|| format!("create {}", log.display()))?;
        println!("build: {name} (usually {})", human(usual));
        let started = Instant::now();
        let job = Job { name: name.to_owned(), usual, out: out.to_owned(), log, started };
        work(&job).with_context(|| format!("build step {name}"))?;
        println!("build: {name} done in {}", human(started.elapsed()));
        Ok(())
    }
}

/// `cargo` in the clone `repo`, whoever has started this program.
///
/// A cargo that did has told it which package it is; ring's build script asks for that, and would compile ring anew, and all
/// that is made of it, for each program that calls cargo.
pub fn cargo(repo: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(repo);
    for (name, _) in std::env::vars_os() {
        if STARTED_AS.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// One running step: where its result goes, and where its commands' output goes.
#[derive(Debug)]
pub struct Job {
    name: String,
    usual: Duration,
    /// The folder that becomes the step's result.
    pub out: PathBuf,
    log: PathBuf,
    started: Instant,
}

impl Job {
    /// Runs `command` with its output in the step's log; an error shows the log's tail.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let log = File::options().append(true).open(&self.log)?;
        let shown = format!("{command:?}");
        let shown =
            if shown.len() > 400 { format!("{} …", shown.chars().take(400).collect::<String>()) } else { shown };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {shown}"))?;
        let (tx, rx) = std::sync::mpsc::channel::<()>();
        let status = std::thread::scope(|scope| {
            scope.spawn(move || {
                while rx.recv_timeout(PROGRESS_PERIOD) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    self.say_progress();
                }
            });
            let status = child.wait();
            drop(tx);
            status
        })?;
        if !status.success() {
            bail!("{shown}\n  ended with {status}; the end of {}:\n{}", self.log.display(), self.log_tail()?);
        }
        Ok(())
    }

    fn say_progress(&self) {
        let elapsed = self.started.elapsed();
        let percent = (100.0 * elapsed.as_secs_f64() / self.usual.as_secs_f64().max(1.0)).min(99.0);
        println!("build: {} … {} of usually {} ({percent:.0} %)", self.name, human(elapsed), human(self.usual));
    }

    fn log_tail(&self) -> Result<String> {
        let mut file = File::open(&self.log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(String::from_utf8_lossy(&tail).into_owned())
    }
}

/// The hash of everything that a step reads.
#[derive(Clone, Debug)]
pub struct Key(Sha256);

impl Key {
    /// A key that begins with the step's own version: change `recipe` when the step's code changes its result.
    pub fn new(recipe: &str) -> Self {
        Self(Sha256::new()).text(recipe)
    }

    /// Adds a piece of text: a version, a flag, an architecture.
    pub fn text(mut self, text: &str) -> Self {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
        self
    }

    /// Adds a file's contents, or every file below a folder with its relative path.
    pub fn path(self, path: &Path) -> Result<Self> {
        self.walk(path, "")
    }

    fn walk(mut self, path: &Path, relative: &str) -> Result<Self> {
        let meta = fs::metadata(path).with_context(|| format!("read {}", path.display()))?;
        if meta.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(path)?.map(|entry| entry.map(|e| e.file_name())).collect::<Result<_, _>>()?;
            names.sort();
            for name in names {
                let name = name.to_string_lossy();
                self = self.walk(&path.join(&*name), &format!("{relative}/{name}"))?;
            }
            return Ok(self);
        }
        let contents = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        self = self.text(relative);
        self.0.update((contents.len() as u64).to_le_bytes());
        self.0.update(&contents);
        Ok(self)
    }

    /// The key as 16 hexadecimal digits.
    pub fn finish(self) -> String {
        self.0.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whether a path inside the cache begins with the folder of a step's result: `<name>-<key>`.
fn is_result(inside: &str) -> bool {
    let folder = inside.split('/').next().unwrap_or_default();
    folder.rsplit_once('-').is_some_and(|(_, key)| key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Minutes and seconds, for people.
pub fn human(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {:02} s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_starts_a_build_does_not_change_it() {
        let cargo = cargo(Path::new("/repo"));
        let removed: Vec<_> = cargo.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        // This test is a program that cargo has started.
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"] {
            assert!(std::env::var_os(name).is_some() && removed.iter().any(|found| *found == name), "{name}");
        }
    }

    #[test]
    fn a_steps_result_is_known_by_the_key_in_its_folders_name() {
        assert!(is_result("kube-x86_64-2c25d1d16d07b933/kube"));
        for other in
            ["target/debug/x", "flight/x86_64-unknown-linux-gnu/flight/init", "kernel-x86_64.partial-13637/kernel"]
        {
            assert!(!is_result(other), "{other}");
        }
    }

    #[test]
    fn what_changes_each_time_may_not_look_like_a_result() {
        let scratch = crate::testing::Scratch::new("build-always");
        let ctx = Ctx { repo: scratch.path().into(), cache: scratch.path().join("cache"), jobs: 1 };
        fs::create_dir_all(ctx.cache.join("log")).unwrap();
        let always = |folder: &str| ctx.always("x", Duration::ZERO, &ctx.cache.join(folder), |_| Ok(()));
        always("flight/2c25d1d16d07b933").unwrap();
        let error = always("flight-2c25d1d16d07b933").unwrap_err().to_string();
        assert!(error.ends_with("would be taken for the result of a step"), "{error}");
    }

    #[test]
    fn of_two_builds_of_one_step_both_end_well_and_one_result_stays() {
        let scratch = crate::testing::Scratch::new("build-two");
        let ctx = Ctx { repo: scratch.path().into(), cache: scratch.path().join("cache"), jobs: 1 };
        fs::create_dir_all(ctx.cache.join("log")).unwrap();
        let result = |job: &Job| Ok(fs::write(job.out.join("result"), "same")?);
        let done = ctx.step("x", Duration::ZERO, Key::new("x"), |job| {
            let faster = ctx.cache.join(format!("x-{}", Key::new("x").finish()));
            fs::create_dir(&faster)?;
            fs::write(faster.join("result"), "same")?;
            result(job)
        });
        assert_eq!(fs::read_to_string(done.unwrap().join("result")).unwrap(), "same");
        let left = fs::read_dir(&ctx.cache).unwrap().count();
        assert_eq!(left, 2, "the result and the logs");
    }

    #[test]
    fn a_key_tells_apart_what_is_split_differently() {
        assert_ne!(Key::new("a").text("bc").finish(), Key::new("ab").text("c").finish());
    }
}
