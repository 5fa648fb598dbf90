//! What becomes of an updated slot, by what PID 1 says of the slots.

use alloc::format;
use alloc::string::String;

use crate::control::Slots;
use crate::slot::{Side, Slot};

/// How often a slot is made the first and the node rebooted before it is given up that it starts: a boot state that
/// cannot be written must not make a node reboot for ever.
pub const MAX_ACTIVATIONS: u8 = 3;

/// Where an activated slot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It runs; its vitals have not held for long enough.
    Tried,
    /// It runs, and its vitals hold.
    Confirmed,
    /// It was started and did not live: how each start ended, the last one first.
    Lost(String),
    /// It was not started.
    NotStarted,
    /// The boot state does not know that it was written.
    Unknown,
}

/// What became of `slot`, which was made the first in the node's start number `start`.
pub fn outcome(slot: Slot, start: u32, slots: &Slots) -> Outcome {
    let name = slot.name();
    let standing = slots.slots.iter().find(|known| known.name == name).map(|known| known.standing.as_str());
    let mut ends = String::new();
    for reset in slots.resets.iter().rev().filter(|reset| reset.slot == name && reset.start > start) {
        let (between, colon) =
            (if ends.is_empty() { "" } else { "; " }, if reset.words.is_empty() { "" } else { ": " });
        ends += &format!("{between}{} after {} s{colon}{}", reset.cause, reset.uptime_s, reset.words);
    }
    match standing {
        None | Some("empty") => Outcome::Unknown,
        Some("confirmed") if slots.running == name => Outcome::Confirmed,
        Some(_) if slots.running == name => Outcome::Tried,
        Some(_) if ends.is_empty() => Outcome::NotStarted,
        Some(_) => Outcome::Lost(ends),
    }
}

/// Where an update goes: the slot that does not run. With golden running, the one that is not started first.
pub fn target(slots: &Slots) -> Slot {
    let named = |name: &str| Slot::ALL.into_iter().find(|slot| slot.name() == name);
    let stays = named(&slots.running).and_then(Side::of).or_else(|| named(&slots.preferred).and_then(Side::of));
    stays.unwrap_or(Side::A).other().slot()
}
