//! Asks a node's agent: JSON lines over mutual TLS.
//!
//! A handshake costs an emulated node a tenth of a second, an answer a hundredth: questions use the connection of the
//! question before. A command goes over a fresh one, so that it is never given twice and never to a node that is gone.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use perigee_core::control::{MAX_LINE_BYTES, Request, Response};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A node that does not shake hands in this time is not there: QEMU's network takes calls for a machine that has not
/// booted yet. Three round trips over a geostationary link take two seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence before an answer: the agent gives PID 1 ten seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The same where all processes or the whole root file system are read, seconds under emulation; and where an answer
/// comes behind pieces over a slow link.
const READING_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection that was not used for this long is given up before the agent does so, after a minute.
const REUSE: Duration = Duration::from_secs(30);
/// The mission's file names of who believes whom, as the image builder leaves them in `pki/`.
const AUTHORITY: &str = "agent-ca.crt";
const CERTIFICATE: &str = "operator.crt";
const KEY: &str = "operator.key";

/// How to ask one node.
#[derive(Debug)]
pub struct Client {
    address: String,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    /// Left by the question before, if it was answered.
    open: Mutex<Option<Connection>>,
}

/// A connection that is through its handshake.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    used: Instant,
}

impl Client {
    /// For the agent behind a port of this host, as QEMU forwards it, with the operator's certificate in `pki`.
    ///
    /// # Errors
    /// A certificate that cannot be used.
    pub fn new(port: u16, pki: &Path) -> Result<Self> {
        Self::to(&format!("127.0.0.1:{port}"), pki)
    }

    /// For the agent at `host:port`. Its certificate must be for `host`: a node's name, its address, or loopback.
    ///
    /// # Errors
    /// Not an address; a certificate that cannot be used.
    pub fn to(address: &str, pki: &Path) -> Result<Self> {
        let (host, _) = address
            .rsplit_once(':')
            .ok_or_else(|| anyhow!("{address}: expected <host>:<port>, for example 127.0.0.1:17443"))?;
        let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host}: no name and no address"))?;
        Ok(Self { address: address.to_owned(), name, config: Arc::new(config(pki)?), open: Mutex::default() })
    }

    /// The answer to `request`.
    ///
    /// # Errors
    /// The node does not answer, is not believed, does not believe us, or refuses.
    pub fn request(&self, request: &Request) -> Result<Response> {
        let answer = self.ask(request).with_context(|| format!("node at {}", self.address))?;
        match answer {
            Response::Error(reason) => bail!("node at {} refuses: {reason}", self.address),
            answer => Ok(answer),
        }
    }

    fn ask(&self, request: &Request) -> Result<Response> {
        if !request.is_question() {
            return self.connect()?.ask(request);
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // A failure leaves no connection behind; that of an old one only means that the node has been away.
        let again = open.take().filter(|connection| connection.used.elapsed() < REUSE);
        if let Some(mut connection) = again
            && let Ok(answer) = connection.ask(request)
        {
            *open = Some(connection);
            return Ok(answer);
        }
        let mut connection = self.connect()?;
        let answer = connection.ask(request)?;
        *open = Some(connection);
        Ok(answer)
    }

    /// A connection of its own, for more than one question.
    ///
    /// # Errors
    /// The node does not answer, is not believed, or does not believe us.
    pub fn connect(&self) -> Result<Connection> {
        let mut socket = self.socket()?;
        let mut tls = ClientConnection::new(self.config.clone(), self.name.clone())?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).context("no TLS handshake; is it an agent, of this mission, and up?")?;
        }
        Ok(Connection { stream: BufReader::new(StreamOwned::new(tls, socket)), used: Instant::now() })
    }

    fn socket(&self) -> Result<TcpStream> {
        let addresses = self.address.to_socket_addrs().with_context(|| format!("find {}", self.address))?;
        let mut failed = anyhow!("{} has no address", self.address);
        for address in addresses {
            match connect(address) {
                Ok(socket) => return Ok(socket),
                Err(error) => failed = anyhow!(error).context(format!("connect to {address}")),
            }
        }
        Err(failed)
    }
}

impl Connection {
    /// The answer to `request`; a refusal is one, too.
    ///
    /// # Errors
    /// There is no answer.
    pub fn ask(&mut self, request: &Request) -> Result<Response> {
        self.say(request, &[])?;
        self.answer()
    }

    /// Sends a piece of an update, and does not wait for the answer.
    ///
    /// # Errors
    /// The link is down.
    pub fn put(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.say(&Request::UpdatePut { at, bytes: bytes.len() as u64 }, bytes)
    }

    fn say(&mut self, request: &Request, body: &[u8]) -> Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        line.extend(body);
        let stream = self.stream.get_mut();
        stream.sock.set_read_timeout(Some(answer_timeout(request)))?;
        stream.write_all(&line)?;
        Ok(stream.flush()?)
    }

    /// The next answer.
    ///
    /// # Errors
    /// There is none.
    pub fn answer(&mut self) -> Result<Response> {
        let mut answer = Vec::new();
        // One more for the line feed. A node that does not believe us says so only now (TLS 1.3).
        let limit = MAX_LINE_BYTES as u64 + 1;
        self.stream.by_ref().take(limit).read_until(b'\n', &mut answer).context("no answer")?;
        ensure!(answer.last() == Some(&b'\n'), "its answer ends after {} bytes without a line feed", answer.len());
        self.used = Instant::now();
        serde_json::from_slice(&answer).context("its answer is not understood; is it of another version?")
    }
}

fn answer_timeout(request: &Request) -> Duration {
    match request {
        Request::UpdatePut { .. } | Request::Processes | Request::Inspect => READING_TIMEOUT,
        _ => ANSWER_TIMEOUT,
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    socket.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    Ok(socket)
}

/// TLS 1.3 with the operator's certificate.
fn config(pki: &Path) -> Result<ClientConfig> {
    let unreadable = |file: &str| {
        let path = pki.join(file);
        format!("{}: cannot be used; `perigee build` makes it, --pki names its folder", path.display())
    };
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(pki.join(AUTHORITY)).with_context(|| unreadable(AUTHORITY))?;
    roots.add(authority).with_context(|| unreadable(AUTHORITY))?;
    let certificate = CertificateDer::from_pem_file(pki.join(CERTIFICATE)).with_context(|| unreadable(CERTIFICATE))?;
    let key = PrivateKeyDer::from_pem_file(pki.join(KEY)).with_context(|| unreadable(KEY))?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = builder.with_protocol_versions(&[&TLS13])?.with_root_certificates(roots);
    config.with_client_auth_cert(vec![certificate], key).with_context(|| unreadable(KEY))
}
