//! Serves the control protocol: one JSON line each way, several on one connection.
//!
//! What strangers can cost is bounded: [`HANDSHAKES`] connections that are not through their handshake, [`SESSIONS`]
//! that are, one request line and one answer line each, and every wait has an end.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use perigee_core::control::{MAX_REQUEST_BYTES, Request, Response};
use perigee_core::update::pieces::PIECE_BYTES;
use rustix::fs::Mode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::node::{Node, line};
use crate::{Error, event, lines};

/// Clients of one listener at the same time: a person, a test and a campaign have one each.
const SESSIONS: usize = 8;
/// Connections of one listener that have not shown who they are; the rest wait in the kernel's queue.
const HANDSHAKES: usize = 8;
/// Longest handshake: two round trips over a geostationary link and a retransmission.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that asks nothing, or takes nothing of its answer, for this long is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// A listener that is out of file descriptors or memory tries again after this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How many may come in, and how long each may be silent.
#[derive(Clone, Debug)]
pub struct Gate {
    handshakes: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    idle: Duration,
}

impl Gate {
    /// With the limits above.
    #[must_use]
    pub fn new() -> Self {
        Self::with_idle(IDLE_TIMEOUT)
    }

    /// With another time for idle clients and slow handshakes, for tests.
    #[must_use]
    pub fn with_idle(idle: Duration) -> Self {
        Self { handshakes: Arc::new(Semaphore::new(HANDSHAKES)), sessions: Arc::new(Semaphore::new(SESSIONS)), idle }
    }

    /// Changes a place at the door for one inside. A full house is said at once: a person would rather hear it than
    /// wait.
    async fn enter(
        &self,
        door: OwnedSemaphorePermit,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        who: &impl Display,
        node: &Arc<Node>,
    ) {
        let result = match self.sessions.try_acquire() {
            Ok(_inside) => {
                drop(door);
                session(stream, self.idle, who, node).await
            }
            Err(_) => refuse(stream, "too many clients; end one and try again").await,
        };
        if let Err(error) = result {
            event!("client-dropped from={who} error={:?}", error.to_string());
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// A unix socket for root only, in the place of whatever an earlier agent left there.
///
/// # Errors
/// [`Error::Listen`].
pub fn bind_unix(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen { at: path.display().to_string(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // With the mask it is born 0600: there is no moment in which others can connect.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(mask);
    listener.map_err(failed)
}

/// Serves whoever can open the socket.
pub async fn serve_unix(listener: UnixListener, gate: Gate, node: Arc<Node>) {
    loop {
        let Ok(door) = gate.handshakes.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (gate, node) = (gate.clone(), node.clone());
                tokio::spawn(async move { gate.enter(door, stream, &"local", &node).await });
            }
            Err(error) => {
                event!("accept-failed listener=unix error={:?}", error.to_string());
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves whoever has a certificate of the authority that `config` believes.
pub async fn serve_tls(listener: TcpListener, config: Arc<ServerConfig>, gate: Gate, node: Arc<Node>) {
    let acceptor = TlsAcceptor::from(config);
    loop {
        let Ok(door) = gate.handshakes.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are whole lines: waiting for more to send only costs time.
                let _best_effort = stream.set_nodelay(true);
                let (gate, node, acceptor) = (gate.clone(), node.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let handshake = timeout(HANDSHAKE_TIMEOUT.min(gate.idle), acceptor.accept(stream)).await;
                    match handshake {
                        Ok(Ok(stream)) => gate.enter(door, stream, &peer, &node).await,
                        Ok(Err(error)) => event!("client-refused from={peer} error={:?}", error.to_string()),
                        Err(_) => event!("client-refused from={peer} error=\"no handshake in time\""),
                    }
                });
            }
            Err(error) => {
                event!("accept-failed listener=tls error={:?}", error.to_string());
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one client until it closes, is silent for too long, or sends what cannot be a request.
async fn session(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    idle: Duration,
    who: &impl Display,
    node: &Arc<Node>,
) -> Result<(), lines::Error> {
    let mut stream = BufReader::with_capacity(MAX_REQUEST_BYTES, stream);
    loop {
        let request = match lines::read(&mut stream, MAX_REQUEST_BYTES, idle).await {
            Ok(Some(request)) => request,
            Ok(None) => break,
            Err(error @ lines::Error::TooLong(_)) => return refuse(stream, &format!("request: {error}")).await,
            Err(error) => return Err(error),
        };
        let Some(_on_its_way) = node.answering().await else { break };
        let answer = match serde_json::from_slice(&request) {
            Ok(Request::UpdatePut { at, bytes }) => {
                let Some(bytes) = usize::try_from(bytes).ok().filter(|bytes| *bytes as u64 <= PIECE_BYTES) else {
                    return refuse(stream, &format!("a piece has at most {PIECE_BYTES} bytes, this one {bytes}")).await;
                };
                let body = lines::body(&mut stream, bytes, idle).await?;
                let is_torn = body.len() < bytes;
                let answer = node.put(at, body).await;
                if is_torn {
                    return Err(lines::Error::Torn);
                }
                answer
            }
            Ok(request) => {
                record(&request, who);
                node.answer(request).await
            }
            Err(error) => line(&Response::Error(format!("request: {error}; example: {{\"verb\":\"status\"}}"))),
        };
        lines::write(&mut stream, &answer, idle).await?;
    }
    close(stream).await
}

/// Commands are kept in the log with who gave them; questions are not worth a line.
fn record(request: &Request, who: &impl Display) {
    if !request.is_question() {
        event!("command from={who} request={}", serde_json::json!(request));
    }
}

/// Says why and closes.
async fn refuse(mut stream: impl AsyncRead + AsyncWrite + Unpin, reason: &str) -> Result<(), lines::Error> {
    lines::write(&mut stream, &line(&Response::Error(reason.to_owned())), HANDSHAKE_TIMEOUT).await?;
    close(stream).await
}

/// Ends the connection in order, so that the last line is not lost.
async fn close(mut stream: impl AsyncWrite + Unpin) -> Result<(), lines::Error> {
    timeout(HANDSHAKE_TIMEOUT, stream.shutdown()).await.map_err(|_| lines::Error::Idle(HANDSHAKE_TIMEOUT))??;
    Ok(())
}
