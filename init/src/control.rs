//! The control socket: `core::control`, one JSON object a line each way; root only.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use perigee_core::control::{MAX_LINE_BYTES, MAX_REQUEST_BYTES, Request, Response};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, recv,
    send, socket_with, sockopt,
};

use crate::poller::{Poller, Source};

const SOCKET: &str = "/run/perigee/init.sock";
/// The agent holds one; the rest is for people and for its restart. More are refused.
const MAX_CLIENTS: u16 = 8;
/// Who neither asks nor takes an answer for so long makes room for others.
const IDLE: Duration = Duration::from_secs(300);

/// The socket and its clients.
pub struct Control {
    socket: OwnedFd,
    clients: BTreeMap<u16, Client>,
}

struct Client {
    socket: OwnedFd,
    /// The beginning of a request.
    inbox: Vec<u8>,
    /// What is left of a response. No request is read meanwhile.
    outbox: Vec<u8>,
    idle_at: Duration,
}

/// Whether a client stays.
enum Next {
    Stay,
    Leave,
}

impl Control {
    /// Makes the socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> std::io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(SOCKET)?)?;
        fs::set_permissions(SOCKET, PermissionsExt::from_mode(0o600))?;
        listen(&socket, i32::from(MAX_CLIENTS))?;
        Ok(Self { socket, clients: BTreeMap::new() })
    }

    /// Takes one connection in. Root only, whatever the socket's permissions have become.
    pub fn accept(&mut self, now: Duration, poller: &Poller) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let Ok(socket) = accept_with(&self.socket, flags) else { return };
        let root = sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid.is_root());
        let free = (0..MAX_CLIENTS).find(|slot| !self.clients.contains_key(slot));
        if let Some(slot) = free.filter(|_| root)
            && poller.add(&socket, Source::Client(slot)).is_ok()
        {
            let client = Client { socket, inbox: Vec::new(), outbox: Vec::new(), idle_at: now + IDLE };
            self.clients.insert(slot, client);
        }
    }

    /// A client's connection can be used. Some: it asks this; answer with [`Self::respond`].
    pub fn ready(&mut self, slot: u16, now: Duration, poller: &Poller) -> Option<Result<Request, String>> {
        let client = self.clients.get_mut(&slot)?;
        client.idle_at = now + IDLE;
        let next = if client.outbox.is_empty() { client.read() } else { client.write(slot, poller) };
        if matches!(next, Next::Leave) {
            self.clients.remove(&slot);
            return None;
        }
        client.take_request()
    }

    /// Answers the request that [`Self::ready`] returned. Some: the client had asked this already, too.
    pub fn respond(&mut self, slot: u16, response: &Response, poller: &Poller) -> Option<Result<Request, String>> {
        let client = self.clients.get_mut(&slot)?;
        client.outbox = line(response);
        match client.write(slot, poller) {
            Next::Stay => client.take_request(),
            Next::Leave => {
                self.clients.remove(&slot);
                None
            }
        }
    }

    /// When [`Self::expire`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        self.clients.values().map(|client| client.idle_at).min()
    }

    /// Sends the idle ones away.
    pub fn expire(&mut self, now: Duration) {
        self.clients.retain(|_, client| client.idle_at > now);
    }
}

impl Client {
    fn read(&mut self) -> Next {
        let mut bytes = [0; MAX_REQUEST_BYTES];
        match recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Next::Leave,
            Ok((length, _)) => {
                self.inbox.extend(&bytes[..length]);
                // With a line's end in it, it is taken before more is read: twice the longest line at most.
                let too_long = self.inbox.len() > MAX_REQUEST_BYTES && !self.inbox.contains(&b'\n');
                if too_long { Next::Leave } else { Next::Stay }
            }
            Err(Errno::AGAIN) => Next::Stay,
            Err(_) => Next::Leave,
        }
    }

    fn write(&mut self, slot: u16, poller: &Poller) -> Next {
        match send(&self.socket, &self.outbox, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(length) => drop(self.outbox.drain(..length)),
            Err(Errno::AGAIN) => {}
            Err(_) => return Next::Leave,
        }
        if self.outbox.is_empty() {
            // A response can be a megabyte.
            self.outbox = Vec::new();
        }
        match poller.want_write(&self.socket, Source::Client(slot), !self.outbox.is_empty()) {
            Ok(()) => Next::Stay,
            Err(_) => Next::Leave,
        }
    }

    /// The first whole line, if the last response is out.
    fn take_request(&mut self) -> Option<Result<Request, String>> {
        if !self.outbox.is_empty() {
            return None;
        }
        let end = self.inbox.iter().position(|byte| *byte == b'\n')?;
        let request = parse(&self.inbox[..end]);
        self.inbox.drain(..=end);
        Some(request)
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn parse(line: &[u8]) -> Result<Request, String> {
    serde_json::from_slice(line)
        .map_err(|error| format!("not a request: {error}; expected one like {{\"verb\":\"status\"}}"))
}

/// A response as a line that is not too long.
fn line(response: &Response) -> Vec<u8> {
    let json = match serde_json::to_vec(response) {
        Ok(json) if json.len() < MAX_LINE_BYTES => json,
        // Neither happens with what PID 1 says.
        Ok(_) => br#"{"error":"the answer is too long"}"#.to_vec(),
        Err(_) => br#"{"error":"the answer has no JSON form"}"#.to_vec(),
    };
    [json, b"\n".to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> (Client, OwnedFd) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        (Client { socket: ours, inbox: Vec::new(), outbox: Vec::new(), idle_at: Duration::ZERO }, theirs)
    }

    fn say(socket: &OwnedFd, bytes: &[u8]) {
        assert_eq!(send(socket, bytes, SendFlags::empty()), Ok(bytes.len()));
    }

    #[test]
    fn requests_are_taken_a_line_at_a_time() {
        let (mut client, other) = client();
        say(&other, b"{\"verb\":\"sta");
        assert!(matches!(client.read(), Next::Stay));
        assert_eq!(client.take_request(), None);
        say(&other, b"tus\"}\n{\"verb\":\"logs\",\"service\":\"etcd\"}\nx\n");
        assert!(matches!(client.read(), Next::Stay));
        assert_eq!(client.take_request(), Some(Ok(Request::Status)));
        assert_eq!(client.take_request(), Some(Ok(Request::Logs { service: "etcd".into() })));
        assert!(client.take_request().unwrap().unwrap_err().contains("expected one like"));
        assert_eq!(client.take_request(), None);
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let (mut client, other) = client();
        say(&other, &[b'x'; MAX_REQUEST_BYTES]);
        assert!(matches!(client.read(), Next::Stay));
        say(&other, b"x");
        assert!(matches!(client.read(), Next::Leave));
    }

    #[test]
    fn nothing_is_taken_while_a_response_is_on_its_way() {
        let (mut client, other) = client();
        let poller = Poller::new().unwrap();
        poller.add(&client.socket, Source::Client(0)).unwrap();
        client.inbox = b"{\"verb\":\"status\"}\n".to_vec();
        client.outbox = vec![b'x'; MAX_LINE_BYTES];
        assert!(matches!(client.write(0, &poller), Next::Stay));
        assert!(!client.outbox.is_empty());
        assert_eq!(client.take_request(), None);
        let mut bytes = vec![0; MAX_LINE_BYTES];
        while !client.outbox.is_empty() {
            while matches!(recv(&other, &mut bytes[..], RecvFlags::DONTWAIT), Ok((1.., _))) {}
            assert!(matches!(client.write(0, &poller), Next::Stay));
        }
        assert_eq!(client.take_request(), Some(Ok(Request::Status)));
    }

    #[test]
    fn a_client_that_is_gone_leaves() {
        let (mut client, other) = client();
        drop(other);
        assert!(matches!(client.read(), Next::Leave));
    }

    #[test]
    fn a_response_is_one_line() {
        assert_eq!(line(&Response::Done), b"\"done\"\n");
        assert_eq!(line(&Response::Logs("a\nb".into())), b"{\"logs\":\"a\\nb\"}\n");
    }
}
