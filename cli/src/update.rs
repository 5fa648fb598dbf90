//! `perigee update`: packs a bundle, sends it to a node over whatever link there is, and says when it is to be started.

pub mod broadcast;
pub mod pack;

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use perigee_core::control::{Request, Response, Update, UpdatePhase};
use perigee_core::update::manifest::{MANIFEST_BYTES, id, to_digits};
use perigee_core::update::pieces::cut;

use crate::ask::{At, client, json, unexpected};
use crate::client::{Client, Connection};
use crate::show;

/// Pieces on their way at the same time: a link that takes a second to answer is still full.
const WINDOW: usize = 2;
/// Between two tries to reach a node: what of a pass goes by before it is used.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Between two lines of progress.
const PROGRESS_PERIOD: Duration = Duration::from_secs(2);

/// What is done with an update.
#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Verb {
    /// Build, and make a bundle of it: a patch for nodes that have another version
    #[command(after_help = "Example: perigee update pack --base 0.1.0+1f0c2a --output out/release.bundle")]
    Pack(pack::Args),
    /// Send what the node has not of a bundle; goes on where it was, pass after pass
    #[command(after_help = "Example: perigee update send out/release.bundle --activate")]
    Send(SendArgs),
    /// Send a bundle over a link that nobody answers, to any number of nodes
    #[command(
        after_help = "Example: perigee update broadcast out/release.bundle --to 127.0.0.1:17443 --link rate=64k,loss=5%"
    )]
    Broadcast(broadcast::Args),
    /// How far the node's update is
    #[command(after_help = "Example: perigee update status --json")]
    Status(At),
    /// Start the updated slot, now or at a time by the node's clock
    #[command(after_help = "Example: perigee update activate --at 1798767600")]
    Activate(ActivateArgs),
    /// Forget the update; the slot that runs is not touched
    #[command(after_help = "Example: perigee update cancel")]
    Cancel(At),
}

/// What is sent where.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct SendArgs {
    /// The bundle.
    pub bundle: PathBuf,
    /// Have it started as soon as the slot is whole.
    #[arg(long)]
    pub activate: bool,
    /// Give up when the link breaks, instead of waiting for the next pass.
    #[arg(long)]
    pub once: bool,
    /// Which node.
    #[command(flatten)]
    pub at: At,
}

/// When what is started.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct ActivateArgs {
    /// Seconds since 1970-01-01T00:00:00Z; as soon as the slot is whole unless said.
    #[arg(long, value_name = "SECONDS")]
    pub at: Option<u64>,
    /// Which node.
    #[command(flatten)]
    pub node: At,
}

/// Does what the verb says, and says how far the update is.
///
/// # Errors
/// The node does not answer or refuses; no bundle.
pub fn act(verb: &Verb) -> Result<String> {
    let (at, update) = match verb {
        Verb::Pack(args) => return pack::pack(args),
        Verb::Broadcast(args) => return broadcast::broadcast(args),
        Verb::Send(args) => (&args.at, send(args)?),
        Verb::Status(at) => (at, ask(&client(at)?, &Request::Update)?),
        Verb::Activate(args) => (&args.node, ask(&client(&args.node)?, &Request::UpdateActivate { at: args.at })?),
        Verb::Cancel(at) => (at, ask(&client(at)?, &Request::UpdateCancel)?),
    };
    if at.json { json(&update) } else { Ok(show::update(&update)) }
}

fn ask(client: &Client, request: &Request) -> Result<Update> {
    said(client.request(request)?)
}

fn said(response: Response) -> Result<Update> {
    match response {
        Response::Update(update) => Ok(update),
        Response::Error(reason) => bail!("the node refuses: {reason}"),
        other => unexpected(&other),
    }
}

/// Sends a bundle, over as many passes as it takes.
///
/// # Errors
/// No bundle; the node refuses it; it does not answer, and is to be asked once only.
pub fn send(args: &SendArgs) -> Result<Update> {
    let bundle = fs::read(&args.bundle).with_context(|| format!("read {}", args.bundle.display()))?;
    let (manifest, payload) = parts(&args.bundle, &bundle)?;
    let client = client(&args.at)?;
    let begin = Request::UpdateBegin { manifest: to_digits(manifest) };
    let mut progress = Progress::default();
    loop {
        match pass(&client, &begin, payload, &mut progress) {
            Ok(update) => {
                progress.end();
                ensure!(update.bundle == Some(to_digits(&id(manifest))), "the node has another update meanwhile");
                return if args.activate { ask(&client, &Request::UpdateActivate { at: None }) } else { Ok(update) };
            }
            // A refusal stays one, however often it is asked for.
            Err(error) if args.once || error.is::<Refused>() => return Err(error),
            Err(error) => progress.wait(&error),
        }
    }
}

/// A bundle's manifest and its payload.
fn parts<'a>(path: &Path, bundle: &'a [u8]) -> Result<(&'a [u8; MANIFEST_BYTES], &'a [u8])> {
    bundle.split_first_chunk().with_context(|| {
        format!("{} has {} bytes, a bundle has more than {MANIFEST_BYTES}", path.display(), bundle.len())
    })
}

/// A node has said no: not a matter of the link.
#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the node refuses: {}", self.0)
    }
}

impl std::error::Error for Refused {}

/// Sends what is missing, for as long as the link is up.
fn pass(client: &Client, begin: &Request, payload: &[u8], progress: &mut Progress) -> Result<Update> {
    let mut connection = client.connect()?;
    let mut update = taken(connection.ask(begin)?)?;
    while update.phase == UpdatePhase::Receiving && !update.missing.is_empty() {
        ensure!(update.payload_bytes == payload.len() as u64, Refused("the bundle's file is cut short".to_owned()));
        let missing = update.missing.iter().map(|(start, end)| *start..*end);
        let mut on_the_way = 0;
        for place in cut(missing.collect::<Vec<_>>()) {
            if on_the_way == WINDOW {
                update = answer(&mut connection, progress)?;
                on_the_way -= 1;
            }
            let bytes = payload.get(place.start as usize..place.end as usize).context("the node misses too much")?;
            connection.put(place.start, bytes)?;
            on_the_way += 1;
        }
        for _ in 0..on_the_way {
            update = answer(&mut connection, progress)?;
        }
    }
    Ok(update)
}

fn answer(connection: &mut Connection, progress: &mut Progress) -> Result<Update> {
    let update = taken(connection.answer()?)?;
    progress.say(&update);
    Ok(update)
}

fn taken(response: Response) -> Result<Update> {
    match response {
        Response::Error(reason) => Err(Refused(reason).into()),
        other => said(other),
    }
}

/// What has broken the link, for people: the system's words for a time limit ("temporarily unavailable") mislead, and
/// those of TLS for a lost connection are a paragraph.
fn reason(error: &anyhow::Error) -> String {
    let kind = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => "the node is silent".to_owned(),
        Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => "the node hung up".to_owned(),
        _ => error.root_cause().to_string(),
    }
}

/// Says how far it is, on standard error: a line that changes on a terminal, else one now and then.
#[derive(Debug, Default)]
struct Progress {
    began: Option<(Instant, u64)>,
    said: Option<Instant>,
    is_open: bool,
    /// That there is no link was said.
    is_waiting: bool,
}

impl Progress {
    fn say(&mut self, update: &Update) {
        let (began, from) = *self.began.get_or_insert((Instant::now(), update.here_bytes));
        self.is_waiting = false;
        let rate = (update.here_bytes.saturating_sub(from) as f64 / began.elapsed().as_secs_f64().max(0.001)) as u64;
        self.now_and_then(|| show::progress(update, rate));
    }

    fn now_and_then(&mut self, text: impl FnOnce() -> String) {
        if self.said.is_none_or(|said| said.elapsed() >= PROGRESS_PERIOD) {
            self.said = Some(Instant::now());
            self.line(&text());
        }
    }

    fn wait(&mut self, error: &anyhow::Error) {
        if !std::mem::replace(&mut self.is_waiting, true) {
            self.line(&format!("no link ({}); tries again, Ctrl-C ends it", reason(error)));
        }
        self.began = None;
        sleep(RETRY_PAUSE);
    }

    fn line(&mut self, text: &str) {
        let mut to = io::stderr();
        self.is_open = to.is_terminal();
        let _nobody_looks = if self.is_open { write!(to, "\r\x1b[K{text}") } else { writeln!(to, "{text}") };
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.is_open) {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_there_is_no_link_is_said_in_few_words() {
        for (kind, expected) in [
            (io::ErrorKind::WouldBlock, "the node is silent"),
            (io::ErrorKind::TimedOut, "the node is silent"),
            (io::ErrorKind::UnexpectedEof, "the node hung up"),
            (io::ErrorKind::ConnectionRefused, "connection refused"),
        ] {
            let error = anyhow::Error::from(io::Error::from(kind)).context("no answer");
            assert_eq!(reason(&error), expected);
        }
    }
}
