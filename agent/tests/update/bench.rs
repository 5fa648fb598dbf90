//! A node in a folder.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ed25519_dalek::Signer as _;
use lzma_rust2::{LzmaOptions, LzmaWriter};
use perigee_agent::pid1::Pid1;
use perigee_agent::scrub::Scrubber;
use perigee_agent::update::work::{self};
use perigee_agent::update::{Places, Updater};
use perigee_core::control::{Request, Response, Slots, Update, UpdatePhase};
use perigee_core::slot::header::{BLOCK_BYTES, Header, header_blocks};
use perigee_core::slot::scrub::Blocks as _;
use perigee_core::slot::{Rejected, Side, Slot, State};
use perigee_core::update::Release;
use perigee_core::update::manifest::{MANIFEST_BYTES, Manifest, to_digits};
use perigee_core::update::patch::{LZMA, Step};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;

use crate::partition::{DATA_BLOCKS, Disk, key};

/// Far more than anything here takes.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A node's disk as a folder, and its PID 1.
pub struct Bench {
    folder: TempDir,
    pub pid1: Arc<Mutex<Init>>,
    pub old: Disk,
    pub new: Disk,
}

pub struct Init {
    pub state: State,
    pub running: Slot,
    pub reboots: u32,
}

impl Init {
    pub fn answer(&mut self, request: &Request) -> Response {
        let side = |name: &str| if name == "slot-a" { Side::A } else { Side::B };
        match request {
            Request::Slots => return Response::Slots(Slots::of(&self.state, self.running)),
            Request::SlotClear { slot } => self.state.clear(side(slot)),
            Request::SlotWritten { slot, floor } => self.state.written(side(slot), *floor),
            Request::SlotPrefer { slot } => self.state.prefer(side(slot)),
            Request::Reboot => self.reboots += 1,
            other => return Response::Error(format!("{other:?}")),
        }
        Response::Done
    }

    /// What a loader would do.
    pub fn start(&mut self) {
        self.state.choose(Rejected::default());
        self.running = self.state.last.unwrap();
    }
}

impl Bench {
    /// Slot A runs and is confirmed; slot B is empty.
    pub async fn new() -> Self {
        Self::with(DATA_BLOCKS).await
    }

    /// The same, with so many blocks of data in a slot.
    pub async fn with(data_blocks: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (old, _) = Disk::with(1, data_blocks);
        let (new, _) = Disk::with(2, data_blocks);
        fs::write(folder.path().join("slot-a"), old.blocks.as_flattened()).unwrap();
        fs::write(folder.path().join("slot-b"), vec![0xa5; new.blocks.len() * BLOCK_BYTES]).unwrap();
        fs::write(folder.path().join("golden"), [0; BLOCK_BYTES]).unwrap();
        let mut state = State::new(Side::A, [true, false, true]);
        state.choose(Rejected::default());
        state.confirm(Slot::A);
        let pid1 = Arc::new(Mutex::new(Init { state, running: Slot::A, reboots: 0 }));
        let listener = UnixListener::bind(folder.path().join("init.sock")).unwrap();
        tokio::spawn(serve(listener, pid1.clone()));
        Self { folder, pid1, old, new }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn places(&self) -> Places {
        Places {
            folder: self.path("update"),
            inbox: self.path("inbox"),
            partition: |folder, name| Some(folder.join(name)),
            devices: self.folder.path().to_owned(),
            root: None,
        }
    }

    /// The agent, as it is after each of its starts.
    pub fn updater(&self) -> Arc<Updater> {
        let pid1 = Pid1(self.path("init.sock"));
        Arc::new(Updater::open(self.places(), key().verifying_key(), pid1).unwrap())
    }

    pub fn has_new_slot(&self) -> bool {
        let found = fs::read(self.path("slot-b")).unwrap();
        let layout = layout_of(&self.new);
        let (end, headers) = (layout.end_block as usize * BLOCK_BYTES, found.len() - 2 * BLOCK_BYTES);
        let expected = self.new.blocks.as_flattened();
        found[..end] == expected[..end] && found[headers..] == expected[headers..]
    }

    pub fn is_old_slot_untouched(&self) -> bool {
        fs::read(self.path("slot-a")).unwrap() == self.old.blocks.as_flattened()
    }
}

pub async fn serve(listener: UnixListener, pid1: Arc<Mutex<Init>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let answer = pid1.lock().unwrap().answer(&serde_json::from_str(&line).unwrap());
        let mut answer = serde_json::to_vec(&answer).unwrap();
        answer.push(b'\n');
        let _gone = stream.write_all(&answer).await;
    }
}

pub fn layout_of(disk: &Disk) -> perigee_core::slot::header::Layout {
    let header = disk.blocks[header_blocks(disk.count())[0] as usize];
    Header::decode(&header, &key().verifying_key()).unwrap().layout
}

/// The slot's header and its data.
pub fn image(disk: &Disk) -> Vec<u8> {
    let header = disk.blocks[header_blocks(disk.count())[0] as usize];
    let data = disk.blocks[..layout_of(disk).data_blocks as usize].as_flattened();
    [&header[..], data].concat()
}

pub fn compress(bytes: &[u8], dictionary: u32) -> Vec<u8> {
    let [lc, lp, pb] = LZMA.lc_lp_pb.map(u32::from);
    let options = LzmaOptions { dict_size: dictionary, lc, lp, pb, ..LzmaOptions::with_preset(0) };
    let mut writer = LzmaWriter::new_no_header(Vec::new(), &options, true).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

pub fn payload(steps: &[Step], differences: &[u8], news: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    steps.iter().for_each(|step| step.encode(&mut encoded));
    let [first, second, third] = LZMA.dictionaries;
    let streams = [compress(&encoded, first), compress(differences, second), compress(news, third)];
    let lengths: Vec<u8> = streams[..2].iter().flat_map(|stream| (stream.len() as u32).to_le_bytes()).collect();
    [lengths, streams.concat()].concat()
}

/// All of it new.
pub fn whole(new: &Disk) -> Vec<u8> {
    let image = image(new);
    payload(&[Step { new: image.len() as u64, ..Step::default() }], &[], &image)
}

/// All of it by differences.
pub fn by_differences(old: &Disk, new: &Disk) -> Vec<u8> {
    let (old, new) = (image(old), image(new));
    let differences: Vec<u8> = new.iter().zip(&old).map(|(new, old)| new.wrapping_sub(*old)).collect();
    payload(&[Step { added: new.len() as u64, ..Step::default() }], &differences, &[])
}

pub fn described<'a>(disk: &Disk, payload: &[u8]) -> Manifest<'a> {
    Manifest {
        arch: work::ARCH,
        is_downgrade: false,
        release: Release::parse("1.2.3").unwrap(),
        floor: Release::parse("1.2.0").unwrap(),
        payload_bytes: payload.len() as u64,
        payload_sha256: Sha256::digest(payload).into(),
        header_sha256: Sha256::digest(&image(disk)[..BLOCK_BYTES]).into(),
        base: None,
        version: "1.2.3+new",
    }
}

pub fn signed(manifest: &Manifest<'_>) -> [u8; MANIFEST_BYTES] {
    manifest.encode(|bytes| key().sign(bytes).to_bytes()).unwrap()
}

pub async fn ask(updater: &Updater, request: Request) -> Result<Update, String> {
    match updater.answer(&request).await.unwrap() {
        Response::Update(update) => Ok(update),
        Response::Error(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}

pub async fn begin(updater: &Updater, manifest: &[u8; MANIFEST_BYTES]) -> Result<Update, String> {
    ask(updater, Request::UpdateBegin { manifest: to_digits(manifest) }).await
}

/// Sends what is missing, the last piece first; no more than `pieces`.
pub async fn send(updater: &Updater, payload: &[u8], pieces: usize) {
    let update = ask(updater, Request::Update).await.unwrap();
    let missing = update.missing.iter().map(|(start, end)| *start..*end);
    let all: Vec<_> = perigee_core::update::pieces::cut(missing).collect();
    for place in all.into_iter().rev().take(pieces) {
        let bytes = payload[place.start as usize..place.end as usize].to_vec();
        assert!(matches!(updater.put(place.start, bytes).await, Response::Update(_)));
    }
}

/// Works until the update is where it is expected.
pub async fn work_until(updater: &Arc<Updater>, phase: UpdatePhase) -> Update {
    let working = {
        let updater = updater.clone();
        tokio::spawn(async move { updater.keep(&Scrubber::default()).await })
    };
    let end = Instant::now() + DEADLINE;
    loop {
        let update = ask(updater, Request::Update).await.unwrap();
        if update.phase == phase {
            working.abort();
            let _aborted = working.await;
            return update;
        }
        assert!(Instant::now() < end, "expected {phase:?}: {update:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
