//! The scrubber: reads every block of every slot on a schedule, and has what is wrong written anew.
//!
//! What is right and what it is mended from [`perigee_core::slot::scrub`] decides; here are the devices and the time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use perigee_core::control::{Scrubs, SlotScrub};
use perigee_core::slot::Slot;
use perigee_core::slot::scrub::{Scrub, Tally};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::event;
use crate::partition::{self, Partition};

/// Between two steps of half a mebibyte: a round over all slots takes less than three hours and no more than a
/// hundredth of a slow processor.
const STEP_PAUSE: Duration = Duration::from_secs(5);
/// Before the first round: a node that starts has better things to read.
const FIRST_PAUSE: Duration = Duration::from_secs(600);
/// Between two rounds. A day's flips are far below what the error correction takes.
const ROUND_PAUSE: Duration = Duration::from_hours(24);

/// What is known so far, and a way to ask for more.
#[derive(Debug, Default)]
pub struct Scrubber {
    report: Mutex<Scrubs>,
    hurry: Notify,
    /// The slot that an update is written to.
    left: Mutex<Option<Slot>>,
}

/// One slot's scrub on its way.
struct Work {
    slot: Partition,
    twin: Option<Partition>,
    scrub: Scrub,
}

impl Scrubber {
    /// What was found so far.
    pub fn report(&self) -> Scrubs {
        self.lock().clone()
    }

    /// Reads the rest of this round without pauses; where there is a pause between two rounds, the next one.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// From now on `slot` is not read, and any other is.
    pub fn leave(&self, slot: Option<Slot>) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = slot;
    }

    fn is_left(&self, slot: Slot) -> bool {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) == Some(slot)
    }

    /// Reads the slots for ever. `key` is who signs them; `begin`, any number, says where the first round begins: a node
    /// that is never up for long still reaches all of them.
    pub async fn keep(&self, key: VerifyingKey, begin: u64) {
        let mut pause = FIRST_PAUSE;
        loop {
            let mut hurried = self.pause(pause).await;
            for turn in 0..Slot::ALL.len() {
                let slot = Slot::ALL[(begin as usize).wrapping_add(turn) % Slot::ALL.len()];
                self.lock().reading = Some(slot.name().to_owned());
                hurried = self.read(slot, key, begin / Slot::ALL.len() as u64, hurried).await;
            }
            let mut report = self.lock();
            report.reading = None;
            report.rounds = report.rounds.saturating_add(1);
            pause = ROUND_PAUSE;
        }
    }

    /// Waits; gives whether somebody does not want to.
    async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            () = self.hurry.notified() => true,
            () = sleep(pause) => false,
        }
    }

    async fn read(&self, slot: Slot, key: VerifyingKey, begin: u64, mut hurried: bool) -> bool {
        if self.is_left(slot) {
            return hurried;
        }
        let opened = spawn_blocking(move || open(slot, &key, begin)).await.ok().flatten();
        let Some(mut work) = opened else {
            self.count(slot, false, Tally::default());
            return hurried;
        };
        let mut seen = work.scrub.tally();
        self.count(slot, true, seen);
        while !self.is_left(slot) {
            let stepped = spawn_blocking(move || {
                let more = work.scrub.step(&mut work.slot, work.twin.as_mut());
                (work, more)
            });
            let Ok((back, more)) = stepped.await else { return hurried };
            work = back;
            let tally = work.scrub.tally();
            self.count(slot, true, tally.since(&seen));
            seen = tally;
            if !more {
                return hurried;
            }
            if !hurried {
                hurried = self.pause(STEP_PAUSE).await;
            }
        }
        hurried
    }

    /// Adds what a step has seen.
    fn count(&self, slot: Slot, has_image: bool, tally: Tally) {
        if tally.wrong() > 0 {
            let Tally { corrected, copied, lost, .. } = tally;
            event!("scrub slot={} corrected={corrected} copied={copied} lost={lost}", slot.name());
        }
        let mut report = self.lock();
        let place = match report.slots.iter().position(|known| known.name == slot.name()) {
            Some(place) => place,
            None => {
                report.slots.push(SlotScrub { name: slot.name().to_owned(), ..SlotScrub::default() });
                report.slots.len() - 1
            }
        };
        let known = &mut report.slots[place];
        known.has_image = has_image;
        known.read += tally.read;
        known.corrected += tally.corrected;
        known.copied += tally.copied;
        known.lost += tally.lost;
    }

    fn lock(&self) -> MutexGuard<'_, Scrubs> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot that has an image, and its twin.
fn open(slot: Slot, key: &VerifyingKey, begin: u64) -> Option<Work> {
    let twin = match slot {
        Slot::A => Some(Slot::B),
        Slot::B => Some(Slot::A),
        Slot::Golden => None,
    };
    let open = |slot: Slot| {
        let device = partition::device(slot.name())?;
        let opened = Partition::open(&device);
        opened.inspect_err(|error| event!("scrub slot={} error={:?}", slot.name(), error.to_string())).ok()
    };
    let mut slot = open(slot)?;
    let mut twin = twin.and_then(open);
    let scrub = Scrub::open(&mut slot, twin.as_mut(), key, begin)?;
    Some(Work { slot, twin, scrub })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_steps_add_up() {
        let scrubber = Scrubber::default();
        let step = Tally { read: 128, corrected: 1, ..Tally::default() };
        scrubber.count(Slot::B, true, step);
        scrubber.count(Slot::A, false, Tally::default());
        scrubber.count(Slot::B, true, Tally { lost: 2, ..step });
        let report = scrubber.report();
        let [b, a] = report.slots.as_slice() else { panic!("{report:?}") };
        assert_eq!((b.read, b.corrected, b.lost, b.has_image), (256, 2, 2, true));
        assert_eq!((a.name.as_str(), a.has_image), ("slot-a", false));
    }
}
