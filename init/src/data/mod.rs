//! The data partition: mounted as it is, repaired, or made new; the node comes up with or without it.

mod ballast;
mod growth;
mod plan;
mod replace;
mod superblock;
mod walk;

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use perigee_core::control::{Data as DataStatus, DataOrigin};
use perigee_core::service::Exit;
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::process::Pid;

use crate::block::Partitions;
use crate::child;
use crate::logs::Logs;
use crate::poller::Poller;
use crate::sys;
use walk::{Place, Walk};

const PARTITION: &str = "data";
const ROOT: &str = "/data";
/// Where the services' logs go.
pub const LOG: &str = "/data/log";
const BALLAST: &str = "/data/.ballast";
/// What programs expect to be there; [`VAR`] is a bind mount of the first one.
const FOLDERS: [&str; 6] =
    ["/data/var", "/data/log", "/data/var/lib", "/data/var/log", "/data/var/tmp", "/data/var/cache"];
const VAR: &str = "/var";

/// noatime: reading must not wear the card out.
const FLAGS: MountFlags = MountFlags::NOATIME.union(MountFlags::NODEV).union(MountFlags::NOSUID);
/// Without a partition: enough for a node to be talked to and to run small pods until it is mended.
const VOLATILE_OPTIONS: &std::ffi::CStr = c"size=30%,mode=755";

/// The data partition, mounted or on its way.
pub struct Data {
    begin: Duration,
    walk: Option<Walk>,
    origin: DataOrigin,
    /// Mounted, and [`Data::tick`] has not said so yet.
    is_news: bool,
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
    /// Finds the partition and begins its way to /data. A child does what the card could hold up: most of it is waiting, and
    /// a repair takes minutes.
    pub fn begin(partitions: &mut Partitions, poller: &Poller, logs: &mut Logs) -> Self {
        let mut data = Self { begin: sys::now(), walk: None, origin: DataOrigin::Pending, is_news: false };
        let place = match partitions.find(PARTITION) {
            Some(device) => Walk::begin(device, poller, logs),
            None => {
                logs.event(format_args!("data=absent error=\"no partition is named `{PARTITION}`\""));
                Place::GivenUp
            }
        };
        data.arrive(place, logs);
        data
    }

    /// A child of PID 1 has ended. False: it was none of this one's.
    pub fn ended(&mut self, pid: Pid, exit: Exit, poller: &Poller, logs: &mut Logs) -> bool {
        let Some(walk) = self.walk.take_if(|walk| walk.child() == pid) else { return false };
        self.arrive(walk.ended(exit, poller, logs), logs);
        true
    }

    /// A check has said something.
    pub fn readable(&mut self) {
        if let Some(walk) = &mut self.walk {
            walk.readable();
        }
    }

    /// When [`Self::tick`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        self.walk.as_ref().map(Walk::deadline)
    }

    /// Looks after what takes long. True, once: /data and /var are there.
    pub fn tick(&mut self, now: Duration, logs: &mut Logs) -> bool {
        if let Some(walk) = self.walk.take_if(|walk| walk.deadline() <= now) {
            self.arrive(walk.look(now, logs), logs);
        }
        std::mem::take(&mut self.is_news)
    }

    /// The node goes down: what is not mounted by now will not be.
    pub fn abandon(&mut self, logs: &mut Logs) {
        if let Some(walk) = self.walk.take() {
            logs.event(format_args!("data={} state=abandoned", walk.name()));
            walk.abandon();
        }
    }

    /// Whether it is there, and outlives the power.
    pub fn is_kept(&self) -> bool {
        !matches!(self.origin, DataOrigin::Pending | DataOrigin::Volatile)
    }

    /// For the node's status.
    pub fn status(&self) -> DataStatus {
        let (size_bytes, free_bytes) = if self.origin == DataOrigin::Pending { (0, 0) } else { room() };
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
        let ballast = Path::new(BALLAST);
        if ballast::decide(false, ballast.exists(), room().1) == ballast::Move::Make {
            // Nothing waits for it.
            let child = child::start(c"init-ballast", || ballast::act(ballast::Move::Make, ballast));
            logs.event(format_args!("data=ballast move=Make child=\"{child:?}\""));
        }
        Health::Well
    }

    /// Goes on from `place`, which may be the way's end.
    fn arrive(&mut self, place: Place, logs: &mut Logs) {
        self.origin = match place {
            Place::OnTheWay(walk) => {
                self.walk = Some(walk);
                return;
            }
            Place::Mounted(origin) => origin,
            Place::GivenUp => {
                let mounted = mount("tmpfs", ROOT, "tmpfs", FLAGS, Some(VOLATILE_OPTIONS)).map_err(io::Error::from);
                if let Err(error) = mounted.and_then(|()| make_folders()) {
                    logs.event(format_args!("data=volatile error=\"{error}\""));
                }
                DataOrigin::Volatile
            }
        };
        self.is_news = true;
        let DataStatus { origin, size_bytes, free_bytes } = self.status();
        let took = (sys::now() - self.begin).as_millis();
        logs.event(format_args!("data={origin:?} size={size_bytes} free={free_bytes} took_ms={took}"));
    }
}

/// Size and free bytes of what is mounted.
fn room() -> (u64, u64) {
    let figures = statvfs(ROOT);
    figures.map(|figures| (figures.f_blocks * figures.f_frsize, figures.f_bfree * figures.f_frsize)).unwrap_or_default()
}

/// Makes [`FOLDERS`], and of the first [`VAR`]. Returns the first error, after all else was tried.
fn make_folders() -> io::Result<()> {
    let made = FOLDERS.map(|folder| match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    });
    // There already, on every boot but the first.
    let _ = symlink("/run", "/data/var/run");
    let bound = mount_bind(FOLDERS[0], VAR).map_err(io::Error::from);
    made.into_iter().chain([bound]).collect()
}
