//! What a node starts, row by row of the tables, and what comes of long rows of bad luck.

mod random;

use std::time::Duration;

use perigee_core::reset::{Cause, Entry, LEDGER_ENTRIES, Ledger, Rung, Tried, WORDS_BYTES, Words, climb};
use perigee_core::slot::{
    Choice, FIRST_PAUSE, FIRST_STAY, LONGEST_PAUSE, LONGEST_STAY, Rejected, Side, Slot, Standing, State, TRIES,
};
use perigee_core::update::Release;
use perigee_core::watchdog::Vital;
use random::Random;

fn all() -> State {
    State::new(Side::A, [true; 3])
}

/// What is started, if there is no pause before.
fn start(state: &mut State) -> Option<Slot> {
    match state.choose(Rejected::default()) {
        Choice::Start { slot, pause: Duration::ZERO } => Some(slot),
        _ => None,
    }
}

/// So many starts that come to nothing.
fn lose(state: &mut State, starts: u8) {
    for _ in 0..starts {
        assert!(start(state).is_some());
    }
}

#[test]
fn a_slot_whose_vitals_never_hold_is_left_for_the_other_and_then_for_golden() {
    let mut state = all();
    for slot in [Slot::A, Slot::B, Slot::Golden] {
        for left in (0..TRIES).rev() {
            assert_eq!(start(&mut state), Some(slot));
            assert_eq!(state.standing(slot), Standing::Trying { left });
            assert_eq!(state.last, Some(slot));
        }
    }
    assert_eq!(state.starts, 3 * u32::from(TRIES));
}

#[test]
fn when_none_has_a_try_left_each_gets_one_more_after_a_pause_that_doubles() {
    let mut state = all();
    lose(&mut state, 3 * TRIES);
    let mut expected = FIRST_PAUSE;
    for round in 1..=255_u32 {
        assert_eq!(state.choose(Rejected::default()), Choice::Start { slot: Slot::A, pause: expected });
        assert_eq!(u32::from(state.rounds), round);
        assert_eq!(start(&mut state), Some(Slot::B));
        assert_eq!(start(&mut state), Some(Slot::Golden));
        expected = (expected * 2).min(LONGEST_PAUSE);
    }
    assert_eq!(state.choose(Rejected::default()), Choice::Start { slot: Slot::A, pause: LONGEST_PAUSE });
    assert_eq!(state.rounds, 255);
}

#[test]
fn a_slot_whose_vitals_hold_has_all_its_tries_again_and_the_pauses_begin_anew() {
    let mut state = all();
    lose(&mut state, 3 * TRIES);
    let _ = state.choose(Rejected::default());
    assert_eq!(state.rounds, 1);
    state.confirm(Slot::Golden);
    assert_eq!((state.standing(Slot::Golden), state.rounds), (Standing::Confirmed { left: TRIES }, 1));
    state.confirm(Slot::A);
    assert_eq!((state.standing(Slot::A), state.rounds), (Standing::Confirmed { left: TRIES }, 0));
    assert_eq!(start(&mut state), Some(Slot::A));
    assert_eq!(state.standing(Slot::A), Standing::Confirmed { left: TRIES - 1 });
    state.confirm(Slot::B);
    assert_eq!(state.standing(Slot::B), Standing::Confirmed { left: TRIES });
}

#[test]
fn a_slot_that_has_lived_gets_a_try_when_another_is_confirmed_and_one_that_never_did_gets_none() {
    let mut state = all();
    state.confirm(Slot::A);
    lose(&mut state, TRIES);
    assert_eq!(start(&mut state), Some(Slot::B));
    state.confirm(Slot::Golden);
    assert_eq!(state.standing(Slot::A), Standing::Confirmed { left: 0 }, "golden says nothing of the others");
    state.confirm(Slot::B);
    assert_eq!(state.standing(Slot::A), Standing::Confirmed { left: 1 });
    assert_eq!(start(&mut state), Some(Slot::A));
    assert_eq!(start(&mut state), Some(Slot::B));

    let mut updated = all();
    updated.confirm(Slot::B);
    lose(&mut updated, TRIES);
    assert_eq!(start(&mut updated), Some(Slot::B));
    updated.confirm(Slot::B);
    assert_eq!(updated.standing(Slot::A), Standing::Trying { left: 0 });
    assert_eq!(start(&mut updated), Some(Slot::B));
}

#[test]
fn the_preferred_slot_comes_first() {
    let mut state = State::new(Side::B, [true; 3]);
    assert_eq!(start(&mut state), Some(Slot::B));
    state.preferred = state.preferred.other();
    assert_eq!(start(&mut state), Some(Slot::A));
    assert_eq!((Side::A.other(), Side::B.other()), (Side::B, Side::A));
}

#[test]
fn an_empty_slot_is_passed_over_and_gets_no_tries() {
    let mut state = State::new(Side::A, [false, false, true]);
    for _ in 0..TRIES {
        assert_eq!(start(&mut state), Some(Slot::Golden));
    }
    assert_eq!(state.choose(Rejected::default()), Choice::Start { slot: Slot::Golden, pause: FIRST_PAUSE });
    assert_eq!(state.standing(Slot::A), Standing::Empty);
    let mut nothing = State::new(Side::A, [false; 3]);
    assert_eq!(nothing.choose(Rejected::default()), Choice::Reset { pause: FIRST_PAUSE });
    assert_eq!(nothing.choose(Rejected::default()), Choice::Reset { pause: FIRST_PAUSE * 2 });
    assert_eq!((nothing.starts, nothing.last), (0, None));
}

#[test]
fn a_slot_that_the_loader_rejects_loses_its_try_and_the_next_one_is_started() {
    let mut state = all();
    let mut rejected = Rejected::default();
    for slot in Slot::ALL {
        assert_eq!(state.choose(rejected), Choice::Start { slot, pause: Duration::ZERO });
        state.reject(slot, "no signature");
        rejected.add(slot);
        assert!(rejected.contains(slot));
        assert_eq!(state.standing(slot), Standing::Trying { left: TRIES - 1 });
    }
    assert_eq!(state.choose(rejected), Choice::Reset { pause: FIRST_PAUSE });
    let causes: Vec<_> = state.ledger.entries().map(|entry| (entry.start, entry.slot, entry.cause)).collect();
    let expected = [(1, Slot::A), (2, Slot::B), (3, Slot::Golden)];
    assert_eq!(causes, expected.map(|(start, slot)| (start, slot, Cause::Rejected)));
}

#[test]
fn what_was_asked_for_is_started_once_even_without_a_try_left() {
    let mut state = all();
    lose(&mut state, TRIES);
    state.once = Some(Slot::A);
    assert_eq!(start(&mut state), Some(Slot::A));
    assert_eq!(state.standing(Slot::A), Standing::Trying { left: 0 });
    assert_eq!((state.once, start(&mut state)), (None, Some(Slot::B)));
    state.once = Some(Slot::Golden);
    let mut rejected = Rejected::default();
    rejected.add(Slot::Golden);
    assert_eq!(state.choose(rejected), Choice::Start { slot: Slot::B, pause: Duration::ZERO });
    assert_eq!(state.once, None, "it was tried");
    state.once = Some(Slot::B);
    state.clear(Side::B);
    assert_eq!(state.once, None, "there is nothing to start any more");
    state.once = Some(Slot::A);
    state.clear(Side::B);
    assert_eq!(state.once, Some(Slot::A));
}

#[test]
fn a_slot_that_is_being_written_is_not_started_until_it_is_whole() {
    let mut state = all();
    state.confirm(Slot::B);
    state.clear(Side::A);
    assert_eq!((state.standing(Slot::A), start(&mut state)), (Standing::Empty, Some(Slot::B)));
    state.written(Side::A, Release::default());
    assert_eq!(state.standing(Slot::A), Standing::Trying { left: TRIES });
    assert_eq!(start(&mut state), Some(Slot::A));
}

#[test]
fn a_floor_rises_when_the_updated_slot_lives_and_not_before() {
    let release = |version| Release::parse(version).unwrap();
    let mut state = all();
    state.written(Side::B, release("1.2.0"));
    state.confirm(Slot::A);
    assert_eq!(state.floor, Release::default(), "another slot lives");
    state.once = Some(Slot::Golden);
    state.prefer(Side::B);
    assert_eq!(start(&mut state), Some(Slot::B));
    state.confirm(Slot::B);
    assert_eq!((state.floor, state.next_floor), (release("1.2.0"), None));
    state.written(Side::A, release("1.1.9"));
    state.confirm(Slot::A);
    assert_eq!(state.floor, release("1.2.0"), "it never falls");
    state.written(Side::B, release("2.0.0"));
    state.clear(Side::B);
    state.confirm(Slot::B);
    assert_eq!(state.floor, release("1.2.0"), "what was to come with an image went with it");
}

#[test]
fn golden_gives_the_others_another_try_after_a_stay_that_doubles() {
    let mut state = all();
    lose(&mut state, 2 * TRIES);
    assert_eq!(start(&mut state), Some(Slot::Golden));
    state.confirm(Slot::Golden);
    let mut expected = FIRST_STAY;
    for _ in 0..8 {
        assert_eq!(state.golden_stay(), expected);
        expected = (expected * 2).min(LONGEST_STAY);
        state.retry();
        assert_eq!(state.standing(Slot::Golden), Standing::Confirmed { left: TRIES }, "a try less would be a loss");
        assert_eq!((start(&mut state), start(&mut state)), (Some(Slot::A), Some(Slot::B)));
        assert_eq!(start(&mut state), Some(Slot::Golden));
        state.confirm(Slot::Golden);
    }
    assert_eq!(state.golden_stay(), LONGEST_STAY);
}

#[test]
fn an_end_that_nobody_explained_is_unknown_or_what_the_device_says() {
    let mut state = all();
    state.account(None);
    assert_eq!(state.ledger.entries().count(), 0, "the first start follows nothing");
    let _ = start(&mut state);
    state.account(None);
    state.account(Some(Cause::Watchdog));
    let _ = start(&mut state);
    state.account(Some(Cause::Watchdog));
    let _ = start(&mut state);
    state.end(Cause::Command, 77, "perigee reboot");
    state.account(Some(Cause::Watchdog));
    let told: Vec<_> = state.ledger.entries().map(|entry| (entry.start, entry.cause, entry.uptime_s)).collect();
    assert_eq!(told, [(1, Cause::Unknown, 0), (2, Cause::Watchdog, 0), (3, Cause::Command, 77)]);
    assert_eq!(state.ledger.entries().next_back().unwrap().words.as_str(), "perigee reboot");
}

#[test]
fn a_rejected_slot_and_a_lost_state_are_no_ends() {
    let mut ledger = Ledger::default();
    ledger.push(Entry::new(5, Slot::A, Cause::Rejected, 0, ""));
    ledger.push(Entry::new(5, Slot::A, Cause::StateLost, 0, ""));
    assert!(!ledger.tells_end_of(5));
    ledger.push(Entry::new(5, Slot::A, Cause::Unknown, 0, ""));
    assert!(ledger.tells_end_of(5) && !ledger.tells_end_of(4));
}

#[test]
fn a_state_that_was_lost_is_in_the_ledger_of_the_new_one() {
    let mut state = all();
    state.prefer(Side::B);
    state.lost("no copy is whole");
    let told: Vec<_> = state.ledger.entries().map(|entry| (entry.slot, entry.cause, entry.words.as_str())).collect();
    assert_eq!(told, [(Slot::B, Cause::StateLost, "no copy is whole")]);
}

#[test]
fn what_the_kernel_left_in_memory_explains_the_last_end_if_nobody_had() {
    let panic = "Kernel panic - not syncing";
    for (cause, explained) in
        [(Cause::Unknown, Cause::Panic), (Cause::Watchdog, Cause::Panic), (Cause::Command, Cause::Command)]
    {
        let mut ledger = Ledger::default();
        ledger.amend(Cause::Panic, panic);
        assert_eq!(ledger, Ledger::default());
        ledger.push(Entry::new(1, Slot::B, Cause::Unknown, 0, "?"));
        ledger.push(Entry::new(2, Slot::B, cause, 0, "?"));
        ledger.push(Entry::new(3, Slot::B, Cause::Rejected, 0, "?"));
        ledger.amend(Cause::Panic, panic);
        let told: Vec<_> = ledger.entries().map(|entry| (entry.cause, entry.words.as_str())).collect();
        let words = if explained == Cause::Panic { panic } else { "?" };
        assert_eq!(told, [(Cause::Unknown, "?"), (explained, words), (Cause::Rejected, "?")]);
    }
}

#[test]
fn the_ledger_forgets_the_oldest() {
    let mut ledger = Ledger::default();
    for start in 0..LEDGER_ENTRIES as u32 + 3 {
        ledger.push(Entry::new(start, Slot::A, Cause::Unknown, 0, ""));
    }
    let starts: Vec<_> = ledger.entries().map(|entry| entry.start).collect();
    assert_eq!(starts, (3..LEDGER_ENTRIES as u32 + 3).collect::<Vec<_>>());
}

#[test]
fn words_are_cut_between_characters() {
    assert_eq!(Words::new("").as_str(), "");
    assert_eq!(Words::new(&"x".repeat(WORDS_BYTES)).as_str().len(), WORDS_BYTES);
    let odd = format!("x{}", "é".repeat(WORDS_BYTES));
    assert_eq!(Words::new(&odd).as_str().len(), WORDS_BYTES - 1);
    assert_eq!(format!("{:?}", Words::new("a\"b")), r#""a\"b""#);
}

#[test]
fn causes_are_told_in_one_word() {
    let words: Vec<_> = [
        Cause::Unknown,
        Cause::Command,
        Cause::Watchdog,
        Cause::Panic,
        Cause::Rejected,
        Cause::StateLost,
        Cause::Vital(Vital::Data),
        Cause::Vital(Vital::Kubelet),
    ]
    .iter()
    .map(Cause::to_string)
    .collect();
    let expected = ["unknown", "command", "watchdog", "panic", "rejected", "state-lost", "vital-data", "vital-kubelet"];
    assert_eq!(words, expected);
    assert_eq!(Slot::ALL.map(Slot::name), ["slot-a", "slot-b", "golden"]);
}

#[test]
fn the_ladder_is_climbed_rung_by_rung() {
    let mut state = all();
    let _ = start(&mut state);
    assert_eq!(climb(Tried::Nothing, &state), Rung::Service);
    assert_eq!(climb(Tried::Service, &state), Rung::Group);
    let mut rungs = vec![climb(Tried::Group, &state)];
    let before = state.clone();
    while rungs.last() != Some(&Rung::Safe) {
        let _ = start(&mut state);
        rungs.push(climb(Tried::Group, &state));
    }
    use Rung::{Golden, OtherSlot, Reboot, Safe};
    assert_eq!(rungs, [Reboot, Reboot, OtherSlot, Reboot, Reboot, Golden, Reboot, Reboot, Safe]);
    assert_eq!(climb(Tried::Group, &before), Reboot, "asking changes nothing");
    assert_eq!(climb(Tried::Group, &State::new(Side::A, [false; 3])), Safe);
}

/// Slots go bad and become good again at random; the loader may reject them, a start may be lost to a power cut.
#[test]
fn a_good_slot_is_found_whatever_happened_before_and_nothing_starts_at_full_rate_for_ever() {
    for seed in 0..2_000 {
        let mut random = Random::new(seed);
        let mut state = State::new(*random.pick(&[Side::A, Side::B]), [true, random.percent(80), true]);
        let mut now = Duration::ZERO;
        let mut starts_of_nothing = Vec::new();
        for _ in 0..200 {
            let good = [0, 1, 2].map(|_| random.percent(20));
            now += turn(&mut state, &mut random, good);
            if random.percent(10) {
                state.once = Some(*random.pick(&Slot::ALL));
            }
            if random.percent(5) {
                let side = *random.pick(&[Side::A, Side::B]);
                state.clear(side);
                state.written(side, Release(random.below(9)));
                state.prefer(side);
            }
        }
        // From now on nothing is good: starts become rare.
        state.once = None;
        for _ in 0..60 {
            now += turn(&mut state, &mut random, [false; 3]);
            starts_of_nothing.push(now);
        }
        let (first, last) = (starts_of_nothing[30], starts_of_nothing[59]);
        assert!(last - first > 7 * LONGEST_PAUSE, "seed {seed}: 30 starts in {:?}", last - first);
        // And one slot is: it is found within a round, and stays.
        let good = Slot::ALL.map(|slot| slot == Slot::A);
        let found = (0..4).any(|_| {
            turn(&mut state, &mut random, good);
            state.last == Some(Slot::A) && state.standing(Slot::A) == Standing::Confirmed { left: TRIES }
        });
        assert!(found, "seed {seed}: {state:?}");
    }
}

/// One start of the machine; gives the pause before it.
fn turn(state: &mut State, random: &mut Random, good: [bool; 3]) -> Duration {
    state.account(None);
    let mut rejected = Rejected::default();
    let mut paused = Duration::ZERO;
    loop {
        let before = state.clone();
        match state.choose(rejected) {
            Choice::Reset { pause } => {
                assert!(
                    Slot::ALL.iter().all(|slot| rejected.contains(*slot) || state.standing(*slot) == Standing::Empty)
                );
                return paused + pause;
            }
            Choice::Start { slot, pause } => {
                assert!(state.standing(slot) != Standing::Empty && !rejected.contains(slot));
                assert_eq!((state.last, state.starts), (Some(slot), before.starts + 1));
                assert!(before.once == Some(slot) || before.standing(slot).left() > 0 || !pause.is_zero());
                paused += pause;
                if good[slot as usize] {
                    state.confirm(slot);
                    return paused;
                }
                if random.percent(70) {
                    return paused;
                }
                state.reject(slot, "its signature is not ours");
                rejected.add(slot);
            }
        }
    }
}
