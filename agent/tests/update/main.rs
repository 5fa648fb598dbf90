//! Updates on files in the place of partitions, with a PID 1 that has the real boot state and reboots nothing.
#![allow(clippy::unwrap_used)]

mod bench;
mod hostile;
#[path = "../../../core/tests/partition/mod.rs"]
mod partition;
#[path = "../../../core/tests/random/mod.rs"]
mod random;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use perigee_agent::scrub::Scrubber;
use perigee_core::control::{Request, Response, UpdatePhase};
use perigee_core::slot::header::BLOCK_BYTES;
use perigee_core::slot::{Side, Slot, Standing};
use perigee_core::update::Release;
use perigee_core::update::datagram::{Datagram, symbols_of};
use perigee_core::update::manifest::{Manifest, id};
use perigee_core::update::patch::Step;
use perigee_core::update::pieces::SYMBOL_BYTES;
use raptorq::{EncodingPacket, ObjectTransmissionInformation, SourceBlockEncoder};
use tokio::net::UdpSocket;

use crate::bench::*;
use crate::random::Random;

#[tokio::test]
async fn an_update_is_received_written_started_and_confirmed() {
    let bench = Bench::new().await;
    let payload = whole(&bench.new);
    let manifest = signed(&described(&bench.new, &payload));
    let updater = bench.updater();
    assert_eq!(ask(&updater, Request::Update).await.unwrap().phase, UpdatePhase::None);
    let begun = begin(&updater, &manifest).await.unwrap();
    assert_eq!((begun.phase, begun.slot.as_deref()), (UpdatePhase::Receiving, Some("slot-b")));
    assert_eq!(
        (begun.version.as_deref(), begun.missing.as_slice()),
        (Some("1.2.3+new"), &[(0, payload.len() as u64)][..])
    );
    assert_eq!(begun.bases.iter().map(|base| base.slot.as_str()).collect::<Vec<_>>(), ["slot-a"]);
    send(&updater, &payload, usize::MAX).await;
    let ready = work_until(&updater, UpdatePhase::Ready).await;
    assert_eq!((ready.here_bytes, ready.missing.len(), ready.blocks), (payload.len() as u64, 0, None));
    assert!(bench.has_new_slot() && bench.is_old_slot_untouched());
    assert_eq!(bench.pid1.lock().unwrap().reboots, 0, "nobody has said that it is to be started");

    ask(&updater, Request::UpdateActivate { at: None }).await.unwrap();
    work_until(&updater, UpdatePhase::Activated).await;
    let end = Instant::now() + DEADLINE;
    let updater = bench.updater();
    let working = {
        let updater = updater.clone();
        tokio::spawn(async move { updater.keep(&Scrubber::default()).await })
    };
    while bench.pid1.lock().unwrap().reboots == 0 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    working.abort();
    bench.pid1.lock().unwrap().start();
    assert_eq!(bench.pid1.lock().unwrap().running, Slot::B);
    bench.pid1.lock().unwrap().state.confirm(Slot::B);
    let updater = bench.updater();
    work_until(&updater, UpdatePhase::Confirmed).await;
    assert_eq!(bench.pid1.lock().unwrap().state.floor, Release::parse("1.2.0").unwrap());
    assert!(!bench.path("update/payload").exists(), "what is over takes no room");
    // The same again is not begun again, an older one is refused.
    assert_eq!(begin(&updater, &manifest).await.unwrap().phase, UpdatePhase::Confirmed);
    let older = Manifest {
        release: Release::parse("1.1.9").unwrap(),
        floor: Release::default(),
        version: "1.1.9",
        ..described(&bench.new, &payload)
    };
    let refused = begin(&updater, &signed(&older)).await.unwrap_err();
    assert!(refused.contains("1.1.9") && refused.contains("1.2.0"), "{refused}");
    begin(&updater, &signed(&Manifest { is_downgrade: true, ..older })).await.unwrap();
}

#[tokio::test]
async fn a_patch_reads_the_slot_that_runs() {
    let bench = Bench::new().await;
    let payload = by_differences(&bench.old, &bench.new);
    let manifest = Manifest { base: Some(layout_of(&bench.old).root_hash), ..described(&bench.new, &payload) };
    let updater = bench.updater();
    begin(&updater, &signed(&manifest)).await.unwrap();
    send(&updater, &payload, usize::MAX).await;
    work_until(&updater, UpdatePhase::Ready).await;
    assert!(bench.has_new_slot() && bench.is_old_slot_untouched());
    // A copy of what runs.
    let bytes = image(&bench.old).len() as u64;
    let copy = self::payload(&[Step { copied: bytes, ..Step::default() }], &[], &[]);
    let manifest = Manifest { base: manifest.base, ..described(&bench.old, &copy) };
    begin(&updater, &signed(&manifest)).await.unwrap();
    send(&updater, &copy, usize::MAX).await;
    work_until(&updater, UpdatePhase::Ready).await;
    assert!(fs::read(bench.path("slot-b")).unwrap()[..100 * BLOCK_BYTES] == *bench.old.blocks[..100].as_flattened());
}

#[tokio::test]
async fn an_agent_that_starts_again_goes_on_where_it_was() {
    let bench = Bench::new().await;
    let payload = whole(&bench.new);
    let manifest = signed(&described(&bench.new, &payload));
    begin(&bench.updater(), &manifest).await.unwrap();
    let mut before = payload.len() as u64 + 1;
    loop {
        let updater = bench.updater();
        let update = begin(&updater, &manifest).await.unwrap();
        if update.missing.is_empty() {
            break;
        }
        let missing: u64 = update.missing.iter().map(|(start, end)| end - start).sum();
        assert_eq!(missing + update.here_bytes, payload.len() as u64);
        assert!(missing < before, "what was kept stays");
        before = missing;
        send(&updater, &payload, 20).await;
    }
    // While the slot is written: dropped after some steps, and again.
    for _ in 0..3 {
        let updater = bench.updater();
        let working = tokio::spawn(async move { updater.keep(&Scrubber::default()).await });
        tokio::time::sleep(Duration::from_millis(60)).await;
        working.abort();
        let _aborted = working.await;
    }
    let updater = bench.updater();
    work_until(&updater, UpdatePhase::Ready).await;
    assert!(bench.has_new_slot());
    // The power went before PID 1 had written down that there is a slot: it is made again.
    bench.pid1.lock().unwrap().state.clear(Side::B);
    let updater = bench.updater();
    ask(&updater, Request::UpdateActivate { at: None }).await.unwrap();
    work_until(&updater, UpdatePhase::Activated).await;
    assert_eq!(bench.pid1.lock().unwrap().state.standing(Slot::B).left(), 3);
}

#[tokio::test]
async fn a_slot_that_does_not_live_is_told_of_with_its_reasons() {
    let bench = Bench::new().await;
    let payload = whole(&bench.new);
    let updater = bench.updater();
    begin(&updater, &signed(&described(&bench.new, &payload))).await.unwrap();
    ask(&updater, Request::UpdateActivate { at: None }).await.unwrap();
    send(&updater, &payload, usize::MAX).await;
    work_until(&updater, UpdatePhase::Activated).await;
    {
        let mut pid1 = bench.pid1.lock().unwrap();
        pid1.state.prefer(Side::B);
        for _ in 0..3 {
            pid1.start();
            assert_eq!(pid1.running, Slot::B);
            pid1.state.end(perigee_core::reset::Cause::Panic, 4, "VFS: no init");
        }
        pid1.start();
        assert_eq!(pid1.running, Slot::A);
    }
    let update = work_until(&bench.updater(), UpdatePhase::Failed).await;
    let reason = update.reason.unwrap();
    assert_eq!(reason.matches("panic after 4 s: VFS: no init").count(), 3, "{reason}");
    assert_eq!(bench.pid1.lock().unwrap().state.preferred, Side::A);
}

#[tokio::test]
async fn an_update_that_is_forgotten_leaves_no_slot_and_nothing_on_data() {
    let bench = Bench::new().await;
    let payload = whole(&bench.new);
    let updater = bench.updater();
    begin(&updater, &signed(&described(&bench.new, &payload))).await.unwrap();
    send(&updater, &payload, 3).await;
    let cancelled = ask(&updater, Request::UpdateCancel).await.unwrap();
    assert_eq!((cancelled.phase, cancelled.here_bytes), (UpdatePhase::None, 0));
    assert!(fs::read_dir(bench.path("update")).unwrap().next().is_none());
    assert!(matches!(updater.put(0, vec![0; 1024]).await, Response::Error(_)));
    assert_eq!(bench.pid1.lock().unwrap().state.standing(Slot::B), Standing::Empty);
}

#[tokio::test]
async fn pieces_that_fit_nowhere_are_refused_and_half_symbols_left_out() {
    let bench = Bench::new().await;
    let payload = whole(&bench.new);
    let updater = bench.updater();
    begin(&updater, &signed(&described(&bench.new, &payload))).await.unwrap();
    for (at, length) in
        [(1, 1024), (payload.len() as u64, 1024), (u64::MAX - 1023, 1024), (payload.len() as u64 / 1024 * 1024, 1024)]
    {
        assert!(matches!(updater.put(at, vec![0; length]).await, Response::Error(_)), "{length} at {at}");
    }
    let Response::Update(update) = updater.put(2048, payload[2048..5000].to_vec()).await else { panic!() };
    assert_eq!(update.missing, [(0, 2048), (4096, payload.len() as u64)]);
}

#[tokio::test]
async fn what_the_medium_has_changed_is_asked_for_again() {
    let bench = Bench::new().await;
    let payload = whole(&bench.new);
    let updater = bench.updater();
    begin(&updater, &signed(&described(&bench.new, &payload))).await.unwrap();
    send(&updater, &payload, usize::MAX).await;
    let file = fs::OpenOptions::new().write(true).open(bench.path("update/payload")).unwrap();
    file.write_all_at(&[payload[70_000] ^ 4], 70_000).unwrap();
    let working = {
        let updater = updater.clone();
        tokio::spawn(async move { updater.keep(&Scrubber::default()).await })
    };
    let end = Instant::now() + DEADLINE;
    let missing = loop {
        let update = ask(&updater, Request::Update).await.unwrap();
        if !update.missing.is_empty() {
            break update.missing;
        }
        assert!(Instant::now() < end, "{update:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    working.abort();
    assert_eq!(missing, [(69_632, 70_656)]);
    send(&updater, &payload, 1).await;
    work_until(&updater, UpdatePhase::Ready).await;
}

#[tokio::test]
async fn datagrams_that_arrive_are_enough() {
    let bench = Bench::new().await;
    let payload = whole(&bench.new);
    let manifest = signed(&described(&bench.new, &payload));
    let updater = bench.updater();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = socket.local_addr().unwrap();
    let hearing = {
        let updater = updater.clone();
        tokio::spawn(async move { updater.hear(socket).await })
    };
    let from = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let send = async |datagram: &[u8]| from.send_to(datagram, to).await.unwrap();
    send(&Datagram::Manifest(&manifest).encode()).await;
    send(b"noise").await;
    let symbols = payload.len().div_ceil(SYMBOL_BYTES);
    let mut random = Random::new(5);
    for block in 0..symbols.div_ceil(1024) {
        let place = symbols_of(block, symbols);
        let mut bytes = payload[place.start * SYMBOL_BYTES..].to_vec();
        bytes.resize(place.len() * SYMBOL_BYTES, 0);
        let parameters = ObjectTransmissionInformation::new(bytes.len() as u64, SYMBOL_BYTES as u16, 1, 1, 8);
        let encoder = SourceBlockEncoder::new(0, &parameters, &bytes);
        let packets =
            encoder.source_packets().into_iter().chain(encoder.repair_packets(0, place.len() as u32 / 8 + 20));
        for (id, symbol) in packets.map(EncodingPacket::split) {
            if random.below(20) == 0 {
                continue;
            }
            let symbol: [u8; SYMBOL_BYTES] = symbol.try_into().unwrap();
            let (block, number) = (block as u16, id.encoding_symbol_id());
            send(&Datagram::Symbol { bundle: self::id(&manifest), block, symbol: number, bytes: &symbol }.encode())
                .await;
            // A socket's buffer holds some two hundred of them.
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        send(&Datagram::Manifest(&manifest).encode()).await;
    }
    work_until(&updater, UpdatePhase::Ready).await;
    hearing.abort();
    assert!(bench.has_new_slot());
}

#[tokio::test]
async fn a_file_that_is_dropped_is_taken_and_a_wrong_one_set_aside() {
    let bench = Bench::new().await;
    let payload = whole(&bench.new);
    let manifest = signed(&described(&bench.new, &payload));
    let inbox = bench.path("inbox");
    fs::create_dir(&inbox).unwrap();
    fs::write(inbox.join("a.bundle"), "nothing of the kind").unwrap();
    fs::write(inbox.join("b.bundle"), [&manifest[..], &payload].concat()).unwrap();
    fs::write(inbox.join("notes.txt"), "stays").unwrap();
    let updater = bench.updater();
    work_until(&updater, UpdatePhase::Ready).await;
    assert!(bench.has_new_slot());
    let names = |folder: &Path| {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&inbox), ["a.refused", "notes.txt"]);
}
