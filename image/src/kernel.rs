//! Builds the kernel: Debian's source of Linux 6.12, `make tinyconfig`, and the fragments of `kernel-config/`.
//!
//! An option that a fragment asks for and that the kernel's own rules then drop would be found in orbit; so the
//! build compares what was asked with what came out, and fails with the list of every difference.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::build::{Arch, Ctx, Job, Key};

/// Debian's package of the source, and the archive it installs.
const SOURCE_PACKAGE: &str = "linux-source-6.12";
const SOURCE_ARCHIVE: &str = "/usr/src/linux-source-6.12.tar.xz";
/// How long unpacking and compiling take on two cores.
const UNPACK_USUAL: Duration = Duration::from_secs(30);
const COMPILE_USUAL: Duration = Duration::from_mins(9);
/// The kernel prints when, by whom and where it was built: the same at every build, so that its bytes are.
const IDENTITY: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "perigee"),
    ("KBUILD_BUILD_HOST", "perigee"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// Builds the kernel for `arch`; returns a folder with `kernel` (an EFI application), its `config`, and `version`
/// (its release, as `uname -r` says it).
///
/// Fails when a tool or the source package is missing, when a fragment is wrong, when the final configuration is
/// not what the fragments ask for, and when the compiler fails.
pub fn build(ctx: &Ctx, arch: Arch) -> Result<PathBuf> {
    let package = said_by(Command::new("dpkg-query").args(["-W", "-f=${Version}", SOURCE_PACKAGE]))
        .with_context(|| format!("Debian's {SOURCE_PACKAGE} is needed; image/setup.sh installs it"))?;
    let source = ctx.step("kernel-source", UNPACK_USUAL, Key::new("kernel-source 1").text(&package), |job| {
        job.run(
            Command::new("tar")
                .args(["--extract", "--strip-components=1", "--file", SOURCE_ARCHIVE])
                .arg("--directory")
                .arg(&job.out),
        )
    })?;

    let mut fragments = Vec::new();
    let mut key = Key::new("kernel 1").text(arch.name()).text(&package);
    for tool in ["gcc", "ld"] {
        key = key.text(&said_by(Command::new(format!("{}{tool}", arch.gnu_prefix())).arg("--version"))?);
    }
    for name in fragments_of(arch) {
        let path = ctx.repo.join("kernel-config").join(format!("{name}.config"));
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        // A reason may be reworded without a build.
        for line in text.lines().filter(|line| option(line).is_some()) {
            key = key.text(line);
        }
        fragments.push((format!("kernel-config/{name}.config"), text));
    }
    let asked = Asked::parse(&fragments)?;

    // Objects are kept between builds, so that a changed option recompiles only what reads it.
    let objects = ctx.cache.join("kernel-objects").join(format!("{}-{package}", arch.name()));
    let tree = Tree { arch, source, objects, jobs: ctx.jobs };
    ctx.step(&format!("kernel-{}", arch.name()), COMPILE_USUAL, key, |job| tree.build(job, &fragments, &asked))
}

/// The fragments in `kernel-config/` that make up the kernel for `arch`.
fn fragments_of(arch: Arch) -> [&'static str; 6] {
    ["base", arch.name(), "kubernetes", "network", "storage", "hardening"]
}

/// A source tree, and the folder that its objects for one architecture go to.
struct Tree {
    arch: Arch,
    source: PathBuf,
    objects: PathBuf,
    jobs: usize,
}

impl Tree {
    fn build(&self, job: &Job, fragments: &[(String, String)], asked: &Asked) -> Result<()> {
        fs::create_dir_all(&self.objects).with_context(|| format!("create {}", self.objects.display()))?;
        // Two builds in one folder would spoil each other's objects: the second one waits.
        let lock = self.objects.join("perigee.lock");
        let lock = File::create(&lock).with_context(|| format!("create {}", lock.display()))?;
        lock.lock().context("wait for the kernel build that runs already")?;
        let config = self.objects.join(".config");
        job.run(self.make().arg("tinyconfig"))?;
        let mut merged = fs::read_to_string(&config)?;
        for (_, text) in fragments {
            merged.push_str(text);
        }
        fs::write(&config, merged).with_context(|| format!("write {}", config.display()))?;
        job.run(self.make().arg("olddefconfig"))?;
        let unmet = asked.unmet(&fs::read_to_string(&config)?);
        ensure!(
            unmet.is_empty(),
            "{} options of {} are not in the kernel's final configuration (see what they depend on in {}):\n{}",
            unmet.len(),
            self.arch.name(),
            self.source.display(),
            unmet.iter().map(|u| format!("  {u}\n")).collect::<String>()
        );
        let (target, image) = match self.arch {
            Arch::X86_64 => ("bzImage", "arch/x86/boot/bzImage"),
            Arch::Aarch64 => ("vmlinuz.efi", "arch/arm64/boot/vmlinuz.efi"),
        };
        job.run(self.make().arg(format!("--jobs={}", self.jobs)).arg(target))?;
        for (from, to) in [(image, "kernel"), (".config", "config"), ("include/config/kernel.release", "version")] {
            copy(&self.objects.join(from), &job.out.join(to))?;
        }
        Ok(())
    }

    /// `make`, at low priority (a person may be working beside it) and deaf to the caller's environment, which
    /// Kbuild would otherwise read.
    fn make(&self) -> Command {
        let mut make = Command::new("nice");
        make.args(["-n", "10", "make", "--no-print-directory", "--directory"]).arg(&self.source);
        make.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).env("LC_ALL", "C").envs(IDENTITY);
        make.arg(format!("O={}", self.objects.display()));
        make.arg(format!("ARCH={}", self.arch.kernel())).arg(format!("CROSS_COMPILE={}", self.arch.gnu_prefix()));
        make
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// What `command` writes to its standard output, which must be text.
fn said_by(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    Ok(String::from_utf8(output.stdout).with_context(|| format!("output of {command:?}"))?.trim().to_owned())
}

/// What the fragments ask for: each option with its value (`n` for one that must be off) and its place.
#[derive(Debug)]
struct Asked(BTreeMap<String, (String, String)>);

/// An option that is not what was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Unmet {
    place: String,
    option: String,
    asked: String,
    got: String,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} asked for {}, got {}", self.place, self.option, self.asked, self.got)
    }
}

impl Asked {
    /// Reads fragments, each a name and its text. Every option needs a reason: a comment on the line above it, or
    /// above the group of lines that it is in. No option may be asked for twice.
    fn parse(fragments: &[(String, String)]) -> Result<Self> {
        let mut asked = BTreeMap::<String, (String, String)>::new();
        for (name, text) in fragments {
            let mut reason = false;
            for (number, line) in (1..).zip(text.lines()) {
                let place = format!("{name}:{number}");
                if let Some((option, value)) = option(line) {
                    ensure!(reason, "{place}: {option} has no reason; write it as a comment on the line above");
                    if let Some((_, first)) = asked.insert(option.to_owned(), (value.to_owned(), place.clone())) {
                        bail!("{place}: {option} is asked for already at {first}; keep one of the two");
                    }
                } else if line.starts_with('#') {
                    reason = true;
                } else {
                    ensure!(
                        line.is_empty(),
                        "{place}: expected CONFIG_NAME=value, `# CONFIG_NAME is not set`, a comment or an empty line, found {line:?}"
                    );
                    reason = false;
                }
            }
        }
        Ok(Self(asked))
    }

    /// Every option that `config`, a complete `.config`, does not have as it was asked for. An option that is not
    /// in it is off.
    fn unmet(&self, config: &str) -> Vec<Unmet> {
        let got: BTreeMap<_, _> = config.lines().filter_map(option).collect();
        let got = |option: &str| got.get(option).copied().unwrap_or("n").to_owned();
        self.0
            .iter()
            .map(|(option, (asked, place))| Unmet {
                place: place.clone(),
                option: option.clone(),
                asked: asked.clone(),
                got: got(option),
            })
            .filter(|unmet| unmet.asked != unmet.got)
            .collect()
    }
}

/// The option that a line of a configuration sets, with its value: `n` where the line says that it is not set.
fn option(line: &str) -> Option<(&str, &str)> {
    let (name, value) = match line.strip_prefix("# ") {
        Some(comment) => (comment.strip_suffix(" is not set")?, "n"),
        None => line.split_once('=')?,
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (name.starts_with("CONFIG_") && name.chars().all(is_name)).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Asked> {
        Asked::parse(&[("base.config".to_owned(), text.to_owned())])
    }

    #[test]
    fn options_in_all_three_forms_that_came_out_as_asked_are_met() {
        let asked = parse("# Why.\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x=y\"\n").unwrap();
        assert_eq!(asked.unmet("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x=y\"\n"), []);
        assert_eq!(asked.unmet("CONFIG_A=y\nCONFIG_C=\"x=y\"\n"), [], "what is absent is off");
    }

    #[test]
    fn every_option_that_came_out_otherwise_is_listed_with_its_place() {
        let asked = parse("# Why.\nCONFIG_A=y\n\n# Why not.\n# CONFIG_B is not set\nCONFIG_C=7\n").unwrap();
        let lines: Vec<_> = asked.unmet("CONFIG_B=y\nCONFIG_C=8\n").iter().map(Unmet::to_string).collect();
        assert_eq!(
            lines,
            [
                "base.config:2: CONFIG_A asked for y, got n",
                "base.config:5: CONFIG_B asked for n, got y",
                "base.config:6: CONFIG_C asked for 7, got 8",
            ]
        );
    }

    #[test]
    fn an_option_without_a_reason_is_refused() {
        for text in ["CONFIG_A=y\n", "# Why.\nCONFIG_A=y\n\nCONFIG_B=y\n", "# CONFIG_A is not set\n"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("has no reason"), "{error}");
        }
    }

    #[test]
    fn an_option_asked_for_twice_is_refused_with_both_places() {
        let error = parse("# Why.\nCONFIG_A=y\n# CONFIG_A is not set\n").unwrap_err().to_string();
        assert!(error.contains("base.config:3") && error.contains("base.config:2"), "{error}");
    }

    #[test]
    fn a_line_that_is_nothing_of_a_configuration_is_refused_with_its_place() {
        for line in ["CONFIG_A = y", "config_a=y", "CONFIG_A"] {
            let error = parse(&format!("# Why.\n{line}\n")).unwrap_err().to_string();
            assert!(error.starts_with("base.config:2: expected CONFIG_NAME=value"), "{error}");
        }
    }

    #[test]
    fn the_fragments_of_this_repository_are_well_formed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel-config");
        for arch in Arch::ALL {
            let fragments: Vec<_> = fragments_of(arch)
                .map(|name| (name.to_owned(), fs::read_to_string(folder.join(format!("{name}.config"))).unwrap()))
                .into();
            Asked::parse(&fragments).unwrap();
        }
    }
}
