//! A mission's disks: builds every part, then each node's disk from them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use ed25519_dalek::VerifyingKey;
use perigee_core::mission::{self, Mission};
use perigee_core::slot::copies::{NAMES, PLACES, place_of};
use perigee_core::slot::record::{RECORD_BYTES, Record};
use perigee_core::slot::{Side, Slot, State};

use crate::build::{Arch, Ctx};
use crate::bundle::images;
use crate::disk::{Content, Written};
use crate::keys::SlotKey;
use crate::rootfs::{Kind, Parts, Rootfs};
use crate::secure_boot::DbKey;
use crate::{config, data, disk, esp, flight, go, kernel, loader, native, pki, rootfs, services, slot};

/// Where the API server is reached from the host: QEMU forwards this port to 6443.
const HOST_API_SERVER: &str = "https://127.0.0.1:16443";

/// A mission, built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The mission.
    pub mission: Mission,
    /// `out/<target>/<mission>`.
    pub folder: PathBuf,
    /// One for each node of the mission whose disk was written, in its order.
    pub nodes: Vec<BuiltNode>,
    /// The kernel, an EFI application; beside it are its `config` and its `version`.
    pub kernel: PathBuf,
    /// The root file system.
    pub rootfs: Rootfs,
    /// What slots A and B have.
    pub slot: slot::Slot,
    /// What starts them.
    pub loader: PathBuf,
    /// Who has signed them.
    pub slot_key: VerifyingKey,
    /// For people on the host, as a member of system:masters.
    pub kubeconfig: PathBuf,
    /// Authorities, the host's own certificates (`admin`, `operator`), and those of the nodes.
    pub pki: PathBuf,
    /// The host's kubectl, of the nodes' version.
    pub kubectl: PathBuf,
}

/// A node, built.
#[derive(Clone, Debug)]
pub struct BuiltNode {
    /// Its name in the mission.
    pub name: String,
    /// Its disk.
    pub disk: PathBuf,
    /// What had to be written.
    pub written: Written,
}

/// Whether the nodes' disks are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// They are; no node of the mission may run.
    Write,
    /// They stay as they are: nodes may run from them.
    Leave,
}

/// Builds the mission in the file `mission_path` for `arch` below `out`.
///
/// Parts come from the cache where their inputs are the same. A disk that is there already keeps its data partition;
/// of the others only what differs is written.
pub fn build(ctx: &Ctx, arch: Arch, mission_path: &Path, out: &Path, disks: Disks) -> Result<Built> {
    let text = fs::read_to_string(mission_path)
        .with_context(|| format!("read {} (another mission: `make run MISSION=path`)", mission_path.display()))?;
    let mission = mission::parse(&mission_path.display().to_string(), &text)?;
    let folder = out.join(arch.name()).join(&mission.name);
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let _until_built = lock(&folder)?;
    // What fails at once goes before what takes half an hour.
    let specs = services::load(&ctx.repo.join("rootfs/services"))?;

    stage(1, "kernel and programs");
    // Beside each other: a linker uses one processor, and leaves the others to the kernel's compilers.
    let (kernel, parts) = std::thread::scope(|scope| {
        let kernel = scope.spawn(|| kernel::build(ctx, arch));
        let parts = parts(ctx, arch);
        (kernel.join().unwrap_or_else(|_| Err(anyhow!("the kernel's build panicked"))), parts)
    });
    let (kernel, parts) = (kernel?, parts?);
    let mkfs = native::mkfs_erofs(ctx)?;
    let kubectl = install(&go::kubectl(ctx)?, &out.join("bin"), "kubectl")?;
    stage(2, "root file system");
    let rootfs = rootfs::build(ctx, arch, &mkfs, &parts, Kind::Node)?;
    let golden = rootfs::build(ctx, arch, &mkfs, &parts, Kind::Golden)?;
    println!("build: root {} has {:.1} MB", rootfs.version, rootfs.bytes as f64 / 1e6);
    stage(3, "certificates");
    let pki = folder.join("pki");
    pki::ensure(&pki, &mission)?;
    let kubeconfig = folder.join("kubeconfig");
    let text_for_people = config::kubeconfig(&pki, &mission.name, HOST_API_SERVER, "admin")?;
    pki::write(&kubeconfig, text_for_people.as_bytes(), true)?;
    stage(4, "disks");
    let key = SlotKey::find(&out.join("keys"))?;
    let loader = loader::build(ctx, arch, &key)?;
    let db_key = DbKey::from_environment()?;
    let signed = |application: &Path| match &db_key {
        Some(key) => key.sign(ctx, application),
        None => Ok(application.to_owned()),
    };
    let esp = esp::build(ctx, arch, &signed(&loader)?)?;
    let signed_kernel = signed(&kernel.join("kernel"))?;
    let slot_of = |root: &Rootfs| slot::build(ctx, arch, &signed_kernel, &root.image, &root.version);
    let (slot, golden) = (slot_of(&rootfs)?, slot_of(&golden)?);
    let (headers, golden_headers) = (slot.headers(&key)?, golden.headers(&key)?);
    images::keep(&images::folder(&folder), slot.version(), &slot.plain(&headers)?)?;
    let state = state(&folder)?;
    let templates = ctx.repo.join("rootfs/config");
    let mut nodes = Vec::new();
    for node in mission.nodes.iter().filter(|_| disks == Disks::Write) {
        let work = folder.join(format!("{}.config", node.name));
        let sources = config::Sources {
            text: &text,
            mission: &mission,
            node,
            pki: &pki,
            slot_key: key.verifying().as_bytes(),
            templates: &templates,
            specs: &specs,
        };
        let config = config::build(&mkfs, &work, &sources)?;
        let disk = disk::path(&folder, &node.name);
        let contents = [
            Content::new("esp-a", &esp),
            Content::new("esp-b", &esp),
            Content { end: &headers, ..Content::new("slot-a", &slot.image) },
            Content { end: &headers, ..Content::new("slot-b", &slot.image) },
            Content { end: &golden_headers, ..Content::new("golden", &golden.image) },
            Content::new("config-a", &config),
            Content::new("config-b", &config),
        ];
        let states = NAMES.map(|name| Content::new(name, &state));
        let owner = [mission.name.as_str(), &node.name];
        let written =
            disk::write(&disk, &owner, &contents, &[&[Content::new("data", &parts.data)], &states[..]].concat())?;
        if let Written::Partitions(names) = &written
            && Slot::ALL.iter().any(|slot| names.contains(&slot.name()))
        {
            // What the old image has shown of itself says nothing of the new one.
            disk::write(&disk, &owner, &states, &[])?;
        }
        fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
        println!("build: {} {written}", disk.display());
        nodes.push(BuiltNode { name: node.name.clone(), disk, written });
    }
    Ok(Built {
        mission,
        folder,
        nodes,
        kernel: kernel.join("kernel"),
        rootfs,
        slot,
        loader,
        slot_key: *key.verifying(),
        kubeconfig,
        pki,
        kubectl,
    })
}

/// Every program that a root file system has, built.
pub fn parts(ctx: &Ctx, arch: Arch) -> Result<Parts> {
    Ok(Parts {
        flight: flight::build(ctx, arch)?,
        go: go::build(ctx, arch)?,
        nft: native::nft(ctx, arch)?,
        e2fsck: native::e2fsck(ctx, arch)?,
        mount: native::mount(ctx, arch)?,
        data: data::build(ctx)?,
        seed: go::seed(ctx)?,
    })
}

/// Waits until nobody else builds in `folder`, and keeps others from it until the file is closed.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            println!("build: another build has {}; waits for it", path.display());
            file.lock().with_context(|| format!("lock {}", path.display()))?;
        }
        locked => locked.with_context(|| format!("lock {}", path.display()))?,
    }
    Ok(file)
}

/// The first boot state: all slots have an image, and none was seen to live.
fn state(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("state");
    let record = Record::first(State::new(Side::A, [true; 3]));
    let mut places = vec![0; RECORD_BYTES * PLACES];
    places[place_of(record.sequence) * RECORD_BYTES..][..RECORD_BYTES].copy_from_slice(&record.encode());
    fs::write(&path, places).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn stage(number: u32, name: &str) {
    println!("build: stage {number} of 4: {name}");
}

/// Copies a program for people to `folder`: it outlives the cache.
fn install(program: &Path, folder: &Path, name: &str) -> Result<PathBuf> {
    let (installed, partial) = (folder.join(name), folder.join(format!("{name}.partial")));
    fs::create_dir_all(folder)
        .and_then(|()| fs::copy(program, &partial))
        .and_then(|_| fs::rename(&partial, &installed))
        .with_context(|| format!("copy {} to {}", program.display(), installed.display()))?;
    Ok(installed)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn one_at_a_time_builds_in_a_folder() {
        let scratch = Scratch::new("node-lock");
        let first = lock(scratch.path()).unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| tell.send(lock(scratch.path()).is_ok()).unwrap());
            assert!(told.recv_timeout(Duration::from_millis(200)).is_err(), "two have the lock");
            drop(first);
            assert!(told.recv().unwrap());
        });
    }
}
