//! Another release of the node under test, and the bundle that makes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use perigee::ask::At;
use perigee::update::SendArgs;
use perigee_core::control::Update;
use perigee_core::update::Release as Number;
use perigee_image::build::{Arch, Ctx};
use perigee_image::bundle::Pack;
use perigee_image::keys::SlotKey;
use perigee_image::rootfs::{self, Kind, Parts};
use perigee_image::slot::{self, Slot};
use perigee_image::{go, native, node};
use sha2::{Digest as _, Sha256};

use crate::lab::{Lab, Rig};

/// The one word that differs, in what the agent's service says of itself.
const CHANGE: [&str; 2] = ["description = \"agent:", "description = \"Agent:"];

/// A release that nodes do not have yet.
#[derive(Debug)]
pub struct Release {
    /// Its version.
    pub version: String,
    /// The bundle, for nodes that have what was built.
    pub bundle: PathBuf,
    pki: PathBuf,
}

impl Release {
    /// A release in which one service's file differs.
    pub fn changed_service(lab: &mut Lab, arch: Arch) -> Result<Self> {
        let slot = changed_service(lab, arch)?;
        Self::of_slot(lab, arch, &slot)
    }

    fn of_slot(lab: &mut Lab, arch: Arch, slot: &Slot) -> Result<Self> {
        let image = plain(lab, slot)?;
        Self::of(lab, arch, slot.version(), &image)
    }

    /// The release that makes the image `new` from what was built.
    pub fn of(lab: &mut Lab, arch: Arch, version: &str, new: &[u8]) -> Result<Self> {
        let (key, folder) = (SlotKey::find(&lab.keys())?, lab.folder(arch, "bundles"));
        let old = built(lab, arch)?;
        let pack = Pack { old: Some(&old), new, floor: Number::default(), is_downgrade: false };
        let bundle = folder.join(format!("{version}.bundle"));
        fs::create_dir_all(&folder)?;
        fs::write(&bundle, pack.pack(&key)?.bytes)?;
        Ok(Self { version: version.to_owned(), bundle, pki: lab.built(arch)?.pki.clone() })
    }

    /// A release with so many bytes behind a program that no node has, and that do not get shorter.
    pub fn with_news(lab: &mut Lab, arch: Arch, bytes: usize) -> Result<Self> {
        let (ctx, folder) = (lab.ctx().clone(), lab.folder(arch, "news"));
        let mut parts = node::parts(&ctx, arch)?;
        let mut program = fs::read(&parts.flight.demo)?;
        let news = (0_u64..).flat_map(|number| <[u8; 32]>::from(Sha256::digest(number.to_le_bytes())));
        program.extend(news.take(bytes));
        parts.flight.demo = folder.join("demo");
        fs::create_dir_all(&folder)?;
        fs::write(&parts.flight.demo, program)?;
        let slot = slot_of(lab, &ctx, arch, &parts)?;
        Self::of_slot(lab, arch, &slot)
    }

    /// Bytes of the bundle.
    pub fn bytes(&self) -> Result<u64> {
        Ok(fs::metadata(&self.bundle)?.len())
    }

    /// Sends the bundle to the first node, as a person would.
    pub fn send(&self, rig: &Rig) -> Result<Update> {
        self.send_to(rig.cluster.agent_port(0))
    }

    /// Sends the bundle to the agent behind a port of this host.
    pub fn send_to(&self, port: u16) -> Result<Update> {
        let node = format!("127.0.0.1:{port}");
        let at = At { node, pki: Some(self.pki.clone()), json: false };
        perigee::update::send(&SendArgs { bundle: self.bundle.clone(), activate: false, once: false, at })
    }
}

/// The plain image of what was built.
pub fn built(lab: &mut Lab, arch: Arch) -> Result<Vec<u8>> {
    let slot = lab.built(arch)?.slot.clone();
    plain(lab, &slot)
}

/// The plain image of a slot.
fn plain(lab: &Lab, slot: &Slot) -> Result<Vec<u8>> {
    slot.plain(&slot.headers(&SlotKey::find(&lab.keys())?)?)
}

/// The slot of a node whose agent describes itself in another word.
fn changed_service(lab: &mut Lab, arch: Arch) -> Result<Slot> {
    let other = beside(lab, arch, "changed-service")?;
    change(&other.repo.join("rootfs/services/agent.toml"), |text| text.replacen(CHANGE[0], CHANGE[1], 1))?;
    let parts = node::parts(lab.ctx(), arch)?;
    slot_of(lab, &other, arch, &parts)
}

/// The plain image of a node with the Kubernetes before this one, and all that is made of it compiled anew; and that
/// version.
pub fn kubernetes_before(lab: &mut Lab, arch: Arch) -> Result<(String, Vec<u8>)> {
    let other = beside(lab, arch, "kubernetes-before")?;
    let go = other.repo.join("rootfs/go");
    let [now, before] = patch_versions(&fs::read_to_string(go.join("kube/go.mod"))?)?;
    for module in ["kube", "seed"] {
        // Staging modules are published as v0.X.Y.
        change(&go.join(module).join("go.mod"), |text| {
            text.replace(&format!("v1.{now}"), &format!("v1.{before}"))
                .replace(&format!("v0.{now}"), &format!("v0.{before}"))
        })?;
        // Has Go look up the checksums of what is new to it.
        let mut list = Command::new("go");
        list.args(["list", "-mod=mod", "-deps", "./..."]).env("GOWORK", "off").current_dir(go.join(module));
        let output = list.output().context("run go list")?;
        ensure!(output.status.success(), "{list:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let parts = Parts { go: go::build(&other, arch)?, seed: go::seed(&other)?, ..node::parts(lab.ctx(), arch)? };
    let slot = slot_of(lab, &other, arch, &parts)?;
    Ok((format!("1.{before}"), plain(lab, &slot)?))
}

/// Minor and patch number of the Kubernetes that a `go.mod` requires, and of the one before it: `37.2` and `37.1`.
fn patch_versions(go_mod: &str) -> Result<[String; 2]> {
    let version = go_mod.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v1."));
    let (minor, patch) = version.and_then(|version| version.split_once('.')).context("no Kubernetes in go.mod")?;
    let patch: u32 = patch.parse().with_context(|| format!("patch release {patch}"))?;
    let before = patch.checked_sub(1).context("a minor release's first one has none before it")?;
    Ok([patch, before].map(|patch| format!("{minor}.{patch}")))
}

/// A copy of what this clone's images are made of, to be changed.
fn beside(lab: &Lab, arch: Arch, name: &str) -> Result<Ctx> {
    let other = Ctx { repo: lab.folder(arch, name), ..lab.ctx().clone() };
    copy(&lab.ctx().repo.join("rootfs"), &other.repo.join("rootfs"))?;
    Ok(other)
}

/// Changes a file's text.
fn change(path: &Path, change: impl FnOnce(String) -> String) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let changed = change(text.clone());
    ensure!(changed != text, "{}: what was to be changed is not there", path.display());
    Ok(fs::write(path, changed)?)
}

/// A slot of other parts, or of another clone's files.
fn slot_of(lab: &mut Lab, ctx: &Ctx, arch: Arch, parts: &Parts) -> Result<Slot> {
    let kernel = lab.built(arch)?.kernel.clone();
    let root = rootfs::build(ctx, arch, &native::mkfs_erofs(lab.ctx())?, parts, Kind::Node)?;
    slot::build(lab.ctx(), arch, &kernel, &root.image, &root.version)
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let (entry, to) = (entry?, to);
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patch_release_before_is_one_less() {
        let go_mod = "require (\n\tk8s.io/api v0.37.2\n\tk8s.io/kubernetes v1.37.2\n)\n";
        assert_eq!(patch_versions(go_mod).unwrap(), ["37.2", "37.1"]);
        for wrong in ["", "k8s.io/kubernetes v1.37.0", "k8s.io/kubernetes v1.37.x"] {
            assert!(patch_versions(wrong).is_err(), "{wrong}");
        }
    }
}
