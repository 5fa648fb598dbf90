//! What a node keeps of an update: which one, how far it is, and the pieces that came. All of it outlives a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use perigee_core::slot::Slot;
use perigee_core::update::datagram::symbols_of;
use perigee_core::update::manifest::{MANIFEST_BYTES, of_digits, to_digits};
use perigee_core::update::pieces::{Pieces, SYMBOL_BYTES};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::fountain;

/// How much is read at once where a whole payload is.
const CHUNK_BYTES: usize = 64 * 1024;
/// Repair symbols that are kept of a source block beyond those that are missing in it: with two more than needed,
/// decoding fails once in ten million times (RFC 6330, section 1).
const SPARE_REPAIRS: usize = 8;
/// In the file of repair symbols: block, number, the symbol, CRC-32 of all.
const REPAIR_BYTES: usize = 2 + 4 + SYMBOL_BYTES + 4;

/// An update and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Of the bundle.
    #[serde(with = "digits")]
    pub manifest: [u8; MANIFEST_BYTES],
    /// The name of the slot that it goes to.
    pub slot: String,
    /// Where it is.
    pub stage: Stage,
    /// When it is to be started, seconds since 1970; 0: as soon as it is whole.
    pub activate_at: Option<u64>,
}

/// What is done, and so what is next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Pieces come.
    Receiving,
    /// All pieces are here, and right.
    Writing,
    /// The slot is whole.
    Ready,
    /// Made the first in the node's start number `start`, for the `times`-th time.
    Activated {
        /// A start of the node.
        start: u32,
        /// Once, twice.
        times: u8,
    },
    /// It runs, and its vitals hold.
    Confirmed,
    /// It was refused, or did not live, and why.
    Failed(String),
}

impl Record {
    /// The slot that it goes to.
    pub fn slot(&self) -> Option<Slot> {
        Slot::ALL.into_iter().find(|slot| slot.name() == self.slot)
    }
}

mod digits {
    use super::{MANIFEST_BYTES, of_digits, to_digits};
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8; MANIFEST_BYTES], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&to_digits(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; MANIFEST_BYTES], D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        of_digits(&text).ok_or_else(|| de::Error::custom("expected a manifest in hexadecimal digits"))
    }
}

/// The folder of an update.
#[derive(Clone, Debug)]
pub struct Store(pub PathBuf);

impl Store {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What was kept; `None` if nothing was, or nothing that makes sense.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn load(&self) -> io::Result<Option<Record>> {
        match fs::read(self.path("state.json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        }
    }

    /// Keeps a record in the place of the last one: a power cut leaves one or the other.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let partial = self.path("state.json.partial");
        let mut file = File::create(&partial)?;
        file.write_all(&serde_json::to_vec(record).map_err(io::Error::from)?)?;
        file.sync_all()?;
        fs::rename(&partial, self.path("state.json"))?;
        File::open(&self.0)?.sync_all()
    }

    /// Forgets the payload; with `record`, which update it was, too.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn forget(&self, record: bool) -> io::Result<()> {
        let names: &[&str] =
            if record { &["state.json", "payload", "pieces", "repairs"] } else { &["payload", "pieces", "repairs"] };
        for name in names {
            match fs::remove_file(self.path(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The payload as far as it is here; `new`: forget what there was.
    ///
    /// # Errors
    /// A file cannot be made or read.
    pub fn receipt(&self, payload_bytes: u64, new: bool) -> io::Result<Receipt> {
        fs::create_dir_all(&self.0)?;
        let open =
            |name: &str| OpenOptions::new().read(true).write(true).create(true).truncate(new).open(self.path(name));
        let (payload, table, repairs) = (open("payload")?, open("pieces")?, open("repairs")?);
        payload.set_len(payload_bytes)?;
        let mut bytes = Vec::new();
        (&table).read_to_end(&mut bytes)?;
        let pieces = Pieces::decode(payload_bytes, &bytes);
        let repairs = Repairs::read(repairs)?;
        Ok(Receipt { pieces, payload: Arc::new(payload), table, repairs })
    }
}

/// A symbol that was heard.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Its source block.
    pub block: u16,
    /// Its number in it.
    pub number: u32,
    /// What it is.
    pub bytes: Box<[u8; SYMBOL_BYTES]>,
}

/// A payload on its way.
#[derive(Debug)]
pub struct Receipt {
    /// What is here.
    pub pieces: Pieces,
    /// Its bytes, with holes.
    pub payload: Arc<File>,
    table: File,
    repairs: Repairs,
}

impl Receipt {
    /// Keeps bytes of the payload; gives false if they are not in it, or begin within a symbol. Those of a symbol that is
    /// not whole are left out. When it returns, they are on the medium.
    ///
    /// # Errors
    /// They cannot be kept.
    pub fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<bool> {
        let Some(symbols) = self.pieces.whole(at, bytes.len() as u64) else { return Ok(false) };
        if symbols.is_empty() {
            return Ok(true);
        }
        let end = self.pieces.place(symbols.end - 1).end;
        self.payload.write_all_at(&bytes[..(end - at) as usize], at)?;
        self.payload.sync_data()?;
        for symbol in symbols.clone() {
            let place = self.pieces.place(symbol);
            self.pieces.add(symbol, &bytes[(place.start - at) as usize..(place.end - at) as usize]);
        }
        self.table.write_all_at(&self.pieces.encode(symbols.clone()), symbols.start as u64 * 4)?;
        self.table.sync_data()?;
        Ok(true)
    }

    /// Keeps what datagrams brought, each by source block and number, and makes of it what can be made.
    ///
    /// # Errors
    /// It cannot be kept.
    pub fn hear(&mut self, heard: &[Heard]) -> io::Result<()> {
        let (mut touched, mut sources) = (BTreeSet::new(), BTreeMap::new());
        for Heard { block, number, bytes } in heard {
            let symbols = symbols_of(usize::from(*block), self.pieces.symbols());
            if symbols.is_empty() || symbols.clone().all(|symbol| self.pieces.has(symbol)) {
                continue;
            }
            touched.insert(*block);
            match symbols.clone().nth(*number as usize) {
                // What is here came by a link that knows who sends; nobody else's word changes it.
                Some(symbol) if !self.pieces.has(symbol) => drop(sources.insert(symbol, bytes)),
                Some(_) => {}
                None => {
                    let missing = symbols.filter(|symbol| !self.pieces.has(*symbol)).count();
                    if self.repairs.count(*block) < missing + SPARE_REPAIRS {
                        self.repairs.add(*block, *number, bytes)?;
                    }
                }
            }
        }
        self.repairs.file.sync_data()?;
        let mut run: (u64, Vec<u8>) = (0, Vec::new());
        for (symbol, bytes) in sources {
            let place = self.pieces.place(symbol);
            if place.start != run.0 + run.1.len() as u64 {
                self.put(run.0, &run.1)?;
                run = (place.start, Vec::new());
            }
            run.1.extend(&bytes[..(place.end - place.start) as usize]);
        }
        self.put(run.0, &run.1)?;
        touched.into_iter().try_for_each(|block| self.make(block))
    }

    /// Makes what is missing of a source block, if enough of it was heard.
    fn make(&mut self, block: u16) -> io::Result<()> {
        let symbols = symbols_of(usize::from(block), self.pieces.symbols());
        let missing = symbols.clone().filter(|symbol| !self.pieces.has(*symbol)).count();
        if missing == 0 || self.repairs.count(block) < missing {
            return Ok(());
        }
        let count = symbols.len();
        let mut heard = Vec::with_capacity(count);
        for (number, symbol) in (0..).zip(symbols.clone()) {
            if self.pieces.has(symbol) {
                let (place, mut bytes) = (self.pieces.place(symbol), vec![0; SYMBOL_BYTES]);
                self.payload.read_exact_at(&mut bytes[..(place.end - place.start) as usize], place.start)?;
                heard.push((number, bytes));
            }
        }
        heard.extend(self.repairs.of(block)?);
        let Some(bytes) = fountain::decode(count, heard) else { return Ok(()) };
        let start = self.pieces.place(symbols.start).start;
        let end = self.pieces.place(symbols.end - 1).end;
        self.put(start, &bytes[..(end - start) as usize])?;
        self.repairs.forget(block);
        Ok(())
    }

    /// SHA-256 of the whole payload.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn sha256(&self) -> io::Result<[u8; 32]> {
        let (mut hash, mut bytes, mut at) = (Sha256::new(), vec![0; CHUNK_BYTES], 0);
        loop {
            match self.payload.read_at(&mut bytes, at)? {
                0 => return Ok(hash.finalize().into()),
                read => hash.update(&bytes[..read]),
            }
            at += CHUNK_BYTES as u64;
        }
    }

    /// Takes symbols off that the medium has changed; gives whether there were any.
    ///
    /// # Errors
    /// The payload cannot be read, or what is left of it cannot be kept.
    pub fn drop_changed(&mut self) -> io::Result<bool> {
        let mut any = false;
        for symbol in 0..self.pieces.symbols() {
            let place = self.pieces.place(symbol);
            let mut bytes = vec![0; (place.end - place.start) as usize];
            // What cannot be read is as good as changed.
            let read = self.payload.read_exact_at(&mut bytes, place.start);
            if self.pieces.drop_changed(symbol, if read.is_ok() { &bytes } else { &[] }) {
                self.table.write_all_at(&self.pieces.encode(symbol..symbol + 1), symbol as u64 * 4)?;
                any = true;
            }
        }
        self.table.sync_data()?;
        Ok(any)
    }
}

/// Repair symbols, one after the other in a file.
#[derive(Debug)]
struct Repairs {
    file: File,
    length: u64,
    /// By source block: number and place.
    places: BTreeMap<u16, BTreeMap<u32, u64>>,
}

impl Repairs {
    fn read(file: File) -> io::Result<Self> {
        let mut repairs = Self { file, length: 0, places: BTreeMap::new() };
        let mut bytes = [0; REPAIR_BYTES];
        while repairs.file.read_exact_at(&mut bytes, repairs.length).is_ok() {
            let Some((block, number, _)) = repair(&bytes) else { break };
            repairs.places.entry(block).or_default().insert(number, repairs.length);
            repairs.length += REPAIR_BYTES as u64;
        }
        Ok(repairs)
    }

    fn count(&self, block: u16) -> usize {
        self.places.get(&block).map_or(0, BTreeMap::len)
    }

    fn add(&mut self, block: u16, number: u32, symbol: &[u8; SYMBOL_BYTES]) -> io::Result<()> {
        if self.places.get(&block).is_some_and(|known| known.contains_key(&number)) {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(REPAIR_BYTES);
        bytes.extend(block.to_le_bytes());
        bytes.extend(number.to_le_bytes());
        bytes.extend(symbol);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        self.file.write_all_at(&bytes, self.length)?;
        self.places.entry(block).or_default().insert(number, self.length);
        self.length += REPAIR_BYTES as u64;
        Ok(())
    }

    fn of(&self, block: u16) -> io::Result<Vec<(u32, Vec<u8>)>> {
        let places = self.places.get(&block).into_iter().flatten();
        let mut found = Vec::new();
        for (_, place) in places {
            let mut bytes = [0; REPAIR_BYTES];
            self.file.read_exact_at(&mut bytes, *place)?;
            // The medium may have changed it since.
            found.extend(repair(&bytes).map(|(_, number, symbol)| (number, symbol.to_vec())));
        }
        Ok(found)
    }

    fn forget(&mut self, block: u16) {
        self.places.remove(&block);
    }
}

fn repair(bytes: &[u8; REPAIR_BYTES]) -> Option<(u16, u32, &[u8])> {
    let (whole, crc) = bytes.split_last_chunk::<4>()?;
    let (block, rest) = whole.split_first_chunk::<2>()?;
    let (number, symbol) = rest.split_first_chunk::<4>()?;
    let is_whole = crc32fast::hash(whole) == u32::from_le_bytes(*crc);
    is_whole.then(|| (u16::from_le_bytes(*block), u32::from_le_bytes(*number), symbol))
}
