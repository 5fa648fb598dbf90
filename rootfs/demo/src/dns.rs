//! One question to the cluster's DNS: the IPv4 address of a name (RFC 1035, over UDP).
//!
//! The name is taken as written, without the search list: a Service's full name is one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

/// How long one server may take before the next try: UDP loses packets.
const TRY_TIMEOUT: Duration = Duration::from_secs(1);
/// Tries of each server.
const TRIES: usize = 3;
/// Longest answer over UDP without EDNS (RFC 1035, 2.3.4).
const MAX_MESSAGE_BYTES: usize = 512;

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or understood.
    #[error("/etc/resolv.conf: {0}; expected a line like `nameserver 10.43.0.10`")]
    Configuration(String),
    /// Not a DNS name.
    #[error("`{0}` is no DNS name; expected one like demo.default.svc.cluster.local")]
    Name(String),
    /// The server cannot be asked.
    #[error("asking {server} for {name}: {source}")]
    Ask {
        /// Where.
        server: SocketAddr,
        /// For what.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// No server answered in time.
    #[error("no answer for {0} from any of {1:?}")]
    NoAnswer(String, Vec<SocketAddr>),
    /// The server says that there is none.
    #[error("{0}: the server answers {1:?}")]
    Refused(String, RCODE),
    /// The name exists but has no IPv4 address.
    #[error("{0} has no IPv4 address")]
    NoAddress(String),
}

/// The name servers of a resolv.conf, port 53.
///
/// # Errors
/// [`Error::Configuration`]: not a resolv.conf, or one without a name server.
pub fn servers(resolv_conf: &[u8]) -> Result<Vec<SocketAddr>, Error> {
    let config = resolv_conf::Config::parse(resolv_conf).map_err(|error| Error::Configuration(error.to_string()))?;
    let servers: Vec<_> = config.nameservers.iter().map(|ip| SocketAddr::new(IpAddr::from(ip), 53)).collect();
    if servers.is_empty() { Err(Error::Configuration("names no server".into())) } else { Ok(servers) }
}

/// The first IPv4 address of `name`, from the first of `servers` that answers before `deadline`.
///
/// # Errors
/// See [`Error`].
pub fn resolve(servers: &[SocketAddr], name: &str, deadline: Instant) -> Result<Ipv4Addr, Error> {
    for _ in 0..TRIES {
        for &server in servers {
            let wait = TRY_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()));
            if wait.is_zero() {
                break;
            }
            let failed = |source| Error::Ask { server, name: name.to_owned(), source };
            if let Some(answer) = ask(server, name, wait).map_err(failed)? {
                return answer;
            }
        }
    }
    Err(Error::NoAnswer(name.to_owned(), servers.to_vec()))
}

/// What one server answers within `wait`, if it does.
fn ask(server: SocketAddr, name: &str, wait: Duration) -> io::Result<Option<Result<Ipv4Addr, Error>>> {
    // The clock's nanoseconds keep late answers to an earlier question apart; the connected socket's port and peer
    // keep strangers out.
    let id = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos() as u16);
    let query = match query(id, name) {
        Ok(query) => query,
        Err(error) => return Ok(Some(Err(error))),
    };
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.send(&query)?;
    let end = Instant::now() + wait;
    let mut buffer = [0; MAX_MESSAGE_BYTES];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                if let Some(answer) = answer(id, name, &buffer[..length]) {
                    return Ok(Some(answer));
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // Nothing listens there yet: as good as no answer, but not to be asked again at once.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::thread::sleep(left.min(TRY_TIMEOUT / 4));
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The question for `name`'s IPv4 address.
fn query(id: u16, name: &str) -> Result<Vec<u8>, Error> {
    let invalid = |_| Error::Name(name.to_owned());
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let qname = Name::new(name.trim_end_matches('.')).map_err(invalid)?;
    packet.questions.push(Question::new(qname, QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().map_err(invalid)
}

/// What `message` answers to question `id`; `None` if it is not its answer. Aliases are followed by the server,
/// which sends the address along, so the first address is the one.
fn answer(id: u16, name: &str, message: &[u8]) -> Option<Result<Ipv4Addr, Error>> {
    let packet = Packet::parse(message).ok()?;
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) {
        return None;
    }
    if packet.rcode() != RCODE::NoError {
        return Some(Err(Error::Refused(name.to_owned(), packet.rcode())));
    }
    let address = packet.answers.iter().find_map(|record| match &record.rdata {
        RData::A(a) => Some(Ipv4Addr::from_bits(a.address)),
        _ => None,
    });
    Some(address.ok_or_else(|| Error::NoAddress(name.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, CNAME};

    const NAME: &str = "demo.default.svc.cluster.local";

    fn response(id: u16, rcode: RCODE, records: Vec<RData<'static>>) -> Vec<u8> {
        let mut packet = Packet::new_reply(id);
        *packet.rcode_mut() = rcode;
        for rdata in records {
            packet.answers.push(ResourceRecord::new(Name::new_unchecked(NAME), CLASS::IN, 5, rdata));
        }
        packet.build_bytes_vec().unwrap()
    }

    fn address(last: u8) -> RData<'static> {
        RData::A(A { address: Ipv4Addr::new(10, 43, 0, last).to_bits() })
    }

    /// A server that answers each question with what `reply` makes of its id.
    fn server(reply: impl Fn(u16) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                if let Some(message) = reply(Packet::parse(&buffer[..length]).unwrap().id()) {
                    socket.send_to(&message, peer).unwrap();
                }
            }
        });
        address
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(8)
    }

    #[test]
    fn resolv_conf_of_a_pod_names_its_server() {
        let text = b"search default.svc.cluster.local svc.cluster.local\nnameserver 10.43.0.10\noptions ndots:5\n";
        assert_eq!(servers(text).unwrap(), ["10.43.0.10:53".parse().unwrap()]);
    }

    #[test]
    fn resolv_conf_without_a_server_or_of_any_bytes_is_a_named_error() {
        for text in [&b""[..], b"search x\n", b"nameserver nonsense\n", b"\xff\x00\xfe\n", &[b'n'; 100_000]] {
            assert!(matches!(servers(text), Err(Error::Configuration(_))), "{:?}", &text[..text.len().min(20)]);
        }
    }

    #[test]
    fn a_question_asks_for_the_ipv4_address() {
        let bytes = query(7, "demo.default.svc.cluster.local.").unwrap();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.id(), packet.questions[0].qname.to_string().as_str()), (7, NAME));
        assert!(query(7, &"x".repeat(64)).is_err());
    }

    #[test]
    fn the_address_behind_an_alias_is_found() {
        let alias = RData::CNAME(CNAME(Name::new_unchecked("other.local")));
        let at = server(move |id| Some(response(id, RCODE::NoError, vec![alias.clone(), address(9)])));
        assert_eq!(resolve(&[at], NAME, soon()).unwrap(), Ipv4Addr::new(10, 43, 0, 9));
    }

    #[test]
    fn a_name_that_is_not_there_is_said_so() {
        let at = server(|id| Some(response(id, RCODE::NameError, vec![])));
        assert!(matches!(resolve(&[at], NAME, soon()), Err(Error::Refused(_, RCODE::NameError))));
        let at = server(|id| Some(response(id, RCODE::NoError, vec![])));
        assert!(matches!(resolve(&[at], NAME, soon()), Err(Error::NoAddress(_))));
    }

    #[test]
    fn a_silent_server_is_passed_over_and_foreign_answers_are_not_believed() {
        let silent = server(|_| None);
        let foreign = server(|id| Some(response(id.wrapping_add(1), RCODE::NoError, vec![address(66)])));
        let right = server(|id| Some(response(id, RCODE::NoError, vec![address(1)])));
        assert_eq!(resolve(&[silent, foreign, right], NAME, soon()).unwrap(), Ipv4Addr::new(10, 43, 0, 1));
        let deadline = Instant::now() + Duration::from_millis(200);
        assert!(matches!(resolve(&[silent], NAME, deadline), Err(Error::NoAnswer(..))));
    }

    #[test]
    fn any_damage_to_an_answer_is_an_address_or_an_error_and_never_a_panic() {
        let whole = response(7, RCODE::NoError, vec![address(1), address(2)]);
        for cut in 0..whole.len() {
            let _ = answer(7, NAME, &whole[..cut]);
        }
        for place in 0..whole.len() {
            for value in 0..=255 {
                let mut damaged = whole.clone();
                damaged[place] = value;
                let _ = answer(7, NAME, &damaged);
            }
        }
    }
}
