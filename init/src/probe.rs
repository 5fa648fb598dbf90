//! Questions to services, asked without waiting: is there a socket, a server behind it, an answer of 200?

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use perigee_core::service::Id;
use perigee_core::spec::Probe;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send, socket_with,
    sockopt,
};

use crate::poller::{Poller, Source};

/// An HTTP/2 client's connection preface and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// An HTTP/2 frame's header; the server's first frame is its SETTINGS (section 3.4).
const FRAME_HEADER: usize = 9;
const FRAME_SETTINGS: u8 = 4;
/// `HTTP/1.1 200`
const STATUS_LINE: usize = 12;

/// What an answer is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Settings,
    Status200,
}

/// What is known of an answer so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Bad,
    Incomplete,
}

impl Expected {
    fn judge(self, answer: &[u8]) -> Verdict {
        let verdict = |length: usize, good: bool| match good {
            _ if answer.len() < length => Verdict::Incomplete,
            true => Verdict::Good,
            false => Verdict::Bad,
        };
        match self {
            Self::Settings => verdict(FRAME_HEADER, answer.get(3) == Some(&FRAME_SETTINGS)),
            Self::Status200 => {
                let good = answer.starts_with(b"HTTP/1.") && answer.get(8..STATUS_LINE) == Some(b" 200");
                verdict(STATUS_LINE, good)
            }
        }
    }
}

/// A question that waits for its answer.
struct Question {
    socket: OwnedFd,
    expected: Expected,
    /// Empty once it is sent.
    request: Vec<u8>,
    answer: Vec<u8>,
    deadline: Duration,
}

/// All questions that wait: at most one a service.
#[derive(Default)]
pub struct Probes(BTreeMap<Id, Question>);

impl Probes {
    /// Asks. Some: that is the answer; none: it comes from [`Self::ready`] or [`Self::expire`].
    pub fn ask(&mut self, now: Duration, id: Id, probe: &Probe, timeout: Duration, poller: &Poller) -> Option<bool> {
        let opened = match probe {
            Probe::File(path) => return Some(Path::new(path).exists()),
            Probe::Unix(path) => return Some(connect_unix(path).is_ok()),
            Probe::Grpc(path) => connect_unix(path).map(|socket| (socket, Expected::Settings, HTTP2_PREFACE.to_vec())),
            Probe::Http { port, path } => {
                connect_tcp(*port).map(|socket| (socket, Expected::Status200, get(*port, path).into_bytes()))
            }
        };
        let Ok((socket, expected, request)) = opened else { return Some(false) };
        let source = Source::Probe(id);
        // A connection can be written to when it is made or has failed.
        let watched = poller.add(&socket, source).and_then(|()| poller.want_write(&socket, source, true));
        if watched.is_err() {
            return Some(false);
        }
        self.0.insert(id, Question { socket, expected, request, answer: Vec::new(), deadline: now + timeout });
        None
    }

    /// The connection of a question can be used. Some: it is answered.
    pub fn ready(&mut self, id: Id, poller: &Poller) -> Option<bool> {
        let good = match self.0.get_mut(&id)?.advance(id, poller) {
            Verdict::Incomplete => return None,
            verdict => verdict == Verdict::Good,
        };
        self.0.remove(&id);
        Some(good)
    }

    /// When [`Self::expire`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        self.0.values().map(|question| question.deadline).min()
    }

    /// A question that nobody answered in time, if there is one.
    pub fn expire(&mut self, now: Duration) -> Option<Id> {
        let id = *self.0.iter().find(|(_, question)| question.deadline <= now)?.0;
        self.0.remove(&id);
        Some(id)
    }
}

impl Question {
    fn advance(&mut self, id: Id, poller: &Poller) -> Verdict {
        if !self.request.is_empty() {
            let connected = matches!(sockopt::socket_error(&self.socket), Ok(Ok(())));
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            // A request is smaller than any socket's buffer: it goes out whole or not at all.
            let sent = connected && send(&self.socket, &self.request, flags) == Ok(self.request.len());
            if !sent || poller.want_write(&self.socket, Source::Probe(id), false).is_err() {
                return Verdict::Bad;
            }
            self.request.clear();
            return Verdict::Incomplete;
        }
        let mut bytes = [0; STATUS_LINE];
        match recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Verdict::Bad,
            Ok((length, _)) => {
                self.answer.extend(&bytes[..length]);
                self.expected.judge(&self.answer)
            }
            Err(Errno::AGAIN) => Verdict::Incomplete,
            Err(_) => Verdict::Bad,
        }
    }
}

fn get(port: u16, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: perigee-init\r\nConnection: close\r\n\r\n")
}

fn open(family: AddressFamily) -> Result<OwnedFd, Errno> {
    socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

/// Connects at once or not at all: a unix socket whose backlog is full refuses.
fn connect_unix(path: &str) -> Result<OwnedFd, Errno> {
    let socket = open(AddressFamily::UNIX)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn connect_tcp(port: u16) -> Result<OwnedFd, Errno> {
    let socket = open(AddressFamily::INET)?;
    match connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::sys;

    const ID: Id = Id(3);
    const LONG: Duration = Duration::from_secs(20);

    /// Asks and waits for the answer, as the loop does.
    fn ask(probe: &Probe, timeout: Duration) -> bool {
        let (poller, mut probes) = (Poller::new().unwrap(), Probes::default());
        let mut answer = probes.ask(sys::now(), ID, probe, timeout, &poller);
        while answer.is_none() {
            let left = probes.deadline().unwrap().saturating_sub(sys::now());
            for source in poller.wait(Some(left)) {
                assert_eq!(source, Source::Probe(ID));
                answer = probes.ready(ID, &poller);
            }
            if probes.expire(sys::now()).is_some() {
                answer = Some(false);
            }
        }
        assert!(probes.deadline().is_none());
        answer.unwrap()
    }

    fn http(answer: &'static [u8]) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:"));
            for byte in answer {
                // The client leaves as soon as it knows.
                let _ = stream.write_all(&[*byte]);
            }
        });
        let good = ask(&Probe::Http { port, path: "/healthz".into() }, LONG);
        server.join().unwrap();
        good
    }

    fn path(name: &str) -> String {
        let path = std::env::temp_dir().join(format!("perigee-init-probe-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path.into_os_string().into_string().unwrap()
    }

    #[test]
    fn only_200_is_healthy() {
        assert!(http(b"HTTP/1.1 200 OK\r\n\r\nok"));
        assert!(!http(b"HTTP/1.1 500 Internal Server Error\r\n\r\n"));
        assert!(!http(b"HTTP/1.1 2"));
        assert!(!http(b"220 mail.example ESMTP\r\n"));
        assert!(!http(b""));
    }

    #[test]
    fn a_port_that_nobody_listens_on_is_not_healthy() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(!ask(&Probe::Http { port, path: "/".into() }, LONG));
    }

    #[test]
    fn a_grpc_server_says_settings_and_a_stopped_one_says_nothing() {
        let path = path("grpc");
        let listener = UnixListener::bind(&path).unwrap();
        let silent = ask(&Probe::Grpc(path.clone()), Duration::from_millis(100));
        assert!(!silent);
        let server = thread::spawn(move || {
            let _silent = listener.accept().unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut preface = [0; HTTP2_PREFACE.len()];
            stream.read_exact(&mut preface).unwrap();
            assert_eq!(preface, HTTP2_PREFACE);
            stream.write_all(&[0, 0, 6, FRAME_SETTINGS, 0, 0, 0, 0, 0, 0, 5, 0, 0, 64, 0]).unwrap();
        });
        assert!(ask(&Probe::Grpc(path.clone()), LONG));
        server.join().unwrap();
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_socket_and_a_file_are_there_or_not() {
        let path = path("unix");
        assert!(!ask(&Probe::Unix(path.clone()), LONG));
        assert!(!ask(&Probe::File(path.clone()), LONG));
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(ask(&Probe::Unix(path.clone()), LONG));
        assert!(ask(&Probe::File(path.clone()), LONG));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn answers_are_judged_at_every_length() {
        let status = b"HTTP/1.0 200 OK";
        for length in 0..status.len() {
            let expected = if length < STATUS_LINE { Verdict::Incomplete } else { Verdict::Good };
            assert_eq!(Expected::Status200.judge(&status[..length]), expected);
        }
        assert_eq!(Expected::Settings.judge(&[0, 0, 0, 4, 0, 0, 0, 0]), Verdict::Incomplete);
        assert_eq!(Expected::Settings.judge(&[0, 0, 0, 4, 0, 0, 0, 0, 0]), Verdict::Good);
        assert_eq!(Expected::Settings.judge(b"HTTP/1.1 400 Bad Request"), Verdict::Bad);
    }
}
