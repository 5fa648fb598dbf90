//! Updates: takes a bundle in pieces, in any order and over any number of passes, makes the other slot of it, and has it
//! started.
//!
//! What comes and by which way is here and in [`arrivals`], what is kept of it in [`store`], what happens then in [`steps`],
//! how a slot is made in [`work`], what its starts mean in [`perigee_core::update::course`]. Everything here begins again after a power cut where it was.

mod arrivals;
mod fountain;
mod steps;
pub mod store;
pub mod work;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use perigee_core::control::{Base, MAX_GAPS, Request, Response, Update, UpdatePhase};
use perigee_core::slot::Slot;
use perigee_core::update::course::target;
use perigee_core::update::manifest::{self, MANIFEST_BYTES, Manifest, Refusal, Taker};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};
use tokio::task::spawn_blocking;

use crate::pid1::{self, Pid1};
use crate::{event, partition};
use store::{Receipt, Record, Stage, Store};
use work::{ARCH, Place};

/// Where things are on the node.
#[derive(Clone, Debug)]
pub struct Places {
    /// What is kept of an update.
    pub folder: PathBuf,
    /// Files that are dropped here are taken.
    pub inbox: PathBuf,
    /// A slot's partition.
    pub partition: fn(&Path, &str) -> Option<PathBuf>,
    /// What [`Self::partition`] is given first.
    pub devices: PathBuf,
    /// The running slot's data blocks.
    pub root: Option<PathBuf>,
}

impl Places {
    /// A node's.
    #[must_use]
    pub fn of_node() -> Self {
        Self {
            folder: "/data/update".into(),
            inbox: "/data/inbox".into(),
            partition: |_, name| partition::device(name),
            devices: "/dev".into(),
            root: Some("/dev/dm-0".into()),
        }
    }

    /// Slots that stay while `target` is written.
    fn bases(&self, target: Slot, running: &str) -> Vec<(&'static str, Place)> {
        let stays = Slot::ALL.into_iter().filter(|slot| *slot != target);
        let place = |slot: Slot| {
            let partition = (self.partition)(&self.devices, slot.name())?;
            let data = self.root.clone().filter(|_| slot.name() == running).unwrap_or_else(|| partition.clone());
            Some((slot.name(), Place { partition, data }))
        };
        stays.filter_map(place).collect()
    }
}

/// Why something asked for is not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundle is not taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// PID 1 did not do its part.
    #[error(transparent)]
    Pid1(#[from] pid1::Error),
    /// The data partition did not.
    #[error("the update cannot be kept: {0}")]
    Store(#[from] io::Error),
    /// Not now.
    #[error("{0}")]
    Not(&'static str),
}

const NO_UPDATE: Error = Error::Not("there is no update; begin with `perigee update send`");
const IS_TRIED: Error = Error::Not("an update is being tried; it ends confirmed or failed by itself");

/// What is known of the update.
#[derive(Debug, Default)]
struct Desk {
    record: Option<Record>,
    receipt: Option<Receipt>,
    /// While a slot is written: blocks done, of all.
    blocks: Option<(u64, u64)>,
    /// One more for each update that begins or is forgotten.
    turn: u64,
}

/// Takes updates.
#[derive(Debug)]
pub struct Updater {
    places: Places,
    store: Store,
    key: VerifyingKey,
    pid1: Pid1,
    desk: Arc<Mutex<Desk>>,
    changed: Notify,
}

impl Updater {
    /// Goes on with what is kept; `key` is who signs slots and bundles.
    ///
    /// # Errors
    /// What is kept cannot be read.
    pub fn open(places: Places, key: VerifyingKey, pid1: Pid1) -> io::Result<Self> {
        let store = Store(places.folder.clone());
        let record = store.load()?;
        let receipt = match &record {
            Some(Record { stage: Stage::Confirmed | Stage::Failed(_), .. }) | None => None,
            Some(record) => match Manifest::decode(&record.manifest, &key) {
                Ok(manifest) => Some(store.receipt(manifest.payload_bytes, false)?),
                Err(_) => None,
            },
        };
        let desk = Arc::new(Mutex::new(Desk { record, receipt, ..Desk::default() }));
        Ok(Self { places, store, key, pid1, desk, changed: Notify::new() })
    }

    /// Does what a client asks for; `None`: it is nothing of an update's.
    pub async fn answer(&self, request: &Request) -> Option<Response> {
        let done = match request {
            Request::Update => self.status().await,
            Request::UpdateBegin { manifest } => match manifest::of_digits(manifest) {
                Some(manifest) => self.begin(&manifest).await,
                None => Err(Error::Refused(Refusal::Magic)),
            },
            Request::UpdateActivate { at } => self.activate(at.unwrap_or(0)).await,
            Request::UpdateCancel => self.cancel().await,
            _ => return None,
        };
        Some(said(done))
    }

    /// Keeps a piece of the payload.
    pub async fn put(&self, at: u64, bytes: Vec<u8>) -> Response {
        said(self.keep_piece(at, bytes).await)
    }

    async fn keep_piece(&self, at: u64, bytes: Vec<u8>) -> Result<Update, Error> {
        let is_taken = self.receive(move |receipt| receipt.put(at, &bytes)).await?;
        if is_taken {
            self.status().await
        } else {
            Err(Error::Not("a piece begins at a multiple of 1024 in the payload"))
        }
    }

    /// Changes what is here of the payload, beside the event loop.
    async fn receive<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Receipt) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let mut desk = self.desk.clone().lock_owned().await;
        let is_receiving = desk.record.as_ref().is_some_and(|record| record.stage == Stage::Receiving);
        if !is_receiving || desk.receipt.is_none() {
            return Err(Error::Not("no update is being received; begin with `perigee update send`"));
        }
        let (result, is_whole) = beside(move || {
            let receipt = desk.receipt.as_mut().ok_or_else(|| io::Error::other("no payload"))?;
            let result = change(receipt);
            result.map(|result| (result, receipt.pieces.are_all()))
        })
        .await?;
        if is_whole {
            self.changed.notify_one();
        }
        Ok(result)
    }

    /// Takes an update, or goes on with it if it is the one that is here.
    async fn begin(&self, bytes: &[u8; MANIFEST_BYTES]) -> Result<Update, Error> {
        let manifest = Manifest::decode(bytes, &self.key)?;
        let slots = self.pid1.slots().await?;
        let mut desk = self.desk.clone().lock_owned().await;
        if let Some(record) = &desk.record {
            let is_over = matches!(record.stage, Stage::Failed(_));
            if record.manifest == *bytes && !is_over {
                drop(desk);
                return self.status().await;
            }
            if matches!(record.stage, Stage::Activated { .. }) {
                return Err(IS_TRIED);
            }
        }
        let slot = target(&slots);
        let (places, key) = (self.places.bases(slot, &slots.running), self.key);
        let bases = beside(move || Ok(work::bases(&places, &key))).await?;
        let hashes: Vec<_> = bases.iter().map(|(_, hash, _)| *hash).collect();
        manifest.check(&Taker { arch: ARCH, floor: slots.floor, bases: &hashes })?;
        let record =
            Record { manifest: *bytes, slot: slot.name().to_owned(), stage: Stage::Receiving, activate_at: None };
        event!("update=begins version={} slot={} bytes={}", manifest.version, record.slot, manifest.payload_bytes);
        let (store, payload_bytes) = (self.store.clone(), manifest.payload_bytes);
        desk.turn += 1;
        desk.blocks = None;
        beside(move || {
            // First the payload is made new, then it is whose: a table of one update must not be taken for another's.
            desk.record = None;
            store.forget(true)?;
            desk.receipt = Some(store.receipt(payload_bytes, true)?);
            store.save(&record)?;
            desk.record = Some(record);
            Ok(())
        })
        .await?;
        self.status().await
    }

    async fn activate(&self, at: u64) -> Result<Update, Error> {
        let desk = self.desk.clone().lock_owned().await;
        let Some(mut record) = desk.record.clone() else { return Err(NO_UPDATE) };
        match &record.stage {
            Stage::Receiving | Stage::Writing | Stage::Ready => record.activate_at = Some(at),
            Stage::Activated { .. } | Stage::Confirmed => {}
            Stage::Failed(_) => return Err(Error::Not("the update has failed; send it again or another")),
        }
        self.save(desk, record).await?;
        self.changed.notify_one();
        self.status().await
    }

    async fn cancel(&self) -> Result<Update, Error> {
        let mut desk = self.desk.clone().lock_owned().await;
        if matches!(desk.record, Some(Record { stage: Stage::Activated { .. }, .. })) {
            return Err(IS_TRIED);
        }
        event!("update=cancelled");
        let turn = desk.turn + 1;
        *desk = Desk { turn, ..Desk::default() };
        let store = self.store.clone();
        beside(move || {
            let _nobody_writes_meanwhile = desk;
            store.forget(true)
        })
        .await?;
        self.status().await
    }

    /// How far the update is.
    ///
    /// # Errors
    /// A slot's header cannot be looked for.
    async fn status(&self) -> Result<Update, Error> {
        // A node whose PID 1 does not answer still says how far its update is.
        let slots = self.pid1.slots().await.ok();
        let bases = match &slots {
            None => Vec::new(),
            Some(slots) => {
                let (places, key) = (self.places.bases(target(slots), &slots.running), self.key);
                beside(move || Ok(work::bases(&places, &key))).await?
            }
        };
        let desk = self.desk.lock().await;
        let record = desk.record.as_ref();
        let manifest = record.and_then(|record| Manifest::decode(&record.manifest, &self.key).ok());
        let payload_bytes = manifest.map_or(0, |manifest| manifest.payload_bytes);
        let pieces = desk.receipt.as_ref().map(|receipt| &receipt.pieces);
        let gaps = pieces.into_iter().flat_map(|pieces| pieces.missing().map(|gap| (gap.start, gap.end)));
        Ok(Update {
            phase: record.map_or(UpdatePhase::None, |record| phase(&record.stage)),
            bundle: record.map(|record| manifest::to_digits(&manifest::id(&record.manifest))),
            version: manifest.map(|manifest| manifest.version.to_owned()),
            slot: record.map(|record| record.slot.clone()),
            payload_bytes,
            here_bytes: pieces.map_or(payload_bytes, |pieces| pieces.bytes()),
            missing: gaps.take(MAX_GAPS).collect(),
            blocks: desk.blocks,
            activate_at: record.and_then(|record| record.activate_at),
            reason: record.and_then(|record| match &record.stage {
                Stage::Failed(reason) => Some(reason.clone()),
                _ => None,
            }),
            bases: bases.into_iter().map(|(slot, _, version)| Base { slot: slot.to_owned(), version }).collect(),
            floor: slots.map(|slots| slots.floor),
        })
    }

    async fn save(&self, mut desk: OwnedMutexGuard<Desk>, record: Record) -> Result<(), Error> {
        let store = self.store.clone();
        beside(move || {
            store.save(&record)?;
            if matches!(record.stage, Stage::Confirmed | Stage::Failed(_)) {
                desk.receipt = None;
                store.forget(false)?;
            }
            desk.blocks = None;
            desk.record = Some(record);
            Ok(())
        })
        .await?;
        Ok(())
    }
}

fn said(done: Result<Update, Error>) -> Response {
    match done {
        Ok(update) => Response::Update(update),
        Err(error) => Response::Error(error.to_string()),
    }
}

const fn phase(stage: &Stage) -> UpdatePhase {
    match stage {
        Stage::Receiving => UpdatePhase::Receiving,
        Stage::Writing => UpdatePhase::Writing,
        Stage::Ready => UpdatePhase::Ready,
        Stage::Activated { .. } => UpdatePhase::Activated,
        Stage::Confirmed => UpdatePhase::Confirmed,
        Stage::Failed(_) => UpdatePhase::Failed,
    }
}

/// Runs what reads and writes files beside the event loop.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
