//! The agent, served in this process over real TLS, and whoever may come: the command's client, and strangers.
//!
//! PID 1 is a socket that answers as it does: it cannot run here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pki;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use perigee::client::Client;
use perigee_agent::node::Node;
use perigee_agent::server::{self, Gate};
use perigee_agent::tls;
use perigee_core::control::{MAX_REQUEST_BYTES, Request, Response};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

const POWER_OFF_TAKES: Duration = Duration::from_millis(600);
const NOON_2026: u64 = 1_795_348_800;

/// A node's agent at a port of this host.
struct Served {
    address: SocketAddr,
    node: Arc<Node>,
    /// PID 1 has been asked to switch off.
    power_off: Arc<Notify>,
    folder: TempDir,
    // Ends what it runs with the test.
    runtime: Runtime,
}

impl Served {
    fn new() -> Self {
        Self::with(Duration::from_secs(20), |_| {})
    }

    fn with(idle: Duration, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        pki::write(folder.path());
        let mut config = Arc::unwrap_or_clone(tls::server(folder.path()).unwrap());
        change(&mut config);
        let node = Arc::new(Node::new(folder.path().join("init.sock"), folder.path().to_owned()));
        let power_off = Arc::new(Notify::new());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = runtime.block_on(async {
            let init = UnixListener::bind(&node.pid1.0).unwrap();
            tokio::spawn(pid1(init, power_off.clone()));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(server::serve_tls(listener, Arc::new(config), Gate::with_idle(idle), node.clone()));
            address
        });
        Self { address, node, power_off, folder, runtime }
    }

    fn pki(&self) -> &Path {
        self.folder.path()
    }

    fn client(&self) -> Client {
        Client::new(self.address.port(), self.pki()).unwrap()
    }

    /// A connection as a stranger would write it, with `config`.
    fn raw(&self, config: ClientConfig) -> StreamOwned<ClientConnection, TcpStream> {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let name = "localhost".try_into().unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket)
    }

    fn operator(&self) -> StreamOwned<ClientConnection, TcpStream> {
        self.raw(client_config(self.pki(), Some("operator")))
    }
}

/// A client that believes the authority in `folder` and shows `certificate`, if any.
fn client_config(folder: &Path, certificate: Option<&str>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("agent-ca.crt")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    match certificate {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let certificate = CertificateDer::from_pem_file(folder.join(format!("{name}.crt"))).unwrap();
            let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    }
}

/// Answers `logs` with what was asked for and all else with `done`, `power-off` after a while.
async fn pid1(listener: UnixListener, power_off: Arc<Notify>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (reader, mut writer) = stream.split();
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).await.unwrap();
        let response = match serde_json::from_str(&line).unwrap() {
            Request::Logs { service } if service == "none" => Response::Error("no service `none`".into()),
            Request::Logs { service } => Response::Logs(service.repeat(100_000)),
            Request::PowerOff => {
                power_off.notify_one();
                tokio::time::sleep(POWER_OFF_TAKES).await;
                Response::Done
            }
            _ => Response::Done,
        };
        let mut answer = serde_json::to_vec(&response).unwrap();
        answer.push(b'\n');
        writer.write_all(&answer).await.unwrap();
    }
}

/// One line, as the other side sends it.
fn line(stream: &mut impl std::io::Read) -> std::io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    Ok(String::from_utf8(line).unwrap())
}

#[test]
fn what_pid1_says_reaches_the_operator_whole() {
    let served = Served::new();
    assert_eq!(served.client().request(&Request::Reboot).unwrap(), Response::Done);
    let logs = served.client().request(&Request::Logs { service: "etcd".into() }).unwrap();
    assert_eq!(logs, Response::Logs("etcd".repeat(100_000)));
    let error = served.client().request(&Request::Logs { service: "none".into() }).unwrap_err();
    assert!(error.to_string().contains("refuses: no service `none`"), "{error:#}");
}

#[test]
fn an_agent_that_is_asked_to_end_answers_what_it_was_asked_before() {
    let served = Served::new();
    let mut client = served.operator();
    // PID 1 takes its time over this one, and the agent is asked to end meanwhile.
    client.write_all(b"{\"verb\":\"power-off\"}\n").unwrap();
    client.flush().unwrap();
    served.runtime.block_on(served.power_off.notified());
    served.runtime.block_on(served.node.finish());
    assert_eq!(line(&mut client).unwrap(), "\"done\"");
    // It finishes no second time: nothing new is answered.
    client.write_all(b"{\"verb\":\"reboot\"}\n").unwrap();
    assert_eq!(line(&mut client).unwrap_or_default(), "");
}

#[test]
fn questions_share_a_connection_and_survive_its_end() {
    let served = Served::with(Duration::from_millis(300), |_| {});
    let client = served.client();
    let logs = || client.request(&Request::Logs { service: "x".into() }).unwrap();
    (0..20).for_each(|_| assert_eq!(logs(), Response::Logs("x".repeat(100_000))));
    // The agent gives the idle connection up: the next question finds it dead and asks anew.
    std::thread::sleep(Duration::from_millis(600));
    logs();
    assert_eq!(client.request(&Request::Reboot).unwrap(), Response::Done);
}

#[test]
fn a_pid1_that_is_not_there_is_an_answer() {
    let served = Served::new();
    fs::remove_file(served.pki().join("init.sock")).unwrap();
    let error = served.client().request(&Request::Status).unwrap_err();
    assert!(error.to_string().contains("PID 1 at ") && error.to_string().contains("init.sock"), "{error:#}");
}

#[test]
fn strangers_are_not_served() {
    let served = Served::new();
    let foreign = tempfile::tempdir().unwrap();
    pki::write(foreign.path());
    let mut believing = client_config(served.pki(), None);
    for (stranger, config) in [
        ("without a certificate", believing.clone()),
        ("with another mission's certificate", {
            believing.client_auth_cert_resolver =
                client_config(foreign.path(), Some("operator")).client_auth_cert_resolver;
            believing
        }),
        // A server's certificate is no client's.
        ("with the agent's own certificate", client_config(served.pki(), Some("agent"))),
    ] {
        let mut stream = served.raw(config);
        let _may_fail_at_once = stream.write_all(b"{\"verb\":\"reboot\"}\n");
        let answer = line(&mut stream);
        assert!(answer.is_err(), "{stranger}: {answer:?}");
    }
    let error = Client::new(served.address.port(), foreign.path()).unwrap().request(&Request::Status).unwrap_err();
    assert!(format!("{error:#}").contains("no TLS handshake"), "{error:#}");
}

#[test]
fn nonsense_is_answered_with_what_was_expected() {
    let served = Served::new();
    let mut stream = served.operator();
    for nonsense in ["", "{}", "[]", "{\"verb\":\"fly\"}", "{\"verb\":\"stop\"}", "[1", "\u{0}"] {
        stream.write_all(format!("{nonsense}\n").as_bytes()).unwrap();
        let answer = line(&mut stream).unwrap();
        assert!(answer.starts_with("{\"error\":\"request: "), "{nonsense}: {answer}");
    }
    stream.write_all(b"\xff\xfe\n{\"verb\":\"reboot\"}\n").unwrap();
    assert!(line(&mut stream).unwrap().starts_with("{\"error\":\"request: "));
    assert_eq!(line(&mut stream).unwrap(), "\"done\"");
}

#[test]
fn a_line_without_end_costs_no_more_than_its_limit() {
    let served = Served::new();
    let mut stream = served.operator();
    stream.write_all(&vec![b' '; MAX_REQUEST_BYTES + 1]).unwrap();
    assert!(line(&mut stream).unwrap().contains("line longer than 4096 bytes"));
    let mut rest = Vec::new();
    assert!(stream.read_to_end(&mut rest).is_err() || rest.is_empty());
}

#[test]
fn the_silent_make_room_for_others() {
    let served = Served::with(Duration::from_millis(500), |_| {});
    let begin = Instant::now();
    // More than may be in handshake at the same time, and none of them ever says a word.
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(served.address).unwrap()).collect();
    assert_eq!(served.client().request(&Request::Reboot).unwrap(), Response::Done);
    // One that is believed, and then says nothing more.
    let mut idle = served.operator();
    idle.write_all(b"{\"verb\":\"reboot\"}\n").unwrap();
    assert_eq!(line(&mut idle).unwrap(), "\"done\"");
    let _closed_or_cut = line(&mut idle);
    assert!(begin.elapsed() < Duration::from_secs(15), "the idle client was kept until its own time-out");
    drop(silent);
}

#[test]
fn one_client_too_many_is_told_so() {
    let served = Served::new();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = served.operator();
            stream.write_all(b"{\"verb\":\"reboot\"}\n").unwrap();
            assert_eq!(line(&mut stream).unwrap(), "\"done\"");
            stream
        })
        .collect();
    assert!(line(&mut served.operator()).unwrap().contains("too many clients"));
    drop(clients);
}

#[derive(Debug)]
struct Clock(u64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

#[test]
fn no_clock_locks_anyone_out() {
    // The kernel's start without a clock, now, and after 32 bits have run over.
    for seconds in [2, NOON_2026, 1 << 33] {
        let served = Served::with(Duration::from_secs(20), |config| config.time_provider = Arc::new(Clock(seconds)));
        assert_eq!(served.client().request(&Request::Reboot).unwrap(), Response::Done, "at {seconds}");
    }
}

#[test]
fn the_local_socket_is_roots_alone_and_takes_the_place_of_an_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("agent.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for _ in 0..2 {
            let _listener = server::bind_unix(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let node = Arc::new(Node::new(folder.path().join("init.sock"), folder.path().to_owned()));
        tokio::spawn(server::serve_unix(server::bind_unix(&path).unwrap(), Gate::new(), node));
        let mut stream = BufReader::new(tokio::net::UnixStream::connect(&path).await.unwrap());
        stream.write_all(b"{\"verb\":\"status\"}\n").await.unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).await.unwrap();
        assert!(answer.contains("PID 1 at "), "{answer}");
    });
}
