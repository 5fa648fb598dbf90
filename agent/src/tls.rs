//! TLS 1.3 with certificates on both sides.
//!
//! Certificates are valid from 1970 and longer than the mission, so the clock decides nothing: a node that wakes in
//! 1970 believes its ground station and is believed.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::Error;

/// The agent's side: its own certificate is `agent.{crt,key}` in `pki`, clients must be signed by `agent-ca.crt`.
///
/// # Errors
/// [`Error::Pem`], [`Error::Certificates`].
pub fn server(pki: &Path) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let authority = Arc::new(roots(&pki.join("agent-ca.crt"))?);
    let clients = WebPkiClientVerifier::builder_with_provider(authority, provider.clone())
        .build()
        .map_err(|error| unfit(pki, &error))?;
    let (certificates, key) = pair(pki, "agent")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unfit(pki, &error))?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates, key)
        .map_err(|error| unfit(pki, &error))?;
    // Sessions are not resumed: a few clients an hour are not worth a cache that strangers can fill.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The API server's client: believes `ca.crt` in `pki`, shows `addons.{crt,key}`.
///
/// # Errors
/// [`Error::Pem`], [`Error::Certificates`].
pub fn api_client(pki: &Path) -> Result<Arc<ClientConfig>, Error> {
    let (certificates, key) = pair(pki, "addons")?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unfit(pki, &error))?
        .with_root_certificates(roots(&pki.join("ca.crt"))?)
        .with_client_auth_cert(certificates, key)
        .map_err(|error| unfit(pki, &error))?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unfit(path, &error))?;
    }
    Ok(roots)
}

fn pair(pki: &Path, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let path = pki.join(format!("{name}.key"));
    let key = PrivateKeyDer::from_pem_file(&path)
        .map_err(|error| Error::Pem { path: path.clone(), reason: error.to_string() })?;
    Ok((certificates(&pki.join(format!("{name}.crt")))?, key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |reason: String| Error::Pem { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() { Err(failed("no certificate in it".into())) } else { Ok(certificates) }
}

fn unfit(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::Certificates { path: path.to_owned(), reason: error.to_string() }
}
