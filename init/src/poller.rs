//! The one place where PID 1 waits.

use std::os::fd::AsFd;
use std::time::Duration;

use perigee_core::service::Id;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::time::Timespec;

/// Events taken in one turn; more are there in the next.
const BATCH: usize = 32;

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A signal.
    Signals,
    /// A cgroup's `populated` changed.
    Cgroups,
    /// A datagram to NOTIFY_SOCKET.
    Notify,
    /// The kernel's word about network links.
    Network,
    /// Someone connects to the control socket.
    Control,
    /// A control connection, by its slot.
    Client(u16),
    /// A probe's connection.
    Probe(Id),
    /// A service's output.
    Output(Id),
    /// The output of a check of the data partition.
    Check,
}

impl Source {
    /// Packs into epoll's user data: kind above the lower 16 bits.
    fn to_data(self) -> EventData {
        let (kind, index) = match self {
            Self::Signals => (0, 0),
            Self::Cgroups => (1, 0),
            Self::Notify => (2, 0),
            Self::Network => (3, 0),
            Self::Control => (4, 0),
            Self::Client(slot) => (5, slot),
            Self::Probe(Id(id)) => (6, id),
            Self::Output(Id(id)) => (7, id),
            Self::Check => (8, 0),
        };
        EventData::new_u64(kind << 16 | u64::from(index))
    }

    fn from_data(data: EventData) -> Option<Self> {
        let data = data.u64();
        let index = data as u16;
        Some(match data >> 16 {
            0 => Self::Signals,
            1 => Self::Cgroups,
            2 => Self::Notify,
            3 => Self::Network,
            4 => Self::Control,
            5 => Self::Client(index),
            6 => Self::Probe(Id(index)),
            7 => Self::Output(Id(index)),
            8 => Self::Check,
            _ => return None,
        })
    }
}

/// Level-triggered epoll. A closed descriptor leaves it by itself, as no descriptor here has a duplicate.
pub struct Poller(OwnedFd);

impl Poller {
    /// # Errors
    /// The kernel's: out of descriptors or memory.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Reports `source` whenever `descriptor` can be read, or has ended.
    ///
    /// # Errors
    /// The kernel's: out of memory or watches.
    pub fn add(&self, descriptor: impl AsFd, source: Source) -> Result<(), Errno> {
        epoll::add(&self.0, descriptor, source.to_data(), EventFlags::IN)
    }

    /// From now on, reports `source` when `descriptor` can be written (`true`) or read (`false`).
    ///
    /// # Errors
    /// The kernel's; ENOENT when it was not added.
    pub fn want_write(&self, descriptor: impl AsFd, source: Source, write: bool) -> Result<(), Errno> {
        let flags = if write { EventFlags::OUT } else { EventFlags::IN };
        epoll::modify(&self.0, descriptor, source.to_data(), flags)
    }

    /// Waits at most `timeout`; returns what became ready.
    pub fn wait(&self, timeout: Option<Duration>) -> impl Iterator<Item = Source> + use<> {
        // Rounded up to milliseconds by the call, so that the time has come when it returns.
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX).min(i64::from(i32::MAX / 1000)),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(u64::MAX) }; BATCH];
        // An error (EINTR) is a turn without events.
        let count = epoll::wait(&self.0, &mut events[..], timeout.as_ref()).unwrap_or(0);
        events.into_iter().take(count).filter_map(|event| Source::from_data(event.data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_survives_the_kernel() {
        for source in [
            Source::Signals,
            Source::Cgroups,
            Source::Notify,
            Source::Network,
            Source::Control,
            Source::Client(7),
            Source::Probe(Id(u16::MAX)),
            Source::Output(Id(300)),
            Source::Check,
        ] {
            assert_eq!(Source::from_data(source.to_data()), Some(source));
        }
        assert_eq!(Source::from_data(EventData::new_u64(u64::MAX)), None);
    }
}
