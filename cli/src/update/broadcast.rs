//! `perigee update broadcast`: a bundle over a link that nobody answers, for any number of nodes that hear it.

use std::cmp::Ordering;
use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perigee_core::update::datagram::{Datagram, MAX_SYMBOL, blocks, symbols_of};
use perigee_core::update::manifest::{BundleId, MANIFEST_BYTES, id};
use perigee_core::update::pieces::SYMBOL_BYTES;
use perigee_qemu::Link;
use perigee_qemu::radio::Window;
use raptorq::{ObjectTransmissionInformation, SourceBlockEncoder};

use super::{Progress, parts};
use crate::show;

/// The manifest goes first, so often: what comes before it says nothing to a node.
const FIRST_MANIFESTS: usize = 3;
/// After so many symbols it goes again, for those who begin to listen late: half a percent of what is sent.
const MANIFEST_PERIOD: usize = 64;
/// Symbols more than a source block has, so that they are enough whichever they are, except for one time in a million
/// (RFC 6330, section 1).
const SPARE_SYMBOLS: f64 = 2.0;
/// Standard deviations of what is lost that a transmission has symbols for: not enough one time in three million.
const DEVIATIONS: f64 = 5.0;

/// What is sent to whom.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// The bundle.
    pub bundle: PathBuf,
    /// Where it is sent; can be said several times.
    #[arg(long, default_value = "127.0.0.1:17443", value_name = "HOST:PORT")]
    pub to: Vec<String>,
    /// How fast it is sent, how much of it may be lost, and in which passes, the first of them now; keys as of
    /// `perigee run --link`.
    #[arg(long, value_name = "rate=64k,loss=5%", default_value = "rate=64k,loss=5%")]
    pub link: Link,
    /// Which transmission of this bundle it is: each one sends what none before it has sent.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub round: u32,
}

/// Sends it, and says what was sent.
///
/// # Errors
/// No bundle; no rate; an address cannot be sent to.
pub fn broadcast(args: &Args) -> Result<String> {
    let bundle = fs::read(&args.bundle).with_context(|| format!("read {}", args.bundle.display()))?;
    let (manifest, payload) = parts(&args.bundle, &bundle)?;
    let link = args.link.compressed();
    let rate = link.rate_bps.context("--link needs a rate: nobody answers who could say how fast is too fast")?;
    let transmission = Transmission::new(manifest, payload);
    let order = transmission.round(args.round, link.loss_ppm)?;
    let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    let mut progress = Progress::default();
    let (began, mut pass_began, mut bits, mut sent_bytes) = (Instant::now(), Instant::now(), 0, 0);
    for (number, item) in order.iter().enumerate() {
        let datagram = transmission.datagram(*item);
        if let Some(Window { up, period }) = link.window
            && pass_began.elapsed() >= up
        {
            progress.line("the pass is over; goes on with the next one");
            sleep(period.saturating_sub(pass_began.elapsed()));
            (pass_began, bits) = (Instant::now(), 0);
        }
        for to in &args.to {
            socket.send_to(&datagram, to).with_context(|| format!("send to {to}"))?;
        }
        sent_bytes += datagram.len() as u64;
        bits += datagram.len() as u64 * 8;
        sleep(Duration::from_secs_f64(bits as f64 / rate as f64).saturating_sub(pass_began.elapsed()));
        progress.now_and_then(|| format!("{} % of {} datagrams sent", 100 * number / order.len(), order.len()));
    }
    progress.end();
    Ok(format!(
        "{} datagrams, {} bytes for a payload of {}, sent in {}\nmore for who has not heard enough: --round {}\n",
        order.len(),
        sent_bytes,
        payload.len(),
        show::span(began.elapsed().as_millis() as u64),
        args.round + 1,
    ))
}

/// What is in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The manifest.
    Manifest,
    /// A source block's encoding symbol.
    Symbol(usize, u32),
}

/// A bundle, ready to be sent as symbols.
pub struct Transmission {
    manifest: [u8; MANIFEST_BYTES],
    bundle: BundleId,
    blocks: Vec<Block>,
}

/// A source block.
struct Block {
    /// Its symbols, the payload's last one filled up with zeros.
    bytes: Vec<u8>,
    repairs: SourceBlockEncoder,
}

impl Transmission {
    /// Prepares a bundle.
    pub fn new(manifest: &[u8; MANIFEST_BYTES], payload: &[u8]) -> Self {
        let symbols = payload.len().div_ceil(SYMBOL_BYTES);
        let block = |block| {
            let place = symbols_of(block, symbols);
            let end = payload.len().min(place.end * SYMBOL_BYTES);
            let mut bytes = payload[place.start * SYMBOL_BYTES..end].to_vec();
            bytes.resize(place.len() * SYMBOL_BYTES, 0);
            let one_block = ObjectTransmissionInformation::new(bytes.len() as u64, SYMBOL_BYTES as u16, 1, 1, 8);
            Block { repairs: SourceBlockEncoder::new(0, &one_block, &bytes), bytes }
        };
        let blocks = (0..blocks(symbols)).map(block).collect();
        Self { manifest: *manifest, bundle: id(manifest), blocks }
    }

    /// What is sent in a round, in its order: each block's symbols spread over all of it, so that a silence takes a
    /// little of each.
    ///
    /// # Errors
    /// So many rounds that there are no more symbols.
    pub fn round(&self, round: u32, loss_ppm: u32) -> Result<Vec<Item>> {
        let mut symbols = Vec::new();
        for (number, block) in self.blocks.iter().enumerate() {
            let enough = enough(block.symbols().len() as u32, loss_ppm);
            let first = u64::from(enough) * u64::from(round - 1);
            ensure!(
                first + u64::from(enough) <= u64::from(MAX_SYMBOL),
                "there is no round {round}: begin again with 1"
            );
            let place = |at: u32| (f64::from(at) + 0.5) / f64::from(enough);
            symbols.extend((0..enough).map(|at| (place(at), Item::Symbol(number, first as u32 + at))));
        }
        symbols.sort_by(|(one, _), (other, _)| one.partial_cmp(other).unwrap_or(Ordering::Equal));
        let mut order = vec![Item::Manifest; FIRST_MANIFESTS];
        for some in symbols.chunks(MANIFEST_PERIOD) {
            order.extend(some.iter().map(|(_, item)| *item));
            order.push(Item::Manifest);
        }
        Ok(order)
    }

    /// A datagram.
    pub fn datagram(&self, item: Item) -> Vec<u8> {
        let bundle = self.bundle;
        match item {
            Item::Manifest => Datagram::Manifest(&self.manifest).encode(),
            Item::Symbol(block, symbol) => {
                let bytes = self.blocks[block].symbol(symbol);
                Datagram::Symbol { bundle, block: block as u16, symbol, bytes: &bytes }.encode()
            }
        }
    }
}

impl Block {
    fn symbols(&self) -> &[[u8; SYMBOL_BYTES]] {
        self.bytes.as_chunks().0
    }

    fn symbol(&self, number: u32) -> [u8; SYMBOL_BYTES] {
        let symbols = self.symbols();
        if let Some(symbol) = symbols.get(number as usize) {
            return *symbol;
        }
        let repair = self.repairs.repair_packets(number - symbols.len() as u32, 1).swap_remove(0);
        repair.data().try_into().unwrap_or([0; SYMBOL_BYTES])
    }
}

/// How many symbols of a block are sent, so that enough of them arrive.
fn enough(count: u32, loss_ppm: u32) -> u32 {
    let loss = (f64::from(loss_ppm) / 1e6).min(0.99);
    let needed = f64::from(count) + SPARE_SYMBOLS;
    let spread = DEVIATIONS * (needed * loss).sqrt();
    ((needed + spread) / (1.0 - loss)).ceil() as u32
}

#[cfg(test)]
mod tests {
    use perigee_agent::update::store::{Heard, Receipt, Store};
    use perigee_core::update::pieces::Pieces;
    use perigee_qemu::Random;

    use super::*;

    const LOSS_PPM: u32 = 50_000;

    /// A bundle whose manifest nobody looks at.
    fn bundle(random: &mut Random, bytes: u64) -> ([u8; MANIFEST_BYTES], Vec<u8>) {
        ([random.below(256) as u8; MANIFEST_BYTES], (0..bytes).map(|_| random.below(256) as u8).collect())
    }

    /// A node that hears a transmission.
    struct Ear {
        _folder: tempfile::TempDir,
        receipt: Receipt,
        bundle: Option<BundleId>,
        unkept: Vec<Heard>,
        symbols: usize,
    }

    impl Ear {
        fn new(payload: &[u8]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let receipt = Store(folder.path().to_owned()).receipt(payload.len() as u64, true).unwrap();
            Self { _folder: folder, receipt, bundle: None, unkept: Vec::new(), symbols: 0 }
        }

        /// Gives whether it has all.
        fn hear(&mut self, datagram: &[u8]) -> bool {
            match Datagram::decode(datagram).unwrap() {
                Datagram::Manifest(manifest) => self.bundle = Some(id(manifest)),
                Datagram::Symbol { bundle, block, symbol, bytes } if Some(bundle) == self.bundle => {
                    self.unkept.push(Heard { block, number: symbol, bytes: Box::new(*bytes) });
                    self.symbols += 1;
                }
                Datagram::Symbol { .. } => {}
            }
            // What cannot be all yet need not be written one by one.
            if self.symbols >= self.receipt.pieces.symbols() {
                self.receipt.hear(&std::mem::take(&mut self.unkept)).unwrap();
            }
            self.receipt.pieces.are_all()
        }

        fn has(&self, payload: &[u8]) -> bool {
            let mut found = vec![0; payload.len()];
            std::os::unix::fs::FileExt::read_exact_at(&*self.receipt.payload, &mut found, 0).unwrap();
            found == payload
        }
    }

    /// 1,000 transfers, a twentieth of each lost: bytes sent until all is there, of what a code without any loss of its
    /// own would have to send, the payload's bytes by the share that arrives.
    #[test]
    fn hardly_more_is_sent_than_a_perfect_code_would_send() {
        let mut random = Random::new(11);
        let (mut sent, mut needed) = (0.0, 0.0);
        for _ in 0..20 {
            let bytes = 50_000 + random.below(450_000);
            let (manifest, payload) = bundle(&mut random, bytes);
            let transmission = Transmission::new(&manifest, &payload);
            let round: Vec<_> = transmission.round(1, LOSS_PPM).unwrap();
            let datagrams: Vec<_> = round.iter().map(|item| transmission.datagram(*item)).collect();
            for _ in 0..50 {
                let mut ear = Ear::new(&payload);
                let is_all = datagrams.iter().any(|datagram| {
                    sent += datagram.len() as f64;
                    random.below(1_000_000) >= u64::from(LOSS_PPM) && ear.hear(datagram)
                });
                assert!(is_all && ear.has(&payload));
                needed += bytes as f64 / (1.0 - f64::from(LOSS_PPM) / 1e6);
            }
        }
        assert!(sent / needed <= 1.05, "sent {} of what is needed", sent / needed);
    }

    #[test]
    fn one_transmission_serves_many_nodes_and_another_round_who_heard_too_little() {
        let mut random = Random::new(12);
        let (manifest, payload) = bundle(&mut random, 1_500_000);
        let transmission = Transmission::new(&manifest, &payload);
        let rounds = [1, 2].map(|round| transmission.round(round, LOSS_PPM).unwrap());
        let mut ears: Vec<_> = (0..4).map(|_| Ear::new(&payload)).collect();
        let mut last = Ear::new(&payload);
        for (number, item) in rounds[0].iter().enumerate() {
            let datagram = transmission.datagram(*item);
            for ear in ears.iter_mut().filter(|_| random.below(20) > 0) {
                ear.hear(&datagram);
            }
            // One comes late.
            if number > 1000 {
                last.hear(&datagram);
            }
        }
        assert!(ears.iter().all(|ear| ear.has(&payload)) && !last.receipt.pieces.are_all());
        let rest = rounds[1].iter().position(|item| last.hear(&transmission.datagram(*item))).unwrap();
        assert!(rest < 1100 && last.has(&payload), "{rest} datagrams more");
        assert!(rounds[1].iter().all(|item| *item == Item::Manifest || !rounds[0].contains(item)));
        assert!(transmission.round(u32::MAX, LOSS_PPM).is_err());
    }

    #[test]
    fn a_payload_of_any_length_goes_through_without_loss() {
        let mut random = Random::new(13);
        for bytes in [1, 401, 1024, 1025, 10_000] {
            let (manifest, payload) = bundle(&mut random, bytes);
            let transmission = Transmission::new(&manifest, &payload);
            let mut ear = Ear::new(&payload);
            assert!(transmission.round(1, 0).unwrap().iter().any(|item| ear.hear(&transmission.datagram(*item))));
            assert!(ear.has(&payload), "{bytes}");
            assert_eq!(ear.receipt.pieces.symbols(), Pieces::none(bytes).symbols());
        }
    }

    #[test]
    fn the_lossier_the_link_the_more_is_sent() {
        assert_eq!([enough(1024, 0), enough(1, 0)], [1026, 3]);
        assert_eq!(enough(1024, 50_000), 1118);
        assert!(enough(1024, 500_000) > 2 * 1026 && enough(1024, 1_000_000) < 200_000);
    }
}
