//! Bundles that are not what they say.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer as _, SigningKey};
use perigee_agent::scrub::Scrubber;
use perigee_agent::update::work::{self, Place, Work};
use perigee_core::control::{Request, UpdatePhase};
use perigee_core::slot::Slot;
use perigee_core::slot::header::BLOCK_BYTES;
use perigee_core::update::Release;
use perigee_core::update::manifest::{MANIFEST_BYTES, Manifest, Refusal, Taker};
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
    let newer = Release::parse("1.2.4").unwrap();
    bench.pid1.lock().unwrap().state.floor = newer;
    let refused = begin(&updater, &signed(&described)).await.unwrap_err();
    assert!(refused.contains("has release 1.2.3, this node takes 1.2.4 and newer"), "{refused}");
    bench.pid1.lock().unwrap().state.floor = Release::default();
    let refusals = [
        (signed(&Manifest { arch: other, ..described }), "this node is another"),
        (signed(&Manifest { base: Some([7; 32]), ..described }), "another image than this node has"),
        (by_foreign, "signature"),
        ([0; MANIFEST_BYTES], "no bundle"),
        (resigned(&described, |bytes| bytes[7] = b'2'), "no bundle"),
        (resigned(&described, |bytes| bytes[8] = 3), "architecture makes no sense"),
        (resigned(&described, |bytes| bytes[12] = 2), "downgrade flag makes no sense"),
        (resigned(&described, |bytes| bytes[16] ^= 1), "version, which is another"),
        (resigned(&described, |bytes| bytes[16..24].fill(0xff)), "version, which is another"),
        (resigned(&described, |bytes| bytes[31] = 0xff), "floor, which is above"),
        (resigned(&described, |bytes| bytes[32..40].fill(0)), "payload_bytes makes no sense"),
        (resigned(&described, |bytes| bytes[32..40].fill(0xff)), "payload_bytes makes no sense"),
        (resigned(&described, |bytes| bytes[35] = 0x19), "payload_bytes makes no sense"),
        (resigned(&described, |bytes| bytes[136] = 0xff), "version makes no sense"),
        (resigned(&described, |bytes| bytes[136..232].fill(b'1')), "version"),
        (resigned(&described, |bytes| bytes[136..148].copy_from_slice(b"../../../etc")), "version, which is another"),
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

/// A manifest that somebody with the right key has made nonsense of.
fn resigned(manifest: &Manifest<'_>, change: impl FnOnce(&mut [u8])) -> [u8; MANIFEST_BYTES] {
    let mut bytes = signed(manifest);
    let (fields, signature) = bytes.split_at_mut(MANIFEST_BYTES - 64);
    change(fields);
    signature.copy_from_slice(&key().sign(fields).to_bytes());
    bytes
}

#[tokio::test]
async fn what_is_no_file_in_the_inbox_is_set_aside() {
    let bench = Bench::with(8).await;
    let inbox = bench.path("inbox");
    fs::create_dir_all(inbox.join("folder.bundle")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", inbox.join("link.bundle")).unwrap();
    let pipe = inbox.join("pipe.bundle");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let updater = bench.updater();
    let working = {
        let updater = updater.clone();
        tokio::spawn(async move { updater.keep(&Scrubber::default()).await })
    };
    let end = Instant::now() + DEADLINE;
    for name in ["folder", "link", "pipe"] {
        while fs::symlink_metadata(inbox.join(format!("{name}.refused"))).is_err() {
            assert!(Instant::now() < end, "{name} is still there");
            // The agent looks for one at a time, and does so at each word that it is given.
            let _no_update = ask(&updater, Request::UpdateActivate { at: None }).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    working.abort();
}

/// 10,000 bundles that a fuzzer has made of a good one: fields, hashes and lengths changed, pieces lost, doubled and
/// moved, steps of any numbers; signed anew in most, so that it is not the signature alone that keeps them out. What is
/// taken makes the one image that was signed.
#[tokio::test]
async fn fuzzed_bundles_are_refused_by_name_and_never_become_another_slot() {
    let bench = Bench::with(8).await;
    let good = by_differences(&bench.old, &bench.new);
    let base = layout_of(&bench.old).root_hash;
    let mut reasons = BTreeMap::<String, u32>::new();
    for seed in 0..10_000 {
        let mut random = Random::new(seed);
        let mut payload = good.clone();
        let kind = random.below(5);
        match kind {
            0 | 1 => {}
            2 | 3 => random.damage(&mut payload),
            _ => {
                let number = |random: &mut Random| random.next() >> random.below(64);
                let step = |random: &mut Random| Step {
                    copied: number(random),
                    added: number(random),
                    new: number(random),
                    moved: number(random) as i64,
                };
                let steps: Vec<_> = (0..random.below(4)).map(|_| step(&mut random)).collect();
                let length = random.index(9000);
                payload = self::payload(&steps, &image(&bench.new)[..length], &image(&bench.new));
            }
        }
        let payload_sha256 = if kind == 2 { Sha256::digest(&good) } else { Sha256::digest(&payload) };
        let payload_bytes = (payload.len() as u64).max(1);
        let (payload_sha256, base) = (payload_sha256.into(), Some(base));
        let described = Manifest { payload_bytes, payload_sha256, base, ..described(&bench.new, &good) };
        let spoil = |random: &mut Random, bytes: &mut [u8]| bytes[random.index(bytes.len())] ^= 1 << random.below(8);
        let manifest = match kind {
            0 => {
                let mut bytes = signed(&described);
                spoil(&mut random, &mut bytes);
                bytes
            }
            1 => resigned(&described, |bytes| spoil(&mut random, bytes)),
            _ => signed(&described),
        };
        match take(&bench, &manifest, &payload) {
            // A flipped bit that changes nothing of what comes out is no harm: versions and LZMA's last bytes have some.
            Ok(()) => assert!(bench.has_new_slot(), "seed {seed}"),
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    assert!(reasons.len() >= 12 && !reasons.contains_key(""), "{reasons:?}");
    assert!(bench.is_old_slot_untouched());
}

/// Takes a bundle as the agent does, without its ways to and fro.
fn take(bench: &Bench, manifest: &[u8; MANIFEST_BYTES], payload: &[u8]) -> Result<(), String> {
    let manifest = Manifest::decode(manifest, &key().verifying_key()).map_err(|error| error.to_string())?;
    let bases = [layout_of(&bench.old).root_hash];
    let taker = Taker { arch: work::ARCH, floor: Release::default(), bases: &bases };
    manifest.check(&taker).map_err(|error| error.to_string())?;
    if payload.len() as u64 != manifest.payload_bytes || Sha256::digest(payload)[..] != manifest.payload_sha256 {
        return Err(Refusal::Payload.to_string());
    }
    let file = bench.path("payload");
    fs::write(&file, payload).unwrap();
    let place = |name: &str| Place { partition: bench.path(name), data: bench.path(name) };
    let (file, old) = (Arc::new(fs::File::open(&file).unwrap()), place("slot-a"));
    let base = manifest.base.map(|_| &old);
    let made = Work::begin(&manifest, file, base, &place("slot-b"), key().verifying_key()).and_then(|mut work| {
        work.clear()?;
        while work.step()? {}
        Ok(())
    });
    made.map_err(|error| error.to_string())
}
