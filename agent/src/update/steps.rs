//! The way of an update, a step at a time: all pieces are here, the slot is made, started, and lives or does not.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use perigee_core::control::{Request, Slots};
use perigee_core::slot::Slot;
use perigee_core::update::course::{MAX_ACTIVATIONS, Outcome, outcome};
use perigee_core::update::manifest::{Manifest, Refusal};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, timeout};

use super::store::{Record, Stage};
use super::work::{self, Place, Work};
use super::{Desk, Error, NO_UPDATE, Updater, beside};
use crate::event;
use crate::scrub::Scrubber;

/// How often it is looked whether there is something to do that nobody tells of: a file, a time, PID 1's word.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// How long an orderly reboot may take.
const REBOOT_PERIOD: Duration = Duration::from_secs(120);

impl Updater {
    /// Does what is next, for ever; tells `scrubber` what it must not read.
    pub async fn keep(&self, scrubber: &Scrubber) {
        loop {
            let pause = match self.next(scrubber).await {
                Ok(pause) => pause,
                Err(error) => {
                    event!("update=waits reason={:?}", error.to_string());
                    LOOK_PERIOD
                }
            };
            let _either = timeout(pause, self.changed.notified()).await;
            self.take_dropped().await;
        }
    }

    /// One step on an update's way; gives how long to wait before the next.
    async fn next(&self, scrubber: &Scrubber) -> Result<Duration, Error> {
        let desk = self.desk.clone().lock_owned().await;
        let Some(record) = desk.record.clone() else { return Ok(LOOK_PERIOD) };
        let turn = desk.turn;
        let Some(slot) = record.slot() else { return Ok(LOOK_PERIOD) };
        match record.stage.clone() {
            Stage::Receiving if desk.receipt.as_ref().is_some_and(|receipt| receipt.pieces.are_all()) => {
                self.check_payload(desk, record).await?;
                Ok(Duration::ZERO)
            }
            Stage::Writing => {
                drop(desk);
                scrubber.leave(Some(slot));
                let written = self.write(record, turn, slot).await;
                scrubber.leave(None);
                written.map(|()| Duration::ZERO)
            }
            Stage::Ready | Stage::Activated { .. } => {
                drop(desk);
                self.settle(record, slot).await
            }
            Stage::Receiving | Stage::Confirmed | Stage::Failed(_) => Ok(LOOK_PERIOD),
        }
    }

    /// All pieces are here: are they what was signed?
    async fn check_payload(&self, mut desk: OwnedMutexGuard<Desk>, mut record: Record) -> Result<(), Error> {
        let expected = Manifest::decode(&record.manifest, &self.key)?.payload_sha256;
        let (desk, is_right, is_changed) = beside(move || {
            let receipt = desk.receipt.as_mut().ok_or_else(|| io::Error::other("no payload"))?;
            let is_right = receipt.sha256()? == expected;
            let is_changed = !is_right && receipt.drop_changed()?;
            Ok((desk, is_right, is_changed))
        })
        .await?;
        match (is_right, is_changed) {
            (true, _) => record.stage = Stage::Writing,
            (false, true) => {
                event!("update=damaged reason=\"the medium has changed pieces; they are missing again\"");
                return Ok(());
            }
            (false, false) => record.stage = failed(&Refusal::Payload),
        }
        self.save(desk, record).await
    }

    /// Makes the slot; ends early, without a word, if the update is forgotten meanwhile.
    async fn write(&self, mut record: Record, turn: u64, slot: Slot) -> Result<(), Error> {
        let slots = self.pid1.slots().await?;
        if slots.running == slot.name() {
            record.stage = Stage::Failed("the slot that it is for runs".to_owned());
            let desk = self.desk.clone().lock_owned().await;
            return self.save(desk, record).await;
        }
        let made = self.make(&record, turn, slot, &slots).await?;
        let mut desk = self.desk.clone().lock_owned().await;
        desk.blocks = None;
        if desk.turn != turn {
            return Ok(());
        }
        // What was asked for meanwhile stays asked for.
        record.activate_at = desk.record.as_ref().and_then(|record| record.activate_at);
        record.stage = match made {
            Ok(written) => {
                let floor = Manifest::decode(&record.manifest, &self.key)?.floor;
                self.pid1.tell(&Request::SlotWritten { slot: record.slot.clone(), floor }).await?;
                event!("update=written slot={} blocks={written}", record.slot);
                Stage::Ready
            }
            Err(error) => failed(&error),
        };
        self.save(desk, record).await
    }

    /// Gives how many blocks had to be written.
    async fn make(
        &self,
        record: &Record,
        turn: u64,
        slot: Slot,
        slots: &Slots,
    ) -> Result<Result<u64, work::Error>, Error> {
        let Some(partition) = (self.places.partition)(&self.places.devices, slot.name()) else {
            return Ok(Err(work::Error::Medium { what: slot.name().into(), source: io::ErrorKind::NotFound.into() }));
        };
        let place = Place { data: partition.clone(), partition };
        let (places, key, bytes) = (self.places.bases(slot, &slots.running), self.key, record.manifest);
        let payload = self.desk.lock().await.receipt.as_ref().map(|receipt| receipt.payload.clone());
        let payload = payload.ok_or(NO_UPDATE)?;
        let begun = beside(move || {
            let begin = || {
                let manifest = Manifest::decode(&bytes, &key)?;
                let base = match manifest.base {
                    None => None,
                    Some(wanted) => {
                        let bases = work::bases(&places, &key);
                        let (name, ..) = bases.iter().find(|(_, hash, _)| *hash == wanted).ok_or(Refusal::Base)?;
                        places.iter().find(|(known, _)| known == name).map(|(_, place)| place)
                    }
                };
                Work::begin(&manifest, payload, base, &place, key)
            };
            Ok(begin())
        });
        let mut work = match begun.await? {
            Ok(work) => work,
            Err(error) => return Ok(Err(error)),
        };
        // The boot state forgets the slot before anything of it changes.
        self.pid1.tell(&Request::SlotClear { slot: slot.name().to_owned() }).await?;
        let mut is_first = true;
        loop {
            let stepped = beside(move || {
                let step = if is_first { work.clear().map(|()| true) } else { work.step() };
                Ok((work, step))
            });
            let (back, step) = stepped.await?;
            work = back;
            is_first = false;
            let mut desk = self.desk.lock().await;
            if desk.turn != turn {
                return Ok(Ok(0));
            }
            desk.blocks = Some(work.progress());
            match step {
                Ok(true) => {}
                Ok(false) => return Ok(Ok(work.written())),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// The slot is whole: starts it when it is time, and sees what became of it.
    async fn settle(&self, mut record: Record, slot: Slot) -> Result<Duration, Error> {
        let slots = self.pid1.slots().await?;
        let (start, times) = match record.stage {
            Stage::Activated { start, times } => (start, times),
            // Before it was started nothing that it did counts.
            _ => (slots.starts, 0),
        };
        record.stage = match (outcome(slot, start, &slots), times) {
            (Outcome::Tried, _) => return Ok(LOOK_PERIOD),
            (Outcome::Confirmed, _) => Stage::Confirmed,
            // The power went before PID 1 had written it down.
            (Outcome::Unknown, _) => Stage::Writing,
            (Outcome::Lost(ends), _) => self.give_up(&slots, ends).await?,
            (Outcome::NotStarted, MAX_ACTIVATIONS..) => self.give_up(&slots, "it was never started".to_owned()).await?,
            (Outcome::NotStarted, 0) if !is_time(record.activate_at) => return Ok(LOOK_PERIOD.min(wait(&record))),
            (Outcome::NotStarted, _) => Stage::Activated { start: slots.starts, times: times + 1 },
        };
        event!("update={:?} slot={}", record.stage, record.slot);
        let goes = matches!(record.stage, Stage::Activated { .. });
        let desk = self.desk.clone().lock_owned().await;
        self.save(desk, record).await?;
        if !goes {
            return Ok(Duration::ZERO);
        }
        self.pid1.tell(&Request::SlotPrefer { slot: slot.name().to_owned() }).await?;
        self.pid1.tell(&Request::Reboot).await?;
        sleep(REBOOT_PERIOD).await;
        Ok(Duration::ZERO)
    }

    /// The slot that lives is the first again.
    async fn give_up(&self, slots: &Slots, reason: String) -> Result<Stage, Error> {
        let is_side = Slot::ALL.iter().any(|slot| slot.name() == slots.running && *slot != Slot::Golden);
        if is_side {
            self.pid1.tell(&Request::SlotPrefer { slot: slots.running.clone() }).await?;
        }
        Ok(Stage::Failed(reason))
    }
}

fn failed(error: &impl ToString) -> Stage {
    Stage::Failed(error.to_string())
}

/// Seconds since 1970, by the node's clock.
fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn is_time(at: Option<u64>) -> bool {
    at.is_some_and(|at| at <= clock())
}

fn wait(record: &Record) -> Duration {
    record.activate_at.map_or(Duration::MAX, |at| Duration::from_secs(at.saturating_sub(clock())))
}
