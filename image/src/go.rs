//! The Kubernetes parts, built from the Go modules that `rootfs/go` pins: static, stripped, reproducible.
//!
//! A version stands in one place, the `go.mod` of its folder: it is read from there for what a program says of itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::build::{Arch, Ctx, Job, Key};

/// The compiler, everywhere the same: another one makes other bytes. A Go of another version downloads it.
const TOOLCHAIN: &str = "go1.26.8";
/// The oldest Go that can download another (`GOTOOLCHAIN`, go.dev/doc/toolchain).
const OLDEST_THAT_DOWNLOADS: (u32, u32) = (1, 21);

/// Where `gen.go` works, within a step.
const OVERLAY: &str = "overlay";

/// What the image takes from `rootfs/go`, each a static executable.
#[derive(Clone, Debug)]
pub struct GoParts {
    /// kubelet, kube-apiserver, kube-controller-manager, kube-scheduler and kube-proxy, by argv\[0\].
    pub kube: PathBuf,
    /// containerd and image-import, by argv\[0\].
    pub containerd: PathBuf,
    /// containerd-shim-runc-v2.
    pub shim: PathBuf,
    /// The OCI runtime.
    pub runc: PathBuf,
    /// The cluster's store.
    pub etcd: PathBuf,
    /// bridge, host-local, loopback, portmap and ptp, by argv\[0\].
    pub cni: PathBuf,
    /// The cluster's DNS, for a pod image.
    pub coredns: PathBuf,
}

/// Builds the parts for `arch`.
pub fn build(ctx: &Ctx, arch: Arch) -> Result<GoParts> {
    let go = Go::find()?;
    let program = |program: &Program| go.program(ctx, program, Some(arch));
    Ok(GoParts {
        kube: program(&KUBE)?,
        containerd: program(&CONTAINERD)?,
        shim: program(&SHIM)?,
        runc: program(&RUNC)?,
        etcd: program(&ETCD)?,
        cni: program(&CNI)?,
        coredns: program(&COREDNS)?,
    })
}

/// Builds the host's `kubectl`, from the same modules as the cluster.
pub fn kubectl(ctx: &Ctx) -> Result<PathBuf> {
    Go::find()?.program(ctx, &KUBECTL, None)
}

/// Makes the file that an empty cluster's store is filled from (docs/formats.md): the same for every architecture.
pub fn seed(ctx: &Ctx) -> Result<PathBuf> {
    let go_mod = |program: &Program| {
        let path = program.folder(ctx).join("go.mod");
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    check_seed(&go_mod(&SEED)?, &go_mod(&KUBE)?)?;
    let tool = Go::find()?.program(ctx, &SEED, None)?;
    let key = ctx.input(Key::new("1"), &tool)?;
    let done = ctx
        .step("seed-file", Duration::from_secs(1), key, |job| job.run(Command::new(&tool).arg(job.out.join("seed"))))?;
    Ok(done.join("seed"))
}

/// Fails unless the seed is made from the same Kubernetes as the API server that finds it: of an older one, the API
/// server would only have more to do; of a newer one, it might not read it.
fn check_seed(seed: &str, kube: &str) -> Result<()> {
    for line in seed.lines().map(str::trim).filter(|line| line.starts_with("k8s.io/") && line.contains("=>")) {
        ensure!(
            kube.lines().any(|other| other.trim() == line),
            "rootfs/go/seed/go.mod has `{line}`, rootfs/go/kube/go.mod has not"
        );
    }
    let kubernetes = |go_mod| version_of(go_mod, "k8s.io/kubernetes");
    ensure!(
        kubernetes(seed)? == kubernetes(kube)?,
        "rootfs/go/seed is of Kubernetes {}, rootfs/go/kube of {}: expected the same",
        kubernetes(seed)?,
        kubernetes(kube)?
    );
    Ok(())
}

/// Checks the format of our own Go code and tests what has logic; a main that only calls upstream's is checked by
/// building it. Only what imports no upstream is vetted: else all of upstream is vetted first, for minutes.
pub fn test(ctx: &Ctx) -> Result<()> {
    let go = Go::find()?;
    let sources = ctx.repo.join("rootfs/go");
    let root = said(go.command(&sources).args(["env", "GOROOT"]))?;
    let unformatted = said(Command::new(format!("{root}/bin/gofmt")).arg("-l").arg(&sources))?;
    ensure!(unformatted.is_empty(), "not as gofmt writes it (cure: `gofmt -w rootfs/go`):\n{unformatted}");
    let (ours, others) = (&["vet", "test"][..], &["test"][..]);
    for (program, verbs) in
        [(&NOTIFY, ours), (&SEEDFILE, ours), (&CONTAINERD, others), (&ETCD, others), (&SEED, others)]
    {
        let folder = program.folder(ctx);
        let mut key = go.key(program)?.path(&folder)?;
        for other in own_modules(&fs::read_to_string(folder.join("go.mod"))?, &folder) {
            key = key.path(&other)?;
        }
        ctx.step(&format!("go-test-{}", program.name), Duration::from_secs(30), key, |job| {
            for verb in verbs {
                let mut command = go.command(&folder);
                command.arg(verb).args(program.flags());
                if *verb == "test" {
                    command.arg("-vet=off");
                }
                job.run(command.arg("./..."))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// How one program is built.
struct Program {
    /// The step's and the executable's name.
    name: &'static str,
    /// Its folder below `rootfs/go`, with `go.mod` and `go.sum`.
    module: &'static str,
    /// What is built: `.` is our main, a path is upstream's own.
    package: &'static str,
    /// The module whose version the program has, and the variables that upstream's build sets from it.
    stamp: Option<(&'static str, &'static [(&'static str, Part)])>,
    /// Build tags.
    tags: &'static str,
    /// Whether it has C in it.
    cgo: bool,
    /// Time on two cores with no compiled package in Go's own cache, seconds.
    usual_s: u64,
}

/// Which part of `v1.37.2` a variable has.
#[derive(Clone, Copy)]
enum Part {
    Whole,
    Major,
    Minor,
}

/// Without cgo these say nothing new; they keep the C resolver out of what has it.
/// grpcnotrace: /debug/requests of gRPC needs html/template, which keeps every exported method of every type in.
const COMMON_TAGS: &str = "netgo,osusergo,grpcnotrace";

const KUBERNETES: Option<(&str, &[(&str, Part)])> = Some((
    "k8s.io/kubernetes",
    &[
        ("k8s.io/component-base/version.gitVersion", Part::Whole),
        ("k8s.io/component-base/version.gitMajor", Part::Major),
        ("k8s.io/component-base/version.gitMinor", Part::Minor),
        ("k8s.io/client-go/pkg/version.gitVersion", Part::Whole),
        ("k8s.io/client-go/pkg/version.gitMajor", Part::Major),
        ("k8s.io/client-go/pkg/version.gitMinor", Part::Minor),
    ],
));

const CONTAINERD_VERSION: Option<(&str, &[(&str, Part)])> = Some((
    "github.com/containerd/containerd/v2",
    &[("github.com/containerd/containerd/v2/version.Version", Part::Whole)],
));

/// What the other programs have in common.
const PLAIN: Program = Program { name: "", module: "", package: ".", stamp: None, tags: "", cgo: false, usual_s: 30 };

const NOTIFY: Program = Program { name: "notify", module: "notify", ..PLAIN };

const SEEDFILE: Program = Program { name: "seedfile", module: "seedfile", ..PLAIN };

const KUBE: Program =
    Program { name: "kube", module: "kube", stamp: KUBERNETES, tags: "notest", usual_s: 480, ..PLAIN };

const KUBECTL: Program = Program { name: "kubectl", package: "./kubectl", usual_s: 120, ..KUBE };

/// With kube's tags, so that what both import is compiled once.
const SEED: Program = Program { name: "seed", module: "seed", tags: KUBE.tags, usual_s: 90, ..PLAIN };

const CONTAINERD: Program = Program {
    name: "containerd",
    module: "containerd",
    stamp: CONTAINERD_VERSION,
    // no_rdt: Intel's cache allocation, which no mission asks for.
    tags: "static_build,urfave_cli_no_docs,no_rdt",
    usual_s: 90,
    ..PLAIN
};

const SHIM: Program = Program {
    name: "containerd-shim-runc-v2",
    package: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    // no_grpc: upstream's own, a shim speaks ttrpc only. One runs for each pod, so its size is memory.
    tags: "static_build,urfave_cli_no_docs,no_grpc",
    usual_s: 30,
    ..CONTAINERD
};

/// No libpathrs, which upstream has by default from 1.5 and Debian has not: runc's own Go code does the same.
const RUNC: Program = Program {
    name: "runc",
    module: "runc",
    package: "github.com/opencontainers/runc",
    tags: "seccomp,urfave_cli_no_docs",
    cgo: true,
    ..PLAIN
};

const ETCD: Program = Program { name: "etcd", module: "etcd", usual_s: 45, ..PLAIN };

const CNI: Program = Program {
    name: "cni",
    module: "cni",
    stamp: Some((
        "github.com/containernetworking/plugins",
        &[("github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion", Part::Whole)],
    )),
    usual_s: 15,
    ..PLAIN
};

const COREDNS: Program = Program { name: "coredns", module: "coredns", usual_s: 90, ..PLAIN };

impl Program {
    fn folder(&self, ctx: &Ctx) -> PathBuf {
        ctx.repo.join("rootfs/go").join(self.module)
    }

    /// Flags that decide how a package is compiled: the same for all verbs, so that they share Go's cache.
    fn flags(&self) -> Vec<String> {
        let tags = if self.tags.is_empty() { COMMON_TAGS.to_owned() } else { format!("{COMMON_TAGS},{}", self.tags) };
        // The linker strips what debuggers read; not to make it takes 0.87 of the time (etcd from nothing).
        let no_debug = "-gcflags=all=-dwarf=false".to_owned();
        vec!["-trimpath".to_owned(), "-buildvcs=false".to_owned(), no_debug, format!("-tags={tags}")]
    }

    /// Flags of the linker, with the versions that `go.mod` names.
    fn link_flags(&self, go_mod: &str) -> Result<String> {
        let mut flags = "-s -w -buildid=".to_owned();
        if self.cgo {
            flags.push_str(" -linkmode=external -extldflags=-static-pie");
        }
        if let Some((module, variables)) = self.stamp {
            let version = version_of(go_mod, module)?;
            let mut numbers = version.trim_start_matches('v').split('.');
            let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
            for (variable, part) in variables {
                let value = match part {
                    Part::Whole => version,
                    Part::Major => major,
                    Part::Minor => minor,
                };
                flags.push_str(&format!(" -X={variable}={value}"));
            }
        }
        Ok(flags)
    }
}

/// The version of `module` that the text of a `go.mod` requires.
fn version_of<'a>(go_mod: &'a str, module: &str) -> Result<&'a str> {
    go_mod
        .lines()
        .map(|line| line.trim().trim_start_matches("require "))
        .find_map(|line| line.strip_prefix(module)?.strip_prefix(' ')?.split(' ').next())
        .filter(|version| version.starts_with('v'))
        .with_context(|| format!("no line of go.mod requires {module}, as in `{module} v1.2.3`"))
}

/// Go, as this host has it.
struct Go {
    /// `GOTOOLCHAIN`: the host's own compiler, or the one to download.
    toolchain: &'static str,
}

impl Go {
    fn find() -> Result<Self> {
        const CURE: &str = "install golang-go from bookworm-backports (`make` does)";
        let version = said(Command::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local")).context(CURE)?;
        if version == TOOLCHAIN {
            return Ok(Self { toolchain: "local" });
        }
        ensure!(
            release(&version) >= Some(OLDEST_THAT_DOWNLOADS),
            "Go is {version:?}, which cannot download {TOOLCHAIN}; {CURE}"
        );
        Ok(Self { toolchain: TOOLCHAIN })
    }

    /// `go` in `folder`, whatever this host's or user's settings are.
    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new("go");
        command
            .current_dir(folder)
            .env("GOTOOLCHAIN", self.toolchain)
            .env("GOFLAGS", "-mod=readonly")
            .env("GOWORK", "off")
            .env("GO111MODULE", "on")
            .env("CGO_ENABLED", "0")
            .env("GOAMD64", "v1")
            .env("GOARM64", "v8.0")
            // The compiler is a Go program: it collects garbage only where it would need more memory than a small host has
            // (etcd from nothing: 0.93 of the time with GOGC=400, which is 0.85 of the default's).
            .env("GOGC", "off")
            .env("GOMEMLIMIT", "3GiB")
            .env_remove("GOEXPERIMENT");
        command
    }

    /// The key of what does not come from `rootfs/go`.
    fn key(&self, program: &Program) -> Result<Key> {
        let host = said(self.command(Path::new("/")).args(["env", "GOHOSTARCH"]))?;
        let key = Key::new("1").text(TOOLCHAIN).text(&host).text(program.package);
        Ok(program.flags().iter().fold(key, |key, flag| key.text(flag)))
    }

    /// Builds `program` for `arch`, or for this host; gives the executable.
    fn program(&self, ctx: &Ctx, program: &Program, arch: Option<Arch>) -> Result<PathBuf> {
        let folder = program.folder(ctx);
        let go_mod = fs::read_to_string(folder.join("go.mod")).with_context(|| format!("read {}", folder.display()))?;
        let link_flags = program.link_flags(&go_mod)?;
        let mut key = add_sources(self.key(program)?.text(&link_flags), &folder)?;
        for other in own_modules(&go_mod, &folder) {
            key = add_sources(key, &other)?;
        }
        let mut c = Vec::new();
        if let Some(arch) = arch {
            key = key.text(arch.goarch());
            if program.cgo {
                c = c_environment(arch);
                key = key.text(&c_versions(arch)?);
            }
        }
        let step = match arch {
            Some(arch) => format!("{}-{}", program.name, arch.name()),
            None => program.name.to_owned(),
        };
        let done = ctx.step(&step, Duration::from_secs(program.usual_s), key, |job| {
            let mut command = self.command(&folder);
            command.arg("build").args(program.flags()).arg(format!("-ldflags={link_flags}"));
            command.args(self.overlay(program, &folder, job)?);
            if let Some(arch) = arch {
                command.env("GOARCH", arch.goarch()).envs(c);
            }
            if program.cgo {
                command.arg("-buildmode=pie");
            }
            command.arg(format!("-p={}", ctx.jobs)).arg("-o").arg(job.out.join(program.name)).arg(program.package);
            job.run(&mut command)?;
            let overlay = job.out.join(OVERLAY);
            if overlay.exists() {
                fs::remove_dir_all(overlay)?
            }
            Ok(())
        })?;
        Ok(done.join(program.name))
    }

    /// For `cni`, makes the overlay that its `gen.go` tells of; gives the flag with which Go sees it.
    fn overlay(&self, program: &Program, folder: &Path, job: &Job) -> Result<Option<String>> {
        if program.name != CNI.name {
            return Ok(None);
        }
        let overlay = job.out.join(OVERLAY);
        job.run(self.command(folder).args(["run", "gen.go"]).arg(&overlay))?;
        Ok(Some(format!("-overlay={}", overlay.join("overlay.json").display())))
    }
}

/// The two numbers of a release: (1, 26) of go1.26.8.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.strip_prefix("go")?.split(['.', 'r', 'b']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Our own modules that the text of a `go.mod` in `folder` takes from beside it: `replace perigee/x => ../x`.
fn own_modules(go_mod: &str, folder: &Path) -> Vec<PathBuf> {
    let replaced = go_mod.lines().map(|line| line.trim().trim_start_matches("replace "));
    replaced.filter_map(|line| Some(folder.join(line.strip_prefix("perigee/")?.split_once(" => ")?.1))).collect()
}

/// Adds what decides a build: Go sources without tests, `go.mod`, `go.sum`, and `default.pgo` where there is one.
fn add_sources(mut key: Key, folder: &Path) -> Result<Key> {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("read {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            key = add_sources(key.text(&name), &path)?;
        } else if [".go", ".mod", ".sum", ".pgo"].iter().any(|end| name.ends_with(end)) && !name.ends_with("_test.go") {
            key = key.text(&name).path(&path)?;
        }
    }
    Ok(key)
}

/// How C is compiled for `arch` and where its libraries are told from.
fn c_environment(arch: Arch) -> Vec<(&'static str, String)> {
    let triplet = arch.gnu_prefix().trim_end_matches('-');
    vec![
        ("CGO_ENABLED", "1".to_owned()),
        ("CGO_CFLAGS", "-O2 -fstack-protector-strong".to_owned()),
        ("CC", format!("{triplet}-gcc")),
        ("PKG_CONFIG_LIBDIR", format!("/usr/lib/{triplet}/pkgconfig")),
    ]
}

/// What is linked in beside Go: the compiler's and libseccomp's versions.
fn c_versions(arch: Arch) -> Result<String> {
    let mut versions = said(Command::new(format!("{}gcc", arch.gnu_prefix())).arg("--version"))?;
    let library = format!("libseccomp-dev:{}", arch.debian());
    versions.push_str(&said(Command::new("dpkg-query").args(["-W", &library]))?);
    Ok(versions)
}

/// What `command` prints, without the end of its line.
fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO_MOD: &str = "module m\n\nrequire (\n\tk8s.io/kubernetes v1.37.2\n\tk8s.io/kube v9.9.9 // indirect\n)\n\
                          require example.com/one v1.0.0\nreplace k8s.io/api => k8s.io/api v0.37.2\n";

    #[test]
    fn a_version_comes_from_go_mod() {
        assert_eq!(version_of(GO_MOD, "k8s.io/kubernetes").unwrap(), "v1.37.2");
        assert_eq!(version_of(GO_MOD, "k8s.io/kube").unwrap(), "v9.9.9");
        assert_eq!(version_of(GO_MOD, "example.com/one").unwrap(), "v1.0.0");
        assert!(version_of(GO_MOD, "k8s.io/api").is_err());
        assert!(version_of(GO_MOD, "k8s.io").is_err());
    }

    #[test]
    fn kube_says_the_version_that_go_mod_names() {
        let flags = KUBE.link_flags(GO_MOD).unwrap();
        for flag in ["version.gitVersion=v1.37.2", "version.gitMajor=1", "version.gitMinor=37", "-buildid= "] {
            assert!(flags.contains(flag), "{flag} is not in {flags}");
        }
    }

    #[test]
    fn every_pinned_module_names_what_its_program_is_stamped_with() {
        let go = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs/go");
        for program in [&KUBE, &KUBECTL, &SEED, &CONTAINERD, &SHIM, &RUNC, &ETCD, &CNI, &COREDNS] {
            let go_mod = fs::read_to_string(go.join(program.module).join("go.mod")).unwrap();
            program.link_flags(&go_mod).unwrap();
            assert!(go.join(program.module).join("go.sum").is_file(), "{}", program.name);
        }
    }

    #[test]
    fn our_own_modules_are_read_from_go_mod() {
        let folder = Path::new("/go/etcd");
        let one = "require perigee/notify v0.0.0\nreplace perigee/notify => ../notify\n";
        assert_eq!(own_modules(one, folder), [folder.join("../notify")]);
        let two = "replace (\n\tperigee/notify => ../notify\n\tperigee/seedfile => ../seedfile\n)\n";
        assert_eq!(own_modules(two, folder), [folder.join("../notify"), folder.join("../seedfile")]);
    }

    #[test]
    fn the_seed_is_of_the_kubernetes_that_finds_it() {
        let go = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs/go");
        let go_mod = |module| fs::read_to_string(go.join(module).join("go.mod")).unwrap();
        let (seed, kube) = (go_mod("seed"), go_mod("kube"));
        check_seed(&seed, &kube).unwrap();
        for (from, to) in [("kubernetes v1.", "kubernetes v2."), ("k8s.io/api v0.", "k8s.io/api v1.")] {
            assert!(check_seed(&seed.replace(from, to), &kube).is_err(), "{to}");
        }
    }

    #[test]
    fn a_release_is_read_from_gos_version() {
        assert_eq!(release("go1.26.8"), Some((1, 26)));
        assert_eq!(release("go1.27rc1"), Some((1, 27)));
        assert!(release("devel") < Some(OLDEST_THAT_DOWNLOADS));
    }
}
