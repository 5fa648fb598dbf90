//! The data partition damaged in every way that power, radiation and neglect can: the node comes up.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perigee_core::control::DataOrigin;
use perigee_core::watchdog::WINDOW;
use perigee_image::build::Arch;
use perigee_image::disk::{DISK_BYTES, layout};
use perigee_image::gpt::{self, Guid, Partition};

use crate::card::{Card, OWNER, partition};
use crate::lab::{Lab, Rig};
use crate::suite::Checks;

const DATA: &str = "data";
/// How much is copied at a time; chunks of zeros are left out.
const CHUNK_BYTES: usize = 1 << 20;
/// Blocks left free, so that the files' own metadata has room: 1 MiB, well below what anything can work with.
const SPARE_BLOCKS: u64 = 256;

/// A card that hardly writes.
const GROWTH_BYTES_PER_S: u64 = 4096;
/// The journal's 4 MiB take 85 s.
const CHECK_BYTES_PER_S: u64 = 48 << 10;
/// For what takes a minute or two on such a card.
const SLOW_TIMEOUT: Duration = Duration::from_secs(300);

/// What happened to the data partition before the node boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// The journal's inode is gone: e2fsck makes a new journal.
    Mendable,
    /// It is full but for PID 1's reserve.
    Full,
    /// The first mebibyte is noise, superblock and group descriptors with it.
    BeyondRepair,
    /// There is no such partition.
    Missing,
}

impl Damage {
    const fn expected(self) -> DataOrigin {
        match self {
            Self::Mendable => DataOrigin::Repaired,
            Self::Full => DataOrigin::Clean,
            Self::BeyondRepair => DataOrigin::New,
            Self::Missing => DataOrigin::Volatile,
        }
    }
}

/// Boots nodes with damaged data partitions: each comes up, and says what it did.
pub fn run(lab: &mut Lab, arch: Arch, checks: &mut Checks) -> Result<()> {
    let card = Card::new(lab, arch, "data")?;
    if arch == Arch::X86_64 {
        checks.check("slow", || slow(lab, arch))?;
    }
    checks.check("mendable", || keep(&card, life(lab, arch, &card, Damage::Mendable)?))?;
    // A card fills up in use: images are imported by then, etcd has its logs, PID 1 its reserve.
    checks.check("full", || life(lab, arch, &card, Damage::Full).map(drop))?;
    let card = Card::new(lab, arch, "data")?;
    checks.check("corrupt", || life(lab, arch, &card, Damage::BeyondRepair).map(drop))?;
    let card = Card::new(lab, arch, "data")?;
    checks.check("missing", || life(lab, arch, &card, Damage::Missing).map(drop))
}

/// A card that writes a page a second while its file system grows: the services do not wait for it, and it grows to its
/// end all the same.
fn slow(lab: &mut Lab, arch: Arch) -> Result<()> {
    let mut rig = lab.rig_off(arch, "data", |_| Ok(()))?;
    rig.cluster.power_on(0)?;
    let machine = rig.cluster.machine(0)?;
    machine.limit_writes(GROWTH_BYTES_PER_S)?;
    let line = machine.console().wait_for(0, "mount=done", SLOW_TIMEOUT)?;
    ensure!(line.text.contains("still grows"), "the card was not slow: {}", line.text);
    machine.limit_writes(0)?;
    let whole = partition(DATA)?.length;
    rig.wait("data is as large as its partition", SLOW_TIMEOUT, |rig| {
        let data = rig.status(0)?.data;
        ensure!(data.size_bytes > whole / 10 * 9, "{} of {whole} bytes", data.size_bytes);
        Ok(())
    })
}

/// A check that writes the journal anew takes longer on a slow card than the watchdog waits: no reset cuts it short, or it
/// would never come to its end. Meanwhile the node has its voice.
fn outlast_the_watchdog(rig: &mut Rig) -> Result<()> {
    let machine = rig.cluster.machine(0)?;
    machine.limit_writes(CHECK_BYTES_PER_S)?;
    machine.console().wait_for(0, "mount=failed", SLOW_TIMEOUT)?;
    let begin = Instant::now();
    let status = rig.wait("the agent answers", SLOW_TIMEOUT, |rig| rig.status(0))?;
    ensure!(status.data.origin == DataOrigin::Pending, "data is {:?} before it is checked", status.data);
    let machine = rig.cluster.machine(0)?;
    machine.console().wait_for(0, "check=", SLOW_TIMEOUT)?;
    machine.limit_writes(0)?;
    ensure!(begin.elapsed() > WINDOW, "the check was over after {:?}: no watchdog would have bitten", begin.elapsed());
    Ok(())
}

/// Damages the card, and lets a node live on a copy of it until that is up.
fn life(lab: &mut Lab, arch: Arch, card: &Card, damage: Damage) -> Result<Rig> {
    apply(damage, card).with_context(|| format!("damage {}", card.path().display()))?;
    let mut rig = lab.rig_off(arch, "data", |plan| {
        card.insert(plan);
        if damage == Damage::Missing {
            // Everything that would be on the card is in memory.
            plan.nodes[0].memory_mib *= 2;
        }
        Ok(())
    })?;
    rig.cluster.power_on(0)?;
    // What counts the time is the same on both.
    if arch == Arch::X86_64 && damage == Damage::Mendable {
        outlast_the_watchdog(&mut rig)?;
    }
    let status = rig.wait_writers()?;
    let origin = status.data.origin;
    ensure!(origin == damage.expected(), "expected {:?}, the node says {:?}", damage.expected(), status.data);
    // What stands on those is the same whatever has happened: the worst, once, is enough.
    if arch == Arch::X86_64 && damage == Damage::BeyondRepair {
        rig.wait_services(0)?;
        rig.wait_ready()?;
    }
    Ok(rig)
}

/// Ends a life in order, and has the card as that left it.
fn keep(card: &Card, mut rig: Rig) -> Result<()> {
    rig.power_off()?;
    let after = card.folder.join("after.img");
    rig.cluster.save_disk(0, &after)?;
    card.replace(&after)
}

fn apply(damage: Damage, card: &Card) -> Result<()> {
    let image = card.open()?;
    if damage == Damage::Missing {
        let mut partitions = layout(&OWNER, DISK_BYTES)?;
        partitions.retain(|partition| partition.name != DATA);
        let tables = gpt::tables(Guid::derive(&OWNER), DISK_BYTES, &partitions)?;
        image.write_all_at(&tables.head, 0)?;
        return Ok(image.write_all_at(&tables.tail, DISK_BYTES - tables.tail.len() as u64)?);
    }
    let data = &partition(DATA)?;
    if damage == Damage::BeyondRepair {
        return Ok(image.write_all_at(&[0xA5; 1 << 20], data.start)?);
    }
    let file_system = card.folder.join("data.ext4");
    take(&image, data, &file_system)?;
    match damage {
        Damage::Mendable => debugfs(&file_system, "clri <8>")?,
        _ => fill(&file_system)?,
    }
    put(&image, data, &file_system)?;
    Ok(fs::remove_file(file_system)?)
}

/// Fills the file system, as years of neglect would.
fn fill(file_system: &Path) -> Result<()> {
    let free = free_blocks(&run_tool(Command::new("dumpe2fs").arg("-h").arg(file_system))?)?;
    debugfs(file_system, &format!("write /dev/null neglect\nfallocate neglect 0 {}", free - SPARE_BLOCKS - 1))
}

fn free_blocks(dumpe2fs: &str) -> Result<u64> {
    let line = dumpe2fs.lines().find_map(|line| line.strip_prefix("Free blocks:"));
    line.context("dumpe2fs names no free blocks")?.trim().parse().context("free blocks")
}

fn debugfs(file_system: &Path, commands: &str) -> Result<()> {
    let script = file_system.with_extension("debugfs");
    fs::write(&script, format!("{commands}\n"))?;
    run_tool(Command::new("debugfs").arg("-w").arg("-f").arg(&script).arg(file_system))?;
    Ok(fs::remove_file(script)?)
}

fn run_tool(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?} (of e2fsprogs)"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Copies a partition to a file, holes where there are zeros.
fn take(image: &File, partition: &Partition, to: &Path) -> Result<()> {
    // Read, too: `copy` writes only what differs.
    let file = File::options().read(true).write(true).create(true).truncate(true).open(to)?;
    file.set_len(partition.length)?;
    copy(image, partition.start, &file, 0, partition.length)
}

/// Copies a file back to its partition.
fn put(image: &File, partition: &Partition, from: &Path) -> Result<()> {
    copy(&File::open(from)?, 0, image, partition.start, partition.length)
}

/// Copies what differs.
fn copy(from: &File, from_offset: u64, to: &File, to_offset: u64, length: u64) -> Result<()> {
    let (mut wanted, mut found) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    for offset in (0..length).step_by(CHUNK_BYTES) {
        let chunk = CHUNK_BYTES.min((length - offset) as usize);
        from.read_exact_at(&mut wanted[..chunk], from_offset + offset)?;
        to.read_exact_at(&mut found[..chunk], to_offset + offset)?;
        if wanted[..chunk] != found[..chunk] {
            to.write_all_at(&wanted[..chunk], to_offset + offset)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system as small as what leaves the ground.
    fn file_system(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("perigee-damage-{}-{name}.ext4", std::process::id()));
        File::create(&path).unwrap().set_len(64 << 20).unwrap();
        run_tool(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-O", "metadata_csum,64bit"]).arg(&path))
            .unwrap();
        path
    }

    fn is_sound(path: &Path) -> bool {
        run_tool(Command::new("e2fsck").args(["-f", "-n"]).arg(path)).is_ok()
    }

    #[test]
    fn what_is_taken_from_a_disk_and_put_back_is_the_same() {
        let work = std::env::temp_dir().join(format!("perigee-damage-{}-copy", std::process::id()));
        let partition =
            Partition { name: "data", kind: Guid::LINUX, id: Guid::derive(&["x"]), start: 4096, length: 3 << 20 };
        let image = File::options().read(true).write(true).create(true).truncate(true).open(&work).unwrap();
        image.set_len(4 << 20).unwrap();
        image.write_all_at(b"in the middle", 4096 + (2 << 20)).unwrap();
        let taken = work.with_extension("taken");
        take(&image, &partition, &taken).unwrap();
        let mut found = [0; 13];
        File::open(&taken).unwrap().read_exact_at(&mut found, 2 << 20).unwrap();
        assert_eq!(&found, b"in the middle");
        image.write_all_at(&[0; 13], 4096 + (2 << 20)).unwrap();
        put(&image, &partition, &taken).unwrap();
        image.read_exact_at(&mut found, 4096 + (2 << 20)).unwrap();
        assert_eq!(&found, b"in the middle");
        for file in [work, taken] {
            fs::remove_file(file).unwrap();
        }
    }

    #[test]
    fn a_filled_file_system_is_sound_and_full() {
        let path = file_system("full");
        fill(&path).unwrap();
        let header = run_tool(Command::new("dumpe2fs").arg("-h").arg(&path)).unwrap();
        assert!(free_blocks(&header).unwrap() <= SPARE_BLOCKS, "{header}");
        assert!(is_sound(&path));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_system_without_its_journal_is_mended_by_e2fsck() {
        let path = file_system("journal");
        debugfs(&path, "clri <8>").unwrap();
        assert!(!is_sound(&path));
        // 1: errors corrected.
        assert_eq!(Command::new("e2fsck").args(["-f", "-y"]).arg(&path).output().unwrap().status.code(), Some(1));
        assert!(is_sound(&path));
        fs::remove_file(path).unwrap();
    }
}
