//! The plan's steps on a real partition, each in a child of PID 1 that nobody waits for: what it comes to is told by its
//! end, and its time is bounded.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use perigee_core::control::DataOrigin;
use perigee_core::service::Exit;
use rustix::fs::stat;
use rustix::io::Errno;
use rustix::mount::mount;
use rustix::process::{Pid, Signal, kill_process};

use super::growth::{self, Growth};
use super::plan::{self, MountEnd, RemedyEnd, Step, Tried};
use super::superblock::{self, Superblock};
use super::{BALLAST, FLAGS, ROOT, VAR, ballast, make_folders, replace, room};
use crate::child::{self, NOT_EXECUTED};
use crate::logs::Logs;
use crate::logs::ring::Ring;
use crate::poller::{Poller, Source};
use crate::sys;

pub const SEED: &str = "/usr/share/perigee/data.ext4";
const E2FSCK: &str = "/usr/sbin/e2fsck";

/// A mount replays 16 MiB of journal at the most. A card that takes longer hangs, and the node comes up without it.
const MOUNT_PATIENCE: Duration = Duration::from_secs(120);
/// A check reads all metadata: a minute for a full 64 GB card at 20 MB/s. Ten times that, and the card is dying.
const CHECK_PATIENCE: Duration = Duration::from_secs(600);
/// Making new writes twice the seed: seconds.
const REPLACE_PATIENCE: Duration = Duration::from_secs(120);
/// A killed child that is still there then hangs in the kernel, on a card that does not answer.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a child. The growth that services wait for takes some hundredths of a second: when the card is
/// slower, they start on what there is.
const LOOK_PERIOD: Duration = Duration::from_secs(3);
/// How much of a check's output is kept to report its last line from.
const TAIL: usize = 4096;

/// remount-ro: an error found by the kernel stops all writing before it spreads; [`super::Data::watch`] sees it.
const OPTIONS: &std::ffi::CStr = c"errors=remount-ro";

/// Where the plan has led to.
pub enum Place {
    /// Something is being done.
    OnTheWay(Walk),
    /// It is mounted.
    Mounted(DataOrigin),
    /// It cannot be.
    GivenUp,
}

/// A step that is being done.
pub struct Walk {
    device: PathBuf,
    tried: Tried,
    work: Work,
    child: Pid,
    look_at: Duration,
    until: Duration,
    killed: bool,
}

enum Work {
    /// A mount, with what services need of it: room, folders, and a growth if it is smaller than its partition.
    Mount(Option<Growth>),
    /// e2fsck, called so.
    Check(&'static str, Output),
    /// A new file system.
    Replace,
}

/// What a program says.
struct Output(Option<OwnedFd>, Ring);

impl Walk {
    /// The mount child's status is the kernel's error number, or this: mounted as small as it was. Error numbers end at
    /// 133.
    const NOT_GROWN: i32 = 255;
    /// Mounted, without all of the folders.
    const NOT_FURNISHED: i32 = 254;

    /// Begins with what the partition looks like.
    pub fn begin(device: PathBuf, poller: &Poller, logs: &mut Logs) -> Place {
        let superblock = read_superblock(&device).inspect_err(|error| {
            logs.event(format_args!("data={} superblock=unreadable error=\"{error}\"", device.display()));
        });
        let superblock = superblock.ok().flatten();
        let step = plan::first(superblock.as_ref());
        Self::go(device, Tried::Nothing, step, superblock, poller, logs)
    }

    /// Goes on with `step`, and over every one that cannot be begun. `superblock`, if it was just read.
    fn go(
        device: PathBuf,
        mut tried: Tried,
        mut step: Step,
        superblock: Option<Superblock>,
        poller: &Poller,
        logs: &mut Logs,
    ) -> Place {
        loop {
            let (begun, patience) = match step {
                Step::Mounted(origin) => return Place::Mounted(origin),
                Step::GiveUp => return Place::GivenUp,
                Step::Mount => {
                    let superblock = superblock.or_else(|| read_superblock(&device).ok().flatten());
                    (start_mount(&device, tried, superblock), MOUNT_PATIENCE)
                }
                Step::Remedy(remedy) => {
                    tried = remedy;
                    match remedy {
                        // The plan names it a remedy never.
                        Tried::Nothing => return Place::GivenUp,
                        Tried::Preen => (start_check(&device, "-p", poller), CHECK_PATIENCE),
                        Tried::Force => (start_check(&device, "-y", poller), CHECK_PATIENCE),
                        Tried::Replace => (start_replace(&device), REPLACE_PATIENCE),
                    }
                }
            };
            match begun {
                Ok((child, work)) => {
                    let (look_at, until) = (sys::now() + LOOK_PERIOD, sys::now() + patience);
                    return Place::OnTheWay(Self { device, tried, work, child, look_at, until, killed: false });
                }
                Err(error) => {
                    logs.event(format_args!("data={} step={step:?} error=\"{error}\"", device.display()));
                    step = match step {
                        Step::Remedy(_) => plan::after_remedy(tried, RemedyEnd::NotTried),
                        _ => plan::after_mount(tried, MountEnd::Hindered),
                    };
                }
            }
        }
    }

    /// The child that does it.
    pub fn child(&self) -> Pid {
        self.child
    }

    /// The partition's device.
    pub fn name(&self) -> std::path::Display<'_> {
        self.device.display()
    }

    /// When it is to be looked at.
    pub fn deadline(&self) -> Duration {
        self.look_at
    }

    /// The child has ended.
    pub fn ended(mut self, exit: Exit, poller: &Poller, logs: &mut Logs) -> Place {
        let name = self.device.display();
        let step = match &mut self.work {
            Work::Mount(_) => {
                let error = match exit {
                    Exit::Code(0 | Self::NOT_GROWN | Self::NOT_FURNISHED) => return self.mounted(exit, None, logs),
                    Exit::Code(number) => Some(Errno::from_raw_os_error(number)),
                    Exit::Signal(_) => None,
                };
                logs.event(format_args!("data={name} mount=failed error=\"{error:?}\" result=\"{exit:?}\""));
                let end = match error {
                    // EUCLEAN and EBADMSG are ext4's own EFSCORRUPTED and EFSBADCRC.
                    Some(Errno::INVAL | Errno::UCLEAN | Errno::BADMSG | Errno::IO | Errno::OVERFLOW) => {
                        MountEnd::Damaged
                    }
                    _ => MountEnd::Hindered,
                };
                plan::after_mount(self.tried, end)
            }
            Work::Check(how, output) => {
                while output.read() {}
                let words = output.1.last_line(160);
                logs.event(format_args!("data={name} check={how} result=\"{exit:?}\" last_words=\"{words}\""));
                plan::after_remedy(self.tried, check_end(exit))
            }
            Work::Replace => {
                logs.event(format_args!("data={name} made=new result=\"{exit:?}\""));
                let end = if exit == Exit::Code(0) { RemedyEnd::Sound } else { RemedyEnd::NotTried };
                plan::after_remedy(self.tried, end)
            }
        };
        Self::go(self.device, self.tried, step, None, poller, logs)
    }

    /// It has taken a while, or too long.
    pub fn look(mut self, now: Duration, logs: &mut Logs) -> Place {
        if matches!(self.work, Work::Mount(_)) && is_furnished() {
            // It goes on growing.
            let child = self.child;
            return self.mounted(format_args!("still grows"), Some(child), logs);
        }
        if now >= self.until {
            let name = self.device.display();
            if self.killed {
                logs.event(format_args!("data={name} state=hangs effect=\"nothing is tried any more\""));
                return Place::GivenUp;
            }
            logs.event(format_args!("data={name} state=killed reason=\"not done in time\""));
            let _ = kill_process(self.child, Signal::KILL);
            self.killed = true;
            self.until = now + KILL_PATIENCE;
        }
        self.look_at = (now + LOOK_PERIOD).min(self.until);
        Place::OnTheWay(self)
    }

    /// A check has said something.
    pub fn readable(&mut self) {
        if let Work::Check(_, output) = &mut self.work {
            output.read();
        }
    }

    /// Asks a check to end where it may. What else is under way ends by itself, or with the machine: both are as a power
    /// cut, which every step is made for.
    pub fn abandon(self) {
        let _ = kill_process(self.child, Signal::TERM);
    }

    fn mounted(self, result: impl std::fmt::Debug, growing: Option<Pid>, logs: &mut Logs) -> Place {
        let name = self.device.display();
        logs.event(format_args!("data={name} mount=done result=\"{result:?}\""));
        if let Work::Mount(Some(growth)) = self.work {
            growth.finish(growing, &self.device, logs);
        }
        match plan::after_mount(self.tried, MountEnd::Mounted) {
            Step::Mounted(origin) => Place::Mounted(origin),
            _ => Place::GivenUp,
        }
    }
}

impl Output {
    /// Takes a piece of it. False: there is none now.
    fn read(&mut self) -> bool {
        let Self(Some(pipe), ring) = self else { return false };
        let mut bytes = [0; TAIL];
        match rustix::io::read(pipe, &mut bytes) {
            Ok(length @ 1..) => ring.push(&bytes[..length]),
            Err(Errno::AGAIN | Errno::INTR) => return false,
            Ok(_) | Err(_) => self.0 = None,
        }
        self.0.is_some()
    }
}

fn start_mount(device: &Path, tried: Tried, superblock: Option<Superblock>) -> io::Result<(Pid, Work)> {
    let growth = superblock.and_then(|superblock| Growth::of(device, tried, &superblock));
    let to = growth.as_ref().map(Growth::first);
    let child = child::start(c"init-mount", || match mount(device, ROOT, "ext4", FLAGS, Some(OPTIONS)) {
        Ok(()) => furnish(to),
        Err(error) => error.raw_os_error(),
    })?;
    Ok((child, Work::Mount(growth)))
}

/// What follows a mount. The growth comes last: on a slow card it is not waited for.
fn furnish(grow_to_blocks: Option<u64>) -> i32 {
    let ballast = Path::new(BALLAST);
    ballast::act(ballast::decide(true, ballast.exists(), room().1), ballast);
    let folders = make_folders();
    match grow_to_blocks.map(growth::resize) {
        _ if folders.is_err() => Walk::NOT_FURNISHED,
        Some(Err(_)) => Walk::NOT_GROWN,
        _ => 0,
    }
}

fn start_check(device: &Path, how: &'static str, poller: &Poller) -> io::Result<(Pid, Work)> {
    // -f: the kernel's word that all is well is what is in doubt.
    let (child, output) = child::run(&[E2FSCK, "-f", how, &device.to_string_lossy()])?;
    // An output that cannot be watched is read when the check has ended.
    let _ = poller.add(&output, Source::Check);
    Ok((child, Work::Check(how, Output(Some(output), Ring::new(TAIL)))))
}

fn start_replace(device: &Path) -> io::Result<(Pid, Work)> {
    let bytes = size(device)?;
    let replace = || i32::from(replace::replace(device, Path::new(SEED), bytes).is_err());
    Ok((child::start(c"init-data", replace)?, Work::Replace))
}

/// e2fsck's exit status is a sum (e2fsck(8)): 1 and 2 are errors that were corrected, 4 and above are worse.
fn check_end(exit: Exit) -> RemedyEnd {
    const CORRECTED: i32 = 1 | 2;
    match exit {
        Exit::Code(status) if status & !CORRECTED == 0 => RemedyEnd::Sound,
        Exit::Code(NOT_EXECUTED) => RemedyEnd::NotTried,
        Exit::Code(_) | Exit::Signal(_) => RemedyEnd::Unsound,
    }
}

/// Whether the mount child has come to the growth.
fn is_furnished() -> bool {
    let device = |path| stat(path).map(|facts| facts.st_dev);
    matches!((device(VAR), device("/")), (Ok(var), Ok(root)) if var != root)
}

fn read_superblock(device: &Path) -> io::Result<Option<Superblock>> {
    let mut bytes = [0; superblock::LENGTH];
    File::open(device)?.read_exact_at(&mut bytes, superblock::OFFSET)?;
    Ok(Superblock::parse(&bytes))
}

/// Of a partition, bytes.
pub fn size(device: &Path) -> io::Result<u64> {
    File::open(device)?.seek(SeekFrom::End(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_corrected_all_leaves_it_sound_and_one_that_never_ran_says_nothing() {
        for sound in [0, 1, 2, 3] {
            assert_eq!(check_end(Exit::Code(sound)), RemedyEnd::Sound);
        }
        for unsound in [Exit::Code(4), Exit::Code(5), Exit::Code(8), Exit::Code(32), Exit::Signal(9)] {
            assert_eq!(check_end(unsound), RemedyEnd::Unsound);
        }
        assert_eq!(check_end(Exit::Code(NOT_EXECUTED)), RemedyEnd::NotTried);
    }
}
