//! As much of the API server's client as server-side apply needs: one connection, one `PATCH` after the other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Who owns the fields that manifests set; `force` takes back what others changed.
const QUERY: &str = "fieldManager=perigee&force=true";
/// Server-side apply takes YAML, of which JSON is a part (Kubernetes API concepts, "Server-Side Apply").
const CONTENT_TYPE: &str = "application/apply-patch+yaml";
/// Longest time for one request; the API server gives up after 60 s itself.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What is kept of an answer: the reason of a refusal is short, the object itself is not wanted.
const KEPT_BYTES: usize = 4 * 1024;
/// Longest head of an answer that is read; hyper's least.
const BUFFER_BYTES: usize = 8 * 1024;

/// Why something was not applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody there, or nobody who can be believed.
    #[error("API server: {0}")]
    Connect(#[from] io::Error),
    /// The connection broke, or the answer is no HTTP.
    #[error("API server: {0}")]
    Http(#[from] hyper::Error),
    /// No answer in time.
    #[error("API server: no answer in {} s", TIMEOUT.as_secs())]
    Timeout,
    /// It does not want the object, or not yet.
    #[error("{path}: {status}: {reason}")]
    Refused {
        /// Of the object.
        path: String,
        /// HTTP's.
        status: u16,
        /// The API server's words.
        reason: String,
    },
}

/// One connection to the API server.
#[derive(Debug)]
pub struct Api {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

impl Api {
    /// Connects to `address`, for which the API server's certificate must be, and shows the one in `config`.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Http`], [`Error::Timeout`].
    pub async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> Result<Self, Error> {
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            TlsConnector::from(config).connect(ServerName::from(address.ip()), stream).await
        };
        let stream = timeout(TIMEOUT, connect).await.map_err(|_| Error::Timeout)??;
        let mut builder = http1::Builder::new();
        let (sender, connection) = builder.max_buf_size(BUFFER_BYTES).handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async {
            // Ends with the sender; a failure shows in its answers.
            let _seen_by_the_sender = connection.await;
        });
        Ok(Self { address, sender })
    }

    /// Makes the object at `path` have the fields in `body`.
    ///
    /// # Errors
    /// See [`Error`]; after any but [`Error::Refused`] the connection is of no more use.
    pub async fn apply(&mut self, path: &str, body: String) -> Result<(), Error> {
        let refused = |status: StatusCode, reason: String| Error::Refused {
            path: path.to_owned(),
            status: status.as_u16(),
            reason,
        };
        let request = Request::patch(format!("{path}?{QUERY}"))
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| refused(StatusCode::BAD_REQUEST, format!("not a path: {error}")))?;
        let exchange = async {
            self.sender.ready().await?;
            let mut response = self.sender.send_request(request).await?;
            let start = start_of(response.body_mut()).await?;
            Ok::<_, hyper::Error>((response.status(), start))
        };
        let (status, start) = timeout(TIMEOUT, exchange).await.map_err(|_| Error::Timeout)??;
        if status.is_success() { Ok(()) } else { Err(refused(status, reason(&start))) }
    }
}

/// The first [`KEPT_BYTES`] of a body that is read to its end.
async fn start_of(body: &mut Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut start = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            let room = KEPT_BYTES - start.len();
            start.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(start)
}

/// The `message` of a `Status` object, or the text itself.
fn reason(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    match serde_json::from_slice::<Status>(body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_status_message_or_the_start_of_the_text() {
        let status = br#"{"kind":"Status","message":"namespaces \"a\" not found","code":404}"#;
        assert_eq!(reason(status), "namespaces \"a\" not found");
        assert_eq!(reason(b"  teapot\n"), "teapot");
        assert_eq!(reason(&[0xff; 1000]).chars().count(), 200);
    }
}
