//! Updates: manifests that are refused by name, patches that make what they say or nothing, and a payload's way over a
//! link that drops to a node whose power goes.

mod random;

use std::ops::Range;

use ed25519_dalek::{Signer, SigningKey};
use perigee_core::control::Slots;
use perigee_core::reset::Cause;
use perigee_core::slot::header::Arch;
use perigee_core::slot::{Rejected, Side, Slot, State};
use perigee_core::update::Release;
use perigee_core::update::course::{Outcome, outcome, target};
use perigee_core::update::datagram::{self, Datagram};
use perigee_core::update::manifest::{self, MANIFEST_BYTES, MAX_PAYLOAD_BYTES, Manifest, Refusal, Taker};
use perigee_core::update::patch::{self, Patch, Sources, Step};
use perigee_core::update::pieces::{PIECE_BYTES, Pieces, SYMBOL_BYTES, cut};
use random::Random;

const BASE: [u8; 32] = [4; 32];

fn key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

fn release(version: &str) -> Release {
    Release::parse(version).expect("a version")
}

fn manifest() -> Manifest<'static> {
    Manifest {
        arch: Arch::X86_64,
        is_downgrade: false,
        release: release("1.2.3"),
        floor: release("1.2.0"),
        payload_bytes: 1_604_123,
        payload_sha256: [1; 32],
        header_sha256: [2; 32],
        base: Some(BASE),
        version: "1.2.3+755ce8bbd604c751",
    }
}

fn encode(manifest: &Manifest<'_>) -> Result<[u8; MANIFEST_BYTES], Refusal> {
    manifest.encode(|bytes| key().sign(bytes).to_bytes())
}

#[test]
fn releases_are_ordered_by_their_numbers() {
    let row = ["0.0.1", "0.1.0", "0.1.10", "0.2.0-rc.1+x", "1.0.0+abc", "65535.65535.4294967295"];
    assert!(row.windows(2).all(|pair| release(pair[0]) < release(pair[1])));
    assert_eq!(release("1.22.333+x").to_string(), "1.22.333");
    for other in ["", "1", "1.2", "1.2.3.4", "a.b.c", "1.2.x", "65536.0.0", "-1.2.3", "1..2"] {
        assert_eq!(Release::parse(other), None, "{other}");
    }
}

#[test]
fn a_manifest_is_read_as_it_was_written_and_any_flipped_bit_is_refused() {
    let key = key().verifying_key();
    let bytes = encode(&manifest()).unwrap();
    assert_eq!(Manifest::decode(&bytes, &key), Ok(manifest()));
    let full = Manifest { base: None, ..manifest() };
    assert_eq!(Manifest::decode(&encode(&full).unwrap(), &key).unwrap().base, None);
    for bit in 0..MANIFEST_BYTES * 8 {
        let mut changed = bytes;
        changed[bit / 8] ^= 1 << (bit % 8);
        let expected = if bit < 64 { Refusal::Magic } else { Refusal::Signature };
        assert_eq!(Manifest::decode(&changed, &key), Err(expected), "bit {bit}");
    }
}

#[test]
fn what_makes_no_sense_is_not_signed() {
    let refused = |manifest: Manifest<'_>, field: &str| {
        let error = encode(&manifest).unwrap_err();
        assert!(matches!(error, Refusal::Field(_)) && error.to_string().contains(field), "{error}");
    };
    refused(Manifest { floor: release("1.2.4"), ..manifest() }, "floor");
    refused(Manifest { payload_bytes: 0, ..manifest() }, "payload_bytes");
    refused(Manifest { payload_bytes: MAX_PAYLOAD_BYTES + 1, ..manifest() }, "payload_bytes");
    refused(Manifest { version: "1.2.4", ..manifest() }, "version");
    refused(Manifest { version: &"1.2.3+".repeat(20), ..manifest() }, "version");
    for (at, value, field) in [(8, 3, "architecture"), (12, 2, "downgrade")] {
        let mut bytes = encode(&manifest()).unwrap();
        bytes[at] = value;
        let signature = key().sign(&bytes[..MANIFEST_BYTES - 64]).to_bytes();
        bytes[MANIFEST_BYTES - 64..].copy_from_slice(&signature);
        let error = Manifest::decode(&bytes, &key().verifying_key()).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
}

#[test]
fn a_node_takes_what_is_for_it_and_not_too_old() {
    let taker = Taker { arch: Arch::X86_64, floor: release("1.2.3"), bases: &[[3; 32], BASE] };
    assert_eq!(manifest().check(&taker), Ok(()));
    assert_eq!(manifest().check(&Taker { arch: Arch::Aarch64, ..taker }), Err(Refusal::Arch(Arch::X86_64)));
    assert_eq!(manifest().check(&Taker { bases: &[[3; 32]], ..taker }), Err(Refusal::Base));
    assert_eq!(Manifest { base: None, ..manifest() }.check(&Taker { bases: &[], ..taker }), Ok(()));
    let newer = Taker { floor: release("1.2.4"), ..taker };
    let older = Refusal::Older { release: release("1.2.3"), floor: release("1.2.4") };
    assert_eq!(manifest().check(&newer), Err(older));
    assert_eq!(Manifest { is_downgrade: true, ..manifest() }.check(&newer), Ok(()));
}

/// A patch's streams in memory.
#[derive(Default)]
struct Streams<'a> {
    steps: &'a [u8],
    differences: &'a [u8],
    news: &'a [u8],
    old: &'a [u8],
}

fn take(from: &mut &[u8], into: &mut [u8]) -> bool {
    let Some((bytes, rest)) = from.split_at_checked(into.len()) else { return false };
    into.copy_from_slice(bytes);
    *from = rest;
    true
}

impl Sources for Streams<'_> {
    fn steps(&mut self, into: &mut [u8]) -> bool {
        take(&mut self.steps, into)
    }
    fn differences(&mut self, into: &mut [u8]) -> bool {
        take(&mut self.differences, into)
    }
    fn news(&mut self, into: &mut [u8]) -> bool {
        take(&mut self.news, into)
    }
    fn old(&mut self, at: u64, into: &mut [u8]) -> bool {
        let from = usize::try_from(at).ok().and_then(|at| self.old.get(at..));
        from.is_some_and(|mut from| take(&mut from, into))
    }
}

fn encode_steps(steps: &[Step]) -> Vec<u8> {
    let mut bytes = Vec::new();
    steps.iter().for_each(|step| step.encode(&mut bytes));
    bytes
}

#[test]
fn a_patch_copies_adds_and_inserts_whatever_is_asked_for_at_a_time() {
    let old: Vec<u8> = (0..=255).collect();
    let steps = encode_steps(&[
        Step { copied: 3, added: 2, new: 1, moved: 100 },
        Step { copied: 0, added: 2, new: 0, moved: -104 },
        Step { copied: 4, ..Step::default() },
    ]);
    let expected = [0, 1, 2, 3 + 10, 4 + 255 - 256 + 1, 77, 105 + 1, 106 + 2, 3, 4, 5, 6].map(|byte: i32| byte as u8);
    for at_a_time in 1..=expected.len() {
        let mut streams = Streams { steps: &steps, differences: &[10, 0, 1, 2], news: &[77], old: &old };
        let mut patch = Patch::default();
        let mut made = vec![0; expected.len()];
        for bytes in made.chunks_mut(at_a_time) {
            patch.fill(&mut streams, bytes).unwrap();
        }
        assert_eq!(made, expected, "{at_a_time} at a time");
    }
}

#[test]
fn a_patch_that_is_nonsense_ends_with_its_reason() {
    let step = |copied, added, new, moved| encode_steps(&[Step { copied, added, new, moved }]);
    let long = [vec![0xff; 10], vec![0]].concat();
    let cases: [(&[u8], patch::Error); 8] = [
        (&[], patch::Error::Stream("steps")),
        (&[0x80], patch::Error::Stream("steps")),
        (&long, patch::Error::Number),
        (&step(0, 0, 0, 5), patch::Error::Nothing),
        (&step(9, 0, 0, 0), patch::Error::Old),
        (&step(0, 1, 0, 0), patch::Error::Stream("differences")),
        (&step(0, 0, 1, 0), patch::Error::Stream("new bytes")),
        (&[step(1, 0, 0, -2), step(1, 0, 0, 0)].concat(), patch::Error::Old),
    ];
    for (steps, expected) in cases {
        let mut streams = Streams { steps, old: &[1, 2, 3], ..Streams::default() };
        assert_eq!(Patch::default().fill(&mut streams, &mut [0; 9]), Err(expected), "{steps:?}");
    }
}

#[test]
fn any_bytes_are_a_patch_or_an_error() {
    let mut random = Random::new(5);
    for _ in 0..20_000 {
        let mut bytes = |most: usize| -> Vec<u8> { (0..random.index(most)).map(|_| random.next() as u8).collect() };
        let (steps, differences, news, old) = (bytes(40), bytes(400), bytes(400), bytes(400));
        let mut streams = Streams { steps: &steps, differences: &differences, news: &news, old: &old };
        let _made_or_not = Patch::default().fill(&mut streams, &mut [0; 600]);
    }
}

#[test]
fn pieces_know_what_is_missing_in_any_order() {
    let mut random = Random::new(6);
    for payload_bytes in [1, 1023, 1024, 1025, 50_000] {
        let mut pieces = Pieces::none(payload_bytes);
        let mut order: Vec<usize> = (0..pieces.symbols()).collect();
        order.sort_by_cached_key(|_| random.next());
        for symbol in order {
            let missing: u64 = pieces.missing().map(|range| range.end - range.start).sum();
            assert_eq!(missing + pieces.bytes(), payload_bytes);
            assert!(!pieces.are_all() && !pieces.has(symbol));
            pieces.add(symbol, b"it");
            pieces.add(symbol, b"it");
            assert!(pieces.has(symbol));
        }
        assert!(pieces.are_all() && pieces.missing().next().is_none());
        assert_eq!(Pieces::decode(payload_bytes, &pieces.encode(0..pieces.symbols())), pieces);
        assert!(pieces.drop_changed(0, b"another") && !pieces.drop_changed(0, b"another"));
        assert_eq!(pieces.missing().next(), Some(0..payload_bytes.min(1024)));
    }
    assert_eq!(Pieces::decode(5000, &[1, 2, 3, 4, 5]).bytes(), 1024, "a table that was cut short");
}

#[test]
fn only_whole_symbols_count() {
    let pieces = Pieces::none(5000);
    assert_eq!(pieces.whole(0, 1023), Some(0..0));
    assert_eq!(pieces.whole(1024, 2100), Some(1..3));
    assert_eq!(pieces.whole(4096, 904), Some(4..5), "the last one is shorter");
    assert_eq!(pieces.whole(4096, 903), Some(4..4));
    for (at, bytes) in [(1, 1024), (4096, 905), (u64::MAX, 1), (1 << 40, u64::MAX)] {
        assert_eq!(pieces.whole(at, bytes), None);
    }
}

/// One transfer over a link that answers, as `perigee update send` and the agent do it: pieces one after the other on a
/// connection; when it breaks, and when the node's power goes, what is missing is asked for again. Gives the bytes sent.
fn transfer(random: &mut Random, payload: &[u8], pass_bytes: u64) -> u64 {
    /// A request for a piece, and TLS around both.
    const SAID_WITH_EACH: u64 = 47 + 2 * 22;
    let total = payload.len() as u64;
    // On the medium; what came after the last flush a power cut takes away.
    let mut disk = Pieces::none(total);
    let mut sent = MANIFEST_BYTES as u64 + SAID_WITH_EACH;
    while !disk.are_all() {
        let mut left = 1 + random.below(2 * pass_bytes);
        let power_goes = random.percent(10);
        let mut memory = disk.clone();
        let missing: Vec<_> = disk.missing().collect();
        for piece in cut(missing) {
            let length = (piece.end - piece.start + SAID_WITH_EACH).min(left);
            sent += length;
            left -= length;
            let arrived = length.saturating_sub(SAID_WITH_EACH);
            for symbol in memory.whole(piece.start, arrived).expect("a piece of it") {
                let place: Range<u64> = memory.place(symbol);
                memory.add(symbol, &payload[place.start as usize..place.end as usize]);
            }
            if left == 0 {
                break;
            }
            // A piece that came whole is flushed before it is answered.
            disk = memory.clone();
        }
        if !power_goes {
            disk = memory;
        }
    }
    sent
}

/// 1,000 transfers of a patch release over passes of 8 minutes at 64 kbit/s, each cut short anywhere, the node's power
/// cut in every tenth.
#[test]
fn a_payload_arrives_over_any_number_of_passes_and_little_is_sent_twice() {
    let payload: Vec<u8> = (0..1_604_123_u32).map(|byte| byte as u8).collect();
    let mut random = Random::new(8);
    let (mut sent, mut needed) = (0, 0);
    for _ in 0..1000 {
        sent += transfer(&mut random, &payload, 64_000 / 8 * 480);
        needed += (payload.len() + MANIFEST_BYTES) as u64;
    }
    let ratio = sent as f64 / needed as f64;
    assert!(ratio <= 1.02, "sent {ratio} of the bundle");
}

#[test]
fn pieces_are_cut_to_their_length() {
    let row: Vec<_> = cut([0..10, PIECE_BYTES..2 * PIECE_BYTES + 5]).collect();
    assert_eq!(row, [0..10, PIECE_BYTES..2 * PIECE_BYTES, 2 * PIECE_BYTES..2 * PIECE_BYTES + 5]);
}

#[test]
fn datagrams_are_read_as_they_were_written_and_any_flipped_bit_is_noise() {
    let manifest = encode(&manifest()).unwrap();
    let bytes = [7; SYMBOL_BYTES];
    let bundle = manifest::id(&manifest);
    for sent in [
        Datagram::Manifest(&manifest),
        Datagram::Symbol { bundle, block: 3, symbol: datagram::MAX_SYMBOL, bytes: &bytes },
    ] {
        let mut datagram = sent.encode();
        assert!(datagram.len() <= datagram::MAX_BYTES);
        assert_eq!(Datagram::decode(&datagram), Some(sent));
        for bit in 0..datagram.len() * 8 {
            datagram[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Datagram::decode(&datagram), None, "bit {bit}");
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
        assert!((0..datagram.len()).all(|length| Datagram::decode(&datagram[..length]).is_none()));
    }
    let too_high = Datagram::Symbol { bundle, block: 0, symbol: datagram::MAX_SYMBOL + 1, bytes: &bytes }.encode();
    assert_eq!(Datagram::decode(&too_high), None);
}

#[test]
fn source_blocks_share_the_symbols_without_rest() {
    for symbols in [1, 1023, 1024, 1025, 5000] {
        let of_blocks: Vec<usize> =
            (0..datagram::blocks(symbols)).flat_map(|block| datagram::symbols_of(block, symbols)).collect();
        assert_eq!(of_blocks, (0..symbols).collect::<Vec<_>>());
        assert!(datagram::symbols_of(datagram::blocks(symbols), symbols).is_empty());
        assert!(datagram::symbols_of(usize::MAX, symbols).is_empty());
    }
}

#[test]
fn a_manifest_goes_through_hexadecimal_digits() {
    let bytes: [u8; MANIFEST_BYTES] = core::array::from_fn(|at| at as u8);
    let digits = manifest::to_digits(&bytes);
    assert!(digits.starts_with("000102") && digits.len() == 2 * MANIFEST_BYTES);
    assert_eq!(manifest::of_digits(&digits), Some(bytes));
    for wrong in ["", "00", &digits[1..], &format!("{digits}00"), &digits.replace('f', "g"), &digits.replace("00", "é")]
    {
        assert_eq!(manifest::of_digits(wrong), None);
    }
}

#[test]
fn an_update_goes_to_the_slot_that_does_not_run() {
    let state = |preferred| State::new(preferred, [true; 3]);
    for (preferred, running, expected) in [
        (Side::A, Slot::A, Slot::B),
        (Side::A, Slot::B, Slot::A),
        (Side::A, Slot::Golden, Slot::B),
        (Side::B, Slot::Golden, Slot::A),
    ] {
        assert_eq!(target(&Slots::of(&state(preferred), running)), expected);
    }
}

#[test]
fn an_activated_slot_is_tried_confirmed_or_lost_with_its_reasons() {
    let mut state = State::new(Side::A, [true, false, true]);
    let at = |state: &State, running| outcome(Slot::B, 0, &Slots::of(state, running));
    assert_eq!(at(&state, Slot::A), Outcome::Unknown);
    state.written(Side::B, Release(5));
    assert_eq!(at(&state, Slot::A), Outcome::NotStarted);
    state.prefer(Side::B);
    state.choose(Rejected::default());
    assert_eq!(at(&state, Slot::B), Outcome::Tried);
    let mut lived = state.clone();
    lived.confirm(Slot::B);
    assert_eq!((at(&lived, Slot::B), lived.floor), (Outcome::Confirmed, Release(5)));
    assert_eq!(at(&lived, Slot::A), Outcome::NotStarted, "another slot was wished for once");
    state.end(Cause::Panic, 7, "no init");
    state.choose(Rejected::default());
    state.end(Cause::Watchdog, 60, "");
    let lost = "watchdog after 60 s; panic after 7 s: no init".to_owned();
    assert_eq!(at(&state, Slot::A), Outcome::Lost(lost));
    assert_eq!(outcome(Slot::B, 2, &Slots::of(&state, Slot::A)), Outcome::NotStarted, "earlier starts say nothing");
}
