//! The data partition: mounted as it is, repaired, or made new; the node comes up with or without it.

mod ballast;
mod plan;
mod replace;
mod superblock;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use perigee_core::control::{Data as DataStatus, DataOrigin};
use rustix::fs::{StatVfsMountFlags, stat, statvfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::process::Pid;

use crate::block::Partitions;
use crate::child::{self, Outcome, Patience};
use crate::logs::Logs;
use crate::sys;
use crate::watchdog::Device;
use plan::{MountEnd, RemedyEnd, Step, Tried};
use superblock::Superblock;

const PARTITION: &str = "data";
const ROOT: &str = "/data";
/// Where the services' logs go.
pub const LOG: &str = "/data/log";
const BALLAST: &str = "/data/.ballast";
const SET_ASIDE: &str = "/data/set-aside";
const SEED: &str = "/usr/share/perigee/data.ext4";
const E2FSCK: &str = "/usr/sbin/e2fsck";

/// A check reads all metadata: a minute for a full 64 GB card at 20 MB/s. Ten times that, and the card is dying.
const CHECK_PATIENCE: Duration = Duration::from_secs(600);
/// A mount replays 16 MiB of journal at the most. A card that takes longer hangs, and the node comes up without it.
const MOUNT_PATIENCE: Duration = Duration::from_secs(120);
/// Making new writes twice the seed: seconds.
const REPLACE_PATIENCE: Duration = Duration::from_secs(120);
/// What is waited for takes some hundredths of a second. When the card is slower, the node starts on what there is.
const GROW_PATIENCE: Duration = Duration::from_secs(3);
/// Unlinking a file.
const BALLAST_PATIENCE: Duration = Duration::from_secs(2);

/// noatime: reading must not wear the card out. remount-ro: an error found by the kernel stops all writing before it
/// spreads; [`Data::watch`] sees it.
const OPTIONS: &std::ffi::CStr = c"errors=remount-ro";
const FLAGS: MountFlags = MountFlags::NOATIME.union(MountFlags::NODEV).union(MountFlags::NOSUID);
/// Without a partition: enough for a node to be talked to and to run small pods until it is mended.
const VOLATILE_OPTIONS: &std::ffi::CStr = c"size=30%,mode=755";

/// The mounted data.
#[derive(Debug)]
pub struct Data {
    origin: DataOrigin,
}

/// What [`Data::watch`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing to do.
    Well,
    /// The kernel has found an error in it and stopped writing. Only a boot repairs it.
    ReadOnly,
}

impl Data {
    /// Mounts /data and /var, whatever it takes; goes on from what was begun.
    pub fn mount(begun: Begun, watchdog: Option<&Device>, logs: &mut Logs) -> Self {
        let begin = begun.begin;
        let origin = walk(begun, watchdog, logs).unwrap_or_else(|| {
            if let Err(error) = mount("tmpfs", ROOT, "tmpfs", FLAGS, Some(VOLATILE_OPTIONS)) {
                logs.event(format_args!("mount={ROOT} type=tmpfs error=\"{error}\""));
            }
            DataOrigin::Volatile
        });
        let data = Self { origin };
        data.care(true, logs);
        make_folders(logs);
        let DataStatus { size_bytes, free_bytes, .. } = data.status();
        let took = (sys::now() - begin).as_millis();
        logs.event(format_args!("data={origin:?} size={size_bytes} free={free_bytes} took_ms={took}"));
        data
    }

    /// Whether it outlives the power.
    pub fn is_kept(&self) -> bool {
        self.origin != DataOrigin::Volatile
    }

    /// For the node's status.
    pub fn status(&self) -> DataStatus {
        let (size_bytes, free_bytes) = statvfs(ROOT)
            .map(|figures| (figures.f_blocks * figures.f_frsize, figures.f_bfree * figures.f_frsize))
            .unwrap_or_default();
        DataStatus { origin: self.origin, size_bytes, free_bytes }
    }

    /// Looks after it, once in a while.
    pub fn watch(&self, logs: &mut Logs) -> Health {
        if !self.is_kept() {
            return Health::Well;
        }
        if statvfs(ROOT).is_ok_and(|figures| figures.f_flag.contains(StatVfsMountFlags::RDONLY)) {
            return Health::ReadOnly;
        }
        self.care(false, logs);
        Health::Well
    }

    /// Frees or makes the ballast.
    fn care(&self, starting: bool, logs: &mut Logs) {
        let ballast = Path::new(BALLAST);
        let action = ballast::decide(starting, ballast.exists(), self.status().free_bytes);
        if self.is_kept() && action != ballast::Move::Keep {
            // The services wait for the room that is freed; nothing waits for room to be taken.
            let most = if action == ballast::Move::Free { BALLAST_PATIENCE } else { Duration::ZERO };
            let outcome = child::work(c"init-ballast", Patience::short(most), || ballast::act(action, ballast));
            logs.event(format_args!("data=ballast move={action:?} result=\"{outcome:?}\""));
        }
    }
}

/// The data partition's mount, begun while PID 1 does other things: most of it is waiting for the card.
pub struct Begun {
    begin: Duration,
    device: Option<PathBuf>,
    step: Step,
    mounting: Option<Mounting>,
}

impl Begun {
    /// Finds the partition, and mounts it in a child if it looks sound.
    pub fn new(partitions: &mut Partitions, logs: &mut Logs) -> Self {
        let begin = sys::now();
        let Some(device) = partitions.find(PARTITION) else {
            logs.event(format_args!("data=absent error=\"no partition is named `{PARTITION}`\""));
            return Self { begin, device: None, step: Step::GiveUp, mounting: None };
        };
        let superblock = read_superblock(&device).inspect_err(|error| {
            logs.event(format_args!("data={} superblock=unreadable error=\"{error}\"", device.display()));
        });
        let superblock = superblock.ok().flatten();
        let step = plan::first(superblock.as_ref());
        let mounting = (step == Step::Mount).then(|| Mounting::begin(&device, Tried::Nothing, superblock));
        Self { begin, device: Some(device), step, mounting }
    }
}

/// Follows the plan; none when it gives up.
fn walk(begun: Begun, watchdog: Option<&Device>, logs: &mut Logs) -> Option<DataOrigin> {
    let patience = |most| Patience { most, watchdog };
    let Begun { device, mut step, mut mounting, .. } = begun;
    let device = device.as_deref()?;
    let mut tried = Tried::Nothing;
    loop {
        step = match step {
            Step::Mount => {
                let again = || Mounting::begin(device, tried, read_superblock(device).ok().flatten());
                let mounting = mounting.take().unwrap_or_else(again);
                plan::after_mount(tried, mounting.end(device, patience(MOUNT_PATIENCE), logs))
            }
            Step::Remedy(remedy) => {
                tried = remedy;
                let end = match remedy {
                    Tried::Nothing => RemedyEnd::Sound,
                    Tried::Preen => check(device, "-p", patience(CHECK_PATIENCE), logs),
                    Tried::Force => check(device, "-y", patience(CHECK_PATIENCE), logs),
                    Tried::Replace => make_new(device, patience(REPLACE_PATIENCE), logs),
                };
                plan::after_remedy(tried, end)
            }
            Step::Mounted(origin) => return Some(origin),
            Step::GiveUp => return None,
        };
    }
}

/// A mount in a child, which grows what is smaller than its partition.
struct Mounting {
    child: std::io::Result<Pid>,
    growth: Option<Growth>,
}

impl Mounting {
    /// The child's status is the kernel's error number, or this: mounted as small as it was. Error numbers end at 133.
    const NOT_GROWN: i32 = 255;

    fn begin(device: &Path, tried: Tried, superblock: Option<Superblock>) -> Self {
        let growth = superblock.and_then(|superblock| Growth::of(device, tried, &superblock));
        let to = growth.as_ref().map(|growth| growth.to.first);
        let child = child::start(c"init-mount", || match mount(device, ROOT, "ext4", FLAGS, Some(OPTIONS)) {
            Ok(()) if to.is_none_or(|blocks| resize(blocks).is_ok()) => 0,
            Ok(()) => Self::NOT_GROWN,
            Err(error) => error.raw_os_error(),
        });
        Self { child, growth }
    }

    /// Waits for it, and begins the rest of the growth.
    fn end(self, device: &Path, patience: Patience<'_>, logs: &mut Logs) -> MountEnd {
        let outcome = self.child.map(|pid| match child::wait(pid, Patience::short(GROW_PATIENCE)) {
            Outcome::Running(pid) if !is_mounted() => child::wait(pid, patience),
            outcome => outcome,
        });
        let name = device.display();
        let error = match outcome {
            Ok(Outcome::Ended(0 | Self::NOT_GROWN)) => None,
            // It goes on growing.
            Ok(Outcome::Running(_)) if is_mounted() => None,
            Ok(Outcome::Ended(number)) => Some(Some(Errno::from_raw_os_error(number))),
            _ => Some(None),
        };
        if let Some(error) = error {
            logs.event(format_args!("data={name} mount=failed error=\"{error:?}\" result=\"{outcome:?}\""));
            return match error {
                // EUCLEAN and EBADMSG are ext4's own EFSCORRUPTED and EFSBADCRC.
                Some(Errno::INVAL | Errno::UCLEAN | Errno::BADMSG | Errno::IO | Errno::OVERFLOW) => MountEnd::Damaged,
                _ => MountEnd::Hindered,
            };
        }
        if let Some(growth) = self.growth {
            logs.event(format_args!("data={name} grow_to_blocks={} result=\"{outcome:?}\"", growth.to.first));
            let first = match outcome {
                Ok(Outcome::Running(pid)) => Some(pid),
                _ => None,
            };
            growth.finish(first, device, logs);
        }
        MountEnd::Mounted
    }
}

/// Whether there is a file system of its own at [`ROOT`].
fn is_mounted() -> bool {
    let device = |path| stat(path).map(|facts| facts.st_dev);
    matches!((device(ROOT), device("/")), (Ok(data), Ok(root)) if data != root)
}

/// e2fsck's exit status is a sum (e2fsck(8)): 1 and 2 are errors that were corrected, 4 and above are worse.
fn check(device: &Path, how: &str, patience: Patience<'_>, logs: &mut Logs) -> RemedyEnd {
    const CORRECTED: i32 = 1 | 2;
    let name = device.to_string_lossy();
    // -f: the kernel's word that all is well is what is in doubt.
    let result = child::run(&[E2FSCK, "-f", how, &name], patience);
    logs.event(format_args!("data={name} check={how} result=\"{result:?}\""));
    match result {
        Ok((Outcome::Ended(status), _)) if status & !CORRECTED == 0 => RemedyEnd::Sound,
        Ok((Outcome::Ended(child::NOT_EXECUTED), _)) | Err(_) => RemedyEnd::NotTried,
        Ok(_) => RemedyEnd::Unsound,
    }
}

fn make_new(device: &Path, patience: Patience<'_>, logs: &mut Logs) -> RemedyEnd {
    let done = size(device).and_then(|bytes| {
        child::work(c"init-data", patience, || i32::from(replace::replace(device, Path::new(SEED), bytes).is_err()))
    });
    logs.event(format_args!("data={} made=new result=\"{done:?}\"", device.display()));
    if matches!(done, Ok(Outcome::Ended(0))) { RemedyEnd::Sound } else { RemedyEnd::NotTried }
}

/// A file system that is smaller than its partition.
struct Growth {
    to: plan::Growth,
    /// Bytes at the partition's end that [`replace`] set aside.
    aside: Option<(u64, u64)>,
}

impl Growth {
    /// None if it fills its partition.
    fn of(device: &Path, tried: Tried, superblock: &Superblock) -> Option<Self> {
        let bytes = size(device).ok()?;
        let aside = match tried {
            Tried::Replace => fs::metadata(SEED).ok().and_then(|seed| replace::aside(seed.len(), bytes)),
            _ => None,
        };
        let to = plan::Growth::of(superblock, bytes, aside.map(|(offset, _)| offset))?;
        Some(Self { to, aside })
    }

    /// Puts what was set aside into the file system, and grows it to the end, after the first step: the kernel refuses
    /// a second one meanwhile.
    fn finish(self, first_step: Option<Pid>, device: &Path, logs: &mut Logs) {
        let plan::Growth { first, room, most } = self.to;
        if first == most {
            return;
        }
        // Nothing waits for it; should it fail or the power go, the file is missing, or the next boot goes on.
        let child = child::start_after(first_step, c"init-grow", || {
            let keep = |aside| resize(room).is_ok() && replace::keep(device, aside, Path::new(SET_ASIDE)).is_ok();
            let kept = self.aside.is_none_or(keep);
            i32::from(resize(most).is_err() || !kept)
        });
        let aside = self.aside.map(|_| format!(" set_aside={SET_ASIDE}/head")).unwrap_or_default();
        let name = device.display();
        logs.event(format_args!("data={name} grow_to_blocks={most}{aside} child=\"{child:?}\""));
    }
}

fn resize(blocks: u64) -> Result<(), Errno> {
    let root = File::open(ROOT).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    sys::ext4::resize(root, blocks)
}

fn read_superblock(device: &Path) -> std::io::Result<Option<Superblock>> {
    let mut bytes = [0; superblock::LENGTH];
    File::open(device)?.read_exact_at(&mut bytes, superblock::OFFSET)?;
    Ok(Superblock::parse(&bytes))
}

fn size(device: &Path) -> std::io::Result<u64> {
    File::open(device)?.seek(SeekFrom::End(0))
}

/// /var and what programs expect in it.
fn make_folders(logs: &mut Logs) {
    for folder in ["/data/log", "/data/var/lib", "/data/var/log", "/data/var/tmp", "/data/var/cache"] {
        if let Err(error) = fs::create_dir_all(folder) {
            logs.event(format_args!("folder={folder} error=\"{error}\""));
        }
    }
    // There already, on every boot but the first.
    let _ = symlink("/run", "/data/var/run");
    if let Err(error) = mount_bind("/data/var", "/var") {
        logs.event(format_args!("mount=/var error=\"{error}\""));
    }
}
