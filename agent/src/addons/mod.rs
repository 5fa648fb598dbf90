//! Applies the image's manifests to the cluster: server-side apply, again and again until each is taken, then rarely.
//!
//! Every control-plane node's agent does so: the same words by the same field manager change nothing. The list is read
//! anew each time, so that between two rounds it costs no memory.

mod api;
mod manifests;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use perigee_core::mission::{self, Variables};
use tokio::time::sleep;

use self::api::Api;
use self::manifests::Manifest;
use crate::{event, tls};

/// First wait after a round that did not do everything; it doubles. A connection that is refused costs nothing, and
/// while the node boots this is on the way to the first pod.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// Longest such wait: an API server that does not serve is looked at this often.
const RETRY_MAX: Duration = Duration::from_secs(8);
/// How often manifests are applied again when all is well: what someone changed by mistake comes back.
const DRIFT_PERIOD: Duration = Duration::from_hours(1);

/// What is needed to apply the manifests.
#[derive(Clone, Debug)]
pub struct Addons {
    /// The node's configuration: mission, node's name, certificates.
    pub config: PathBuf,
    /// The image's manifests.
    pub manifests: PathBuf,
    /// This node's API server.
    pub api_server: SocketAddr,
}

/// Why a round was not complete.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] crate::Error),
    #[error(transparent)]
    Mission(#[from] mission::Error),
    #[error("{}: no node `{node}` in it, which {} names", mission.display(), name.display())]
    Node { mission: PathBuf, name: PathBuf, node: String },
    #[error("{}: {source}", path.display())]
    Manifests { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Api(#[from] api::Error),
}

impl Addons {
    /// Whether this node has the right to do it: only control-plane nodes hold the certificate.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.config.join("pki/addons.crt").exists()
    }

    /// Applies what is not in `applied` yet, in order; returns how many there are.
    async fn round(&self, applied: &mut Vec<String>) -> Result<usize, Error> {
        let variables = self.variables()?;
        let text = read(&self.manifests)?;
        let manifests =
            Manifest::list(&text).map_err(|source| Error::Manifests { path: self.manifests.clone(), source })?;
        let mut api = Api::connect(self.api_server, tls::api_client(&self.config.join("pki"))?).await?;
        for manifest in &manifests {
            if applied.iter().any(|path| path == manifest.path) {
                continue;
            }
            match manifest.expand(&variables) {
                Ok((path, body)) => match api.apply(&path, body).await {
                    Ok(()) => applied.push(manifest.path.to_owned()),
                    // The others may be taken: this one may wait for one of them.
                    Err(error @ api::Error::Refused { .. }) => event!("addon-refused error={:?}", error.to_string()),
                    Err(error) => return Err(error.into()),
                },
                Err(error) => event!("addon-refused path={} error={:?}", manifest.path, error.to_string()),
            }
        }
        Ok(manifests.len())
    }

    fn variables(&self) -> Result<Variables, Error> {
        let (path, name) = (self.config.join("mission.toml"), self.config.join("node"));
        let mission = mission::parse(&path.display().to_string(), &read(&path)?)?;
        let node = read(&name)?;
        match mission.node(node.trim()) {
            Some(node) => Ok(mission.variables(node)),
            None => Err(Error::Node { mission: path, name, node: node.trim().to_owned() }),
        }
    }
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// Keeps the manifests applied, for ever.
pub async fn keep(addons: Addons) {
    loop {
        let applied = until_applied(&addons).await;
        event!("addons-applied count={applied}");
        sleep(DRIFT_PERIOD).await;
    }
}

/// Rounds with back-off until all are applied; returns how many. The log has each reason once, not every round.
async fn until_applied(addons: &Addons) -> usize {
    let (mut applied, mut wait, mut said) = (Vec::new(), RETRY_MIN, String::new());
    loop {
        let before = applied.len();
        match addons.round(&mut applied).await {
            Ok(count) if applied.len() >= count => return count,
            Ok(_) => {}
            Err(error) => {
                let reason = error.to_string();
                if reason != said {
                    event!("addons-wait reason={reason:?}");
                    said = reason;
                }
            }
        }
        // What moves is tried again soon.
        wait = if applied.len() > before { RETRY_MIN } else { (wait * 2).min(RETRY_MAX) };
        sleep(wait).await;
    }
}
