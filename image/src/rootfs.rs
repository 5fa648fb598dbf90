//! The root file system: the same for every node of an architecture, read-only, nothing in it that is not run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perigee_core::spec::Spec;

use crate::build::{Arch, Ctx, Job, Key};
use crate::erofs::{self, Packing};
use crate::flight::FlightBins;
use crate::go::GoParts;
use crate::gpt::Guid;
use crate::inspect::Inspection;
use crate::native::MountTools;
use crate::oci::{IMAGES, Image};
use crate::tree::{PROGRAM, PUBLIC, Tree};
use crate::{manifests, oci, services};

/// How the root is packed: the programs are not compressed, so that a page of text that was dropped costs a read and not
/// the decompression of a whole cluster; the rest is, by lz4hc at its best, which only costs the ground time.
/// x86_64, MB: 232.9; everything compressed, with clusters of 16, 32, 64 and 128 KiB: 113.6, 108.1, 104.8, 103.3.
const PACKING: Packing =
    Packing { compressor: Some("lz4hc,12"), cluster_bytes: 65536, hints: &[("^(usr/bin/|opt/cni/bin/|sbin/init)", 0)] };
/// A slot's limit (issue 3, "must show"), bytes.
pub const MAX_BYTES: u64 = 320_000_000;
/// How long staging and packing take on two cores.
const USUAL: Duration = Duration::from_secs(60);

/// Folders that something is mounted on, or that programs expect.
const FOLDERS: [&str; 10] =
    ["/config", "/data", "/dev", "/opt/cni/bin", "/proc", "/run", "/sys", "/tmp", "/usr/share/perigee", "/var"];

/// Names under which multi-call programs choose what they are.
const LINKS: [(&str, &str); 11] = [
    ("/usr/bin/kubelet", "kube"),
    ("/usr/bin/kube-apiserver", "kube"),
    ("/usr/bin/kube-controller-manager", "kube"),
    ("/usr/bin/kube-scheduler", "kube"),
    ("/usr/bin/kube-proxy", "kube"),
    ("/usr/bin/image-import", "containerd"),
    ("/usr/bin/etcd-seed", "etcd"),
    ("/opt/cni/bin/bridge", "cni"),
    ("/opt/cni/bin/host-local", "cni"),
    ("/opt/cni/bin/loopback", "cni"),
    ("/opt/cni/bin/portmap", "cni"),
];

/// What C and Go libraries look up. There is no shell to log in to.
const ETC: [(&str, &str); 6] = [
    ("/etc/passwd", "root:x:0:0:root:/:/nonexistent\nnobody:x:65534:65534:nobody:/nonexistent:/nonexistent\n"),
    ("/etc/group", "root:x:0:\nnobody:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    // Go resolves names by itself and asks /etc/hosts first.
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    // Nodes fly in the dark: the mission has addresses, and pods ask the cluster's DNS.
    ("/etc/resolv.conf", "# No name servers outside the cluster.\n"),
    // As `mount` and e2fsck read it.
    ("/etc/fstab", "# PID 1 mounts; nothing is mounted from here.\n"),
];

/// What a root is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A slot that updates go to: a Kubernetes node.
    Node,
    /// Golden: what it takes to be reached and mended, and no Kubernetes.
    Golden,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "rootfs",
            Self::Golden => "golden",
        }
    }

    /// Whether a program is in it.
    fn has(self, path: &str) -> bool {
        self == Self::Node || ["/sbin/init", "/usr/bin/perigee-agent", "/usr/sbin/e2fsck"].contains(&path)
    }

    /// Names under which multi-call programs choose what they are.
    fn links(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Node => &LINKS,
            Self::Golden => &[],
        }
    }
}

/// Every program that goes into the root, on the host.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Ours.
    pub flight: FlightBins,
    /// Kubernetes and what runs its pods.
    pub go: GoParts,
    /// kube-proxy's, and PID 1's for masquerading.
    pub nft: PathBuf,
    /// Mends the data partition.
    pub e2fsck: PathBuf,
    /// The kubelet's, for volumes.
    pub mount: MountTools,
    /// The small data file system.
    pub data: PathBuf,
    /// What an empty cluster's store is filled from.
    pub seed: PathBuf,
}

impl Parts {
    /// Where each program goes.
    fn programs(&self, kind: Kind) -> Vec<(&str, &Path)> {
        let Self { flight, go, .. } = self;
        let all: [(&str, &Path); 12] = [
            ("/sbin/init", &flight.init),
            ("/usr/bin/perigee-agent", &flight.agent),
            ("/usr/bin/kube", &go.kube),
            ("/usr/bin/containerd", &go.containerd),
            ("/usr/bin/containerd-shim-runc-v2", &go.shim),
            ("/usr/bin/runc", &go.runc),
            ("/usr/bin/etcd", &go.etcd),
            ("/usr/bin/mount", &self.mount.mount),
            ("/usr/bin/umount", &self.mount.umount),
            ("/usr/sbin/nft", &self.nft),
            ("/usr/sbin/e2fsck", &self.e2fsck),
            ("/opt/cni/bin/cni", &go.cni),
        ];
        all.into_iter().filter(|(path, _)| kind.has(path)).collect()
    }

    /// The pod images and their programs, in the order of [`IMAGES`].
    fn images(&self, kind: Kind) -> Vec<Image<'_>> {
        let programs: [(&str, &Path); 3] =
            [("/coredns", &self.go.coredns), ("/demo", &self.flight.demo), ("/pause", &self.flight.pause)];
        let images = IMAGES.iter().zip(programs).filter(|_| kind == Kind::Node);
        images.map(|(reference, (entry_point, program))| Image { reference, entry_point, program }).collect()
    }
}

/// A built root.
#[derive(Clone, Debug)]
pub struct Rootfs {
    /// The EROFS image.
    pub image: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The image's version: the workspace's, and a hash of everything that is in the root.
    pub version: String,
    /// What is in it that could be used against it.
    pub inspection: Inspection,
}

/// Builds the root for `arch` from `parts`, `rootfs/services` and `rootfs/manifests`.
pub fn build(ctx: &Ctx, arch: Arch, mkfs: &Path, parts: &Parts, kind: Kind) -> Result<Rootfs> {
    let (services_folder, manifests_folder) = (ctx.repo.join("rootfs/services"), ctx.repo.join("rootfs/manifests"));
    let contents = format!("{kind:?} {FOLDERS:?} {:?} {ETC:?} {IMAGES:?} {}", kind.links(), os_release(""));
    let mut key = Key::new("rootfs 1").text(arch.name()).text(&contents).text(&format!("{PACKING:?}"));
    for path in [&services_folder, &manifests_folder] {
        key = key.path(path)?;
    }
    let images = parts.images(kind);
    let programs = parts.programs(kind);
    let program_paths = programs.iter().map(|(_, path)| *path).chain(images.iter().map(|image| image.program));
    for path in program_paths.chain([mkfs, &parts.data, &parts.seed]) {
        key = ctx.input(key, path)?;
    }
    let version = format!("{}+{}", env!("CARGO_PKG_VERSION"), key.clone().finish());
    let done = ctx.step(&format!("{}-{}", kind.name(), arch.name()), USUAL, key, |job| {
        let tree = Tree::new(job.out.join("tree"))?;
        stage(&tree, arch, parts, kind, &version)?;
        let manifests = match kind {
            Kind::Node => manifests::collect(&manifests_folder, &IMAGES)?,
            Kind::Golden => serde_json::json!([]),
        };
        tree.file("/usr/share/perigee/manifests.json", serde_json::to_vec(&manifests)?, PUBLIC)?;
        for spec in services::load(&services_folder)? {
            match check_program(&tree, &spec) {
                Err(_) if kind == Kind::Golden => continue,
                checked => checked?,
            }
            let file = format!("{}.toml", spec.name);
            tree.copy(&services_folder.join(&file), &format!("/etc/perigee/services/{file}"), PUBLIC)?;
        }
        let inspection = Inspection::of(tree.root())?;
        inspection.check()?;
        fs::write(job.out.join("inspection.json"), serde_json::to_vec(&inspection)?)?;
        pack(job, mkfs, &version, tree.root())?;
        Ok(fs::remove_dir_all(tree.root())?)
    })?;
    let image = done.join("root.erofs");
    let bytes = fs::metadata(&image).with_context(|| format!("read {}", image.display()))?.len();
    ensure!(bytes <= MAX_BYTES, "the root has {bytes} bytes, a slot takes {MAX_BYTES}");
    let inspection = serde_json::from_slice(&fs::read(done.join("inspection.json"))?)?;
    Ok(Rootfs { image, bytes, version, inspection })
}

fn stage(tree: &Tree, arch: Arch, parts: &Parts, kind: Kind, version: &str) -> Result<()> {
    for folder in FOLDERS {
        tree.dir(folder)?;
    }
    for (path, program) in parts.programs(kind) {
        tree.copy(program, path, PROGRAM)?;
    }
    for (path, target) in kind.links() {
        tree.link(path, target)?;
    }
    for (path, text) in ETC {
        tree.file(path, text, PUBLIC)?;
    }
    tree.file("/etc/os-release", os_release(version), PUBLIC)?;
    tree.file("/usr/share/perigee/version", format!("{version}\n"), PUBLIC)?;
    tree.copy(&parts.data, "/usr/share/perigee/data.ext4", PUBLIC)?;
    if kind == Kind::Golden {
        return Ok(());
    }
    tree.copy(&parts.seed, "/usr/share/perigee/seed", PUBLIC)?;
    for image in parts.images(kind) {
        let mut archive = Vec::new();
        oci::write(&image, arch.goarch(), &mut archive)?;
        tree.file(&format!("/usr/share/perigee/images{}.tar", image.entry_point), archive, PUBLIC)?;
    }
    Ok(())
}

/// What the kubelet reports as the node's operating system.
fn os_release(version: &str) -> String {
    format!("NAME=Perigee\nID=perigee\nVERSION_ID={version}\nPRETTY_NAME=\"Perigee {version}\"\n")
}

/// Fails when a service's program is not in the tree.
fn check_program(tree: &Tree, spec: &Spec) -> Result<()> {
    let program = spec.exec.first().with_context(|| format!("{}: `exec` is empty", spec.name))?;
    ensure!(tree.host(program).is_file(), "{}: `exec` starts {program}, which is not in the image", spec.name);
    Ok(())
}

fn pack(job: &Job, mkfs: &Path, version: &str, tree: &Path) -> Result<()> {
    let hints = job.out.join("hints");
    fs::write(&hints, PACKING.hints_file()).with_context(|| format!("write {}", hints.display()))?;
    let hints = (!PACKING.hints.is_empty()).then_some(hints.as_path());
    let uuid = Guid::derive(&["root", version]).to_string();
    job.run(&mut erofs::command(mkfs, &PACKING, hints, &uuid, tree, &job.out.join("root.erofs")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    fn parts(folder: &Path) -> Parts {
        let program = |name: &str| {
            let path = folder.join(name);
            fs::write(&path, format!("\x7fELF {name}")).unwrap();
            path
        };
        let [init, agent, demo, pause] = ["init", "agent", "demo", "pause"].map(program);
        let [kube, containerd, shim, runc] = ["kube", "containerd", "shim", "runc"].map(program);
        let [etcd, cni, coredns, nft, e2fsck] = ["etcd", "cni", "coredns", "nft", "e2fsck"].map(program);
        let [mount, umount, data, seed] = ["mount", "umount", "data.ext4", "seed"].map(program);
        Parts {
            flight: FlightBins { init, agent, demo, pause },
            go: GoParts { kube, containerd, shim, runc, etcd, cni, coredns },
            nft,
            e2fsck,
            mount: MountTools { mount, umount },
            data,
            seed,
        }
    }

    fn staged(scratch: &Scratch) -> Tree {
        let tree = Tree::new(scratch.path().join("tree")).unwrap();
        stage(&tree, Arch::X86_64, &parts(scratch.path()), Kind::Node, "1.2.3+x").unwrap();
        tree
    }

    #[test]
    fn the_root_has_all_that_services_start_and_may_fly() {
        let scratch = Scratch::new("rootfs");
        let tree = staged(&scratch);
        for spec in services::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs/services")).unwrap() {
            check_program(&tree, &spec).unwrap();
        }
        for (link, _) in LINKS {
            assert!(tree.host(link).is_file(), "{link} leads nowhere");
        }
        for file in ["data.ext4", "seed"] {
            fs::remove_file(tree.host("/usr/share/perigee").join(file)).unwrap();
        }
        let inspection = Inspection::of(tree.root()).unwrap();
        inspection.check().unwrap();
        assert_eq!(inspection.elf.len(), 12);
    }

    #[test]
    fn the_root_says_which_version_it_is() {
        let scratch = Scratch::new("rootfs-version");
        let tree = staged(&scratch);
        assert_eq!(fs::read_to_string(tree.host("/usr/share/perigee/version")).unwrap(), "1.2.3+x\n");
        assert!(fs::read_to_string(tree.host("/etc/os-release")).unwrap().contains("PRETTY_NAME=\"Perigee 1.2.3+x\""));
    }

    #[test]
    fn a_service_without_a_program_is_refused() {
        let scratch = Scratch::new("rootfs-program");
        let tree = Tree::new(scratch.path().join("tree")).unwrap();
        let text = "description = \"x\"\nexec = [\"/usr/bin/nope\"]\n";
        let spec = perigee_core::spec::parse("x", "x.toml", text).unwrap();
        let error = check_program(&tree, &spec).unwrap_err().to_string();
        assert_eq!(error, "x: `exec` starts /usr/bin/nope, which is not in the image");
    }
}
