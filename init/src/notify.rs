//! NOTIFY_SOCKET: what services say of themselves (sd_notify(3)). The kernel says who speaks; a process's service is
//! the one whose cgroup it is in.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, bind,
    recvmsg, socket_with, sockopt,
};
use rustix::process::Pid;

use crate::cgroup;

/// Its place in the file system.
pub const SOCKET: &str = "/run/perigee/notify";
/// Longest datagram that is read: a status line of any length may follow, nothing after it counts.
const LONGEST: usize = 4096;

/// What a service says of itself. All else that the protocol has is passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// `READY=1`
    pub ready: bool,
    /// `WATCHDOG=1`
    pub alive: bool,
}

fn parse(datagram: &[u8]) -> Message {
    let says = |what: &[u8]| datagram.split(|byte| *byte == b'\n').any(|line| line == what);
    Message { ready: says(b"READY=1"), alive: says(b"WATCHDOG=1") }
}

/// The socket.
pub struct Notify(OwnedFd);

impl Notify {
    /// Makes the socket; every user may write to it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> std::io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        sockopt::set_socket_passcred(&socket, true)?;
        bind(&socket, &SocketAddrUnix::new(SOCKET)?)?;
        fs::set_permissions(SOCKET, PermissionsExt::from_mode(0o666))?;
        Ok(Self(socket))
    }

    /// The next message and the service that it is from. A process that has ended meanwhile has no service; neither
    /// has one that is none of PID 1's.
    pub fn next(&self) -> Option<(String, Message)> {
        loop {
            let (sender, message) = match receive(&self.0) {
                Ok(Some(received)) => received,
                Ok(None) => continue,
                Err(_) => return None,
            };
            let group = fs::read_to_string(format!("/proc/{}/cgroup", sender.as_raw_nonzero()));
            if let Some(service) = group.as_deref().ok().and_then(cgroup::service_of) {
                return Some((service.to_owned(), message));
            }
        }
    }
}

fn receive(socket: &OwnedFd) -> Result<Option<(Pid, Message)>, Errno> {
    let mut bytes = [0; LONGEST];
    // Descriptors that someone sends along (FDSTORE) do not fit and are closed by the kernel.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid),
        _ => None,
    });
    Ok(sender.map(|sender| (sender, parse(&bytes[..received.bytes.min(LONGEST)]))))
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_and_alive_are_heard_among_other_words() {
        let both = Message { ready: true, alive: true };
        assert_eq!(parse(b"STATUS=up\nREADY=1\nWATCHDOG=1\n"), both);
        assert_eq!(parse(b"READY=1"), Message { ready: true, alive: false });
        assert_eq!(parse(b"WATCHDOG=1"), Message { ready: false, alive: true });
    }

    #[test]
    fn nothing_else_is_heard() {
        for datagram in [&b""[..], b"READY=10", b"XREADY=1", b"READY=0", b"WATCHDOG=trigger", b"\xff\n\0"] {
            assert_eq!(parse(datagram), Message::default());
        }
    }

    #[test]
    fn the_kernel_says_who_speaks() {
        let flags = SocketFlags::CLOEXEC;
        let (sender, receiver) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        sockopt::set_socket_passcred(&receiver, true).unwrap();
        rustix::net::send(&sender, b"READY=1\n", rustix::net::SendFlags::empty()).unwrap();
        let (pid, message) = receive(&receiver).unwrap().unwrap();
        assert_eq!(pid, rustix::process::getpid());
        assert!(message.ready);
    }
}
