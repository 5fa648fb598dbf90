//! An update's way, in a line or two.

use std::fmt::Write as _;

use perigee_core::control::{Update, UpdatePhase};

use super::unit::{bytes, span};

/// Where an update is, and what a bundle for this node can be made from.
pub fn update(update: &Update) -> String {
    let version = update.version.as_deref().unwrap_or("?");
    let slot = update.slot.as_deref().unwrap_or("?");
    let started = match update.activate_at {
        None => "; `perigee update activate` has it started".to_owned(),
        Some(0) => "; it is started as soon as it is whole".to_owned(),
        Some(at) => format!("; it is started at {at} (seconds since 1970)"),
    };
    let mut text = match update.phase {
        UpdatePhase::None => "no update\n".to_owned(),
        UpdatePhase::Receiving => format!("{version} for {slot}: {}{started}\n", here(update)),
        UpdatePhase::Writing => {
            let (done, all) = update.blocks.unwrap_or((0, 1));
            format!("{version} is written to {slot}: {} %{started}\n", 100 * done / all.max(1))
        }
        UpdatePhase::Ready => format!("{version} is ready in {slot}{started}\n"),
        UpdatePhase::Activated => format!("{version} in {slot} is being tried\n"),
        UpdatePhase::Confirmed => format!("{version} in {slot} runs and is confirmed\n"),
        UpdatePhase::Failed => {
            format!("{version} for {slot} FAILED: {}\n", update.reason.as_deref().unwrap_or("nobody knows why"))
        }
    };
    let floor = update.floor.map_or_else(|| "?".to_owned(), |floor| floor.to_string());
    let _infallible = writeln!(text, "takes releases from {floor} on");
    for base in &update.bases {
        let _infallible = writeln!(text, "a patch can be for {} ({})", base.version, base.slot);
    }
    text
}

/// What of an update is here, and when the rest is; `rate` in bytes a second.
pub fn progress(update: &Update, rate: u64) -> String {
    let left = update.payload_bytes.saturating_sub(update.here_bytes);
    let rest =
        left.saturating_mul(1000).checked_div(rate).map_or_else(String::new, |ms| format!(", {} left", span(ms)));
    format!("{}, {}/s{rest}", here(update), bytes(rate))
}

fn here(update: &Update) -> String {
    let percent = 100 * update.here_bytes / update.payload_bytes.max(1);
    format!("{percent} % of {} is there", bytes(update.payload_bytes))
}

#[cfg(test)]
mod tests {
    use perigee_core::control::Base;
    use perigee_core::update::Release;

    use super::*;

    #[test]
    fn an_update_says_where_it_is_and_what_comes_next() {
        let mut seen = Update {
            phase: UpdatePhase::Receiving,
            bundle: None,
            version: Some("1.2.3".into()),
            slot: Some("slot-b".into()),
            payload_bytes: 1 << 20,
            here_bytes: 1 << 18,
            missing: Vec::new(),
            blocks: None,
            activate_at: Some(0),
            reason: None,
            bases: vec![Base { slot: "slot-a".into(), version: "1.2.2".into() }],
            floor: Release::parse("1.1.0"),
        };
        let expected = "\
1.2.3 for slot-b: 25 % of 1.0 MiB is there; it is started as soon as it is whole
takes releases from 1.1.0 on
a patch can be for 1.2.2 (slot-a)
";
        assert_eq!(update(&seen), expected);
        assert_eq!(progress(&seen, 8192), "25 % of 1.0 MiB is there, 8.0 KiB/s, 1 m 36 s left");
        assert_eq!(progress(&seen, 0), "25 % of 1.0 MiB is there, 0 B/s");
        (seen.phase, seen.reason) = (UpdatePhase::Failed, Some("panic after 4 s".into()));
        assert!(update(&seen).starts_with("1.2.3 for slot-b FAILED: panic after 4 s\n"));
    }
}
