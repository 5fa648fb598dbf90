//! Bundles that nobody is told of: files in a folder, and datagrams.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use perigee_core::control::UpdatePhase;
use perigee_core::update::datagram::Datagram;
use perigee_core::update::manifest::{self, MANIFEST_BYTES, Refusal};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use super::store::{Heard, Receipt};
use super::{Error, Updater};
use crate::event;

/// What is kept at once of a file.
const FILE_PIECE_BYTES: usize = 256 * 1024;
/// Symbols that are kept at once of what is heard.
const HEARD_SYMBOLS: usize = 64;
/// What was heard is kept when nothing more comes for this long.
const SILENCE: Duration = Duration::from_millis(500);

impl Updater {
    /// Takes bundles that were dropped as files.
    pub(super) async fn take_dropped(&self) {
        let Some(path) = dropped(&self.places.inbox).into_iter().next() else { return };
        let taken = self.take_file(&path).await;
        // One that is refused stays, under another name: somebody will ask.
        let gone = match &taken {
            Ok(()) => fs::remove_file(&path),
            Err(error) => {
                event!("update=refused file={} reason={:?}", path.display(), error.to_string());
                fs::rename(&path, path.with_extension("refused"))
            }
        };
        if let Err(error) = gone {
            event!("inbox=stuck file={} error={:?}", path.display(), error.to_string());
        }
    }

    async fn take_file(&self, path: &Path) -> Result<(), Error> {
        // Opening a pipe would wait for who writes to it; a link may lead anywhere.
        if !fs::symlink_metadata(path)?.is_file() {
            return Err(Refusal::Magic.into());
        }
        let file = fs::File::open(path)?;
        let mut manifest = [0; MANIFEST_BYTES];
        file.read_exact_at(&mut manifest, 0).map_err(|_| Refusal::Magic)?;
        let update = self.begin(&manifest).await?;
        if update.phase != UpdatePhase::Receiving {
            return Ok(());
        }
        let file = Arc::new(file);
        for at in (0..update.payload_bytes).step_by(FILE_PIECE_BYTES) {
            let file = file.clone();
            let length = (update.payload_bytes - at).min(FILE_PIECE_BYTES as u64) as usize;
            let put = move |receipt: &mut Receipt| {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, MANIFEST_BYTES as u64 + at)?;
                receipt.put(at, &bytes)
            };
            self.receive(put).await?;
        }
        Ok(())
    }

    /// Hears datagrams for ever. Nobody is answered.
    pub async fn hear(&self, socket: UdpSocket) {
        let mut bytes = [0; 2048];
        let mut heard = Vec::new();
        let mut bundle = None;
        loop {
            let received = timeout(SILENCE, socket.recv(&mut bytes)).await;
            match received {
                Ok(Ok(length)) => match Datagram::decode(&bytes[..length]) {
                    Some(Datagram::Manifest(manifest)) if bundle != Some(manifest::id(manifest)) => {
                        match self.begin(manifest).await {
                            Ok(_) => bundle = Some(manifest::id(manifest)),
                            Err(error) => event!("update=unheard reason={:?}", error.to_string()),
                        }
                    }
                    Some(Datagram::Symbol { bundle: of, block, symbol, bytes }) if bundle == Some(of) => {
                        heard.push(Heard { block, number: symbol, bytes: Box::new(*bytes) });
                    }
                    _ => {}
                },
                Ok(Err(_)) => sleep(SILENCE).await,
                Err(_) => {}
            }
            if heard.len() >= HEARD_SYMBOLS || (received.is_err() && !heard.is_empty()) {
                let heard = std::mem::take(&mut heard);
                // Not receiving any more is no failure: a transmission goes on for those who need more of it.
                match self.receive(move |receipt| receipt.hear(&heard)).await {
                    Ok(()) | Err(Error::Not(_)) => {}
                    Err(error) => event!("update=unkept reason={:?}", error.to_string()),
                }
            }
        }
    }
}

/// Files that were dropped for the node, in the order of their names.
fn dropped(inbox: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(inbox).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let mut bundles: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "bundle")).collect();
    bundles.sort();
    bundles
}
