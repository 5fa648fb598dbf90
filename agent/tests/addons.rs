//! Manifests on their way to an API server that is late, refuses, and loses connections.
#![allow(clippy::unwrap_used)]

#[path = "../../cli/tests/pki/mod.rs"]
mod pki;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use perigee_agent::addons::{self, Addons};
use perigee_agent::tls;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

const MISSION: &str = r#"
name = "first-light"

[[node]]
name = "node-1"
roles = ["control-plane", "worker"]
address = "10.0.2.15/24"
"#;

const MANIFESTS: &str = r#"[
    {"path": "/api/v1/namespaces/apps", "body": {"kind": "Namespace"}},
    {"path": "/api/v1/namespaces/apps/services/demo", "body": {"node": "${NODE_NAME}"}},
    {"path": "/apis/apps/v1/namespaces/apps/deployments/demo", "body": {"kind": "Deployment"}}
]"#;

/// What came in one request.
#[derive(Debug, PartialEq, Eq)]
struct Applied {
    target: String,
    body: String,
}

/// An API server that loses the first connection, refuses the second request once, and takes all else.
async fn api_server(listener: TcpListener, pki: &Path, seen: UnboundedSender<Applied>) {
    // The agent's server configuration asks clients for a certificate of the same authority: so does the API server.
    let acceptor = TlsAcceptor::from(tls::server(pki).unwrap());
    drop(listener.accept().await.unwrap());
    let mut requests = 0;
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(acceptor.accept(stream).await.unwrap());
        while let Some(applied) = request(&mut stream).await {
            seen.send(applied).unwrap();
            requests += 1;
            let (status, body) = match requests {
                2 => ("404 Not Found", r#"{"kind":"Status","message":"namespaces \"apps\" not found"}"#.to_owned()),
                // A large object, as Deployments come back.
                _ => ("201 Created", "x".repeat(50_000)),
            };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
    }
}

async fn request(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Option<Applied> {
    let (mut target, mut length, mut line) = (String::new(), 0, String::new());
    while stream.read_line(&mut line).await.is_ok_and(|length| length > 0) {
        match line.trim_end().split_once(' ') {
            Some(("PATCH", rest)) => target = rest.trim_end_matches(" HTTP/1.1").to_owned(),
            Some(("content-length:", value)) => length = value.parse().unwrap(),
            Some(("content-type:", value)) => assert_eq!(value, "application/apply-patch+yaml"),
            None => {
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                return Some(Applied { target, body: String::from_utf8(body).unwrap() });
            }
            Some(_) => {}
        }
        line.clear();
    }
    None
}

#[test]
fn every_manifest_arrives_in_order_and_what_is_refused_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path();
    fs::create_dir(config.join("pki")).unwrap();
    pki::write(&config.join("pki"));
    fs::write(config.join("mission.toml"), MISSION).unwrap();
    fs::write(config.join("node"), "node-1\n").unwrap();
    fs::write(config.join("manifests.json"), MANIFESTS).unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let api_server_at = listener.local_addr().unwrap();
        let (sender, mut seen) = unbounded_channel();
        let pki = Arc::new(config.join("pki"));
        tokio::spawn(async move { api_server(listener, &pki, sender).await });
        let addons =
            Addons { config: config.to_owned(), manifests: config.join("manifests.json"), api_server: api_server_at };
        assert!(addons.is_ours());
        tokio::spawn(addons::keep(addons));

        let mut next = async || timeout(Duration::from_secs(20), seen.recv()).await.unwrap().unwrap();
        let query = "?fieldManager=perigee&force=true";
        for (path, body) in [
            ("/api/v1/namespaces/apps", r#"{"kind": "Namespace"}"#),
            ("/api/v1/namespaces/apps/services/demo", r#"{"node": "node-1"}"#),
            ("/apis/apps/v1/namespaces/apps/deployments/demo", r#"{"kind": "Deployment"}"#),
            // The refused one, and only it.
            ("/api/v1/namespaces/apps/services/demo", r#"{"node": "node-1"}"#),
        ] {
            assert_eq!(next().await, Applied { target: format!("{path}{query}"), body: body.to_owned() });
        }
        assert!(timeout(Duration::from_millis(800), seen.recv()).await.is_err(), "nothing is left to apply");
    });
}

#[test]
fn a_node_without_the_certificate_applies_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let manifests = folder.path().join("manifests.json");
    assert!(!Addons { config: folder.path().to_owned(), manifests, api_server: nowhere }.is_ours());
}
