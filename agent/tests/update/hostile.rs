//! Bundles that are not what they say.

use std::fs;
use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};
use perigee_agent::update::work::{self, Place, Work};
use perigee_core::control::{Request, UpdatePhase};
use perigee_core::slot::Slot;
use perigee_core::slot::header::BLOCK_BYTES;
use perigee_core::update::manifest::{MANIFEST_BYTES, Manifest, Refusal};
use perigee_core::update::patch::Step;
use sha2::{Digest as _, Sha256};

use crate::bench::*;
use crate::partition::key;
use crate::random::Random;

#[tokio::test]
async fn hostile_bundles_are_refused_by_name_and_change_nothing() {
    let bench = Bench::new().await;
    let good = whole(&bench.new);
    let described = described(&bench.new, &good);
    let updater = bench.updater();
    let other = if work::ARCH == perigee_core::slot::header::Arch::X86_64 {
        perigee_core::slot::header::Arch::Aarch64
    } else {
        perigee_core::slot::header::Arch::X86_64
    };
    let foreign = SigningKey::from_bytes(&[0x5a; 32]);
    let by_foreign = described.encode(|bytes| foreign.sign(bytes).to_bytes()).unwrap();
    let refusals = [
        (signed(&Manifest { arch: other, ..described }), "this node is another"),
        (signed(&Manifest { base: Some([7; 32]), ..described }), "another image than this node has"),
        (by_foreign, "signature"),
        ([0; MANIFEST_BYTES], "no bundle"),
    ];
    for (manifest, expected) in refusals {
        let reason = begin(&updater, &manifest).await.unwrap_err();
        assert!(reason.contains(expected), "{reason}");
    }
    let mut bytes = signed(&described);
    for at in 0..MANIFEST_BYTES {
        bytes[at] ^= 0x10;
        begin(&updater, &bytes).await.unwrap_err();
        bytes[at] ^= 0x10;
    }
    for wrong in ["", "50", &"g".repeat(2 * MANIFEST_BYTES)] {
        ask(&updater, Request::UpdateBegin { manifest: wrong.to_owned() }).await.unwrap_err();
    }
    assert_eq!(ask(&updater, Request::Update).await.unwrap().phase, UpdatePhase::None);
    // Signed, and wrong: found out when all of it is here.
    let image = image(&bench.new);
    let bytes = image.len() as u64;
    let step = |step: Step| payload(&[step], &[], &image);
    let swapped = [&image[..BLOCK_BYTES], &image[2 * BLOCK_BYTES..3 * BLOCK_BYTES], &image[2 * BLOCK_BYTES..]].concat();
    let whole = Step { new: bytes, ..Step::default() };
    let bombs = [
        (payload(&[whole], &[], &swapped), "root hash"),
        (payload(&[whole], &[], &image[BLOCK_BYTES..]), "another slot header"),
        (payload(&[whole], &[], &image[..bytes as usize - 1]), "new bytes end too soon"),
        (step(Step { new: bytes - 1, ..Step::default() }), "steps end too soon"),
        (step(Step { copied: bytes, ..Step::default() }), "outside of the old image"),
        (step(Step { added: bytes, ..Step::default() }), "differences end too soon"),
        (step(Step { moved: -1, new: 5, ..Step::default() }), "outside of the old image"),
        (step(Step::default()), "makes nothing"),
        (vec![0xff; 100], "lengths end too soon"),
        (vec![0; 7], "lengths end too soon"),
        (vec![0; 8], "streams end too soon"),
    ];
    for (payload, expected) in bombs {
        let manifest = Manifest {
            payload_bytes: payload.len() as u64,
            payload_sha256: Sha256::digest(&payload).into(),
            ..described
        };
        begin(&updater, &signed(&manifest)).await.unwrap();
        send(&updater, &payload, usize::MAX).await;
        let reason = work_until(&updater, UpdatePhase::Failed).await.reason.unwrap();
        assert!(reason.contains(expected), "{reason}, expected {expected}");
    }
    let manifest = Manifest { payload_sha256: [1; 32], ..described };
    begin(&updater, &signed(&manifest)).await.unwrap();
    send(&updater, &good, usize::MAX).await;
    let reason = work_until(&updater, UpdatePhase::Failed).await.reason.unwrap();
    assert_eq!(reason, Refusal::Payload.to_string());
    assert!(bench.is_old_slot_untouched());
    assert_eq!(bench.pid1.lock().unwrap().running, Slot::A);
}

#[tokio::test]
async fn spoiled_payloads_never_become_a_slot() {
    let bench = Bench::new().await;
    let good = by_differences(&bench.old, &bench.new);
    let place = |name: &str| Place { partition: bench.path(name), data: bench.path(name) };
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut spoiled = good.clone();
        // Where the steps and the beginnings of the streams are, most often.
        let reach = if seed % 3 == 0 { spoiled.len() } else { 200 };
        let at = random.index(reach);
        spoiled[at] ^= 1 << random.below(8);
        if seed % 5 == 0 {
            spoiled.truncate(random.index(good.len()));
        }
        let file = bench.path("spoiled");
        fs::write(&file, &spoiled).unwrap();
        let manifest = Manifest { base: Some(layout_of(&bench.old).root_hash), ..described(&bench.new, &spoiled) };
        let payload = Arc::new(fs::File::open(&file).unwrap());
        let made = Work::begin(&manifest, payload, Some(&place("slot-a")), &place("slot-b"), key().verifying_key());
        let made = made.and_then(|mut work| {
            work.clear()?;
            while work.step()? {}
            Ok(())
        });
        // A flipped bit that changes nothing of what comes out is no harm: LZMA's last bytes have some.
        assert!(made.is_err() || bench.has_new_slot(), "seed {seed}");
    }
    assert!(bench.is_old_slot_untouched());
}
