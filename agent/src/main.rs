//! The agent's program: where things are on the node, and the order in which they come up.
#![forbid(unsafe_code)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use perigee_agent::addons::{self, Addons};
use perigee_agent::node::Node;
use perigee_agent::server::{self, Gate};
use perigee_agent::update::{Places, Updater};
use perigee_agent::{Error, event, tls};
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// The port of the API, with mutual TLS; and, for datagrams, of updates that nobody answers.
const PORT: u16 = 7443;
/// The port of this node's API server, if it has one.
const API_SERVER_PORT: u16 = 6443;
/// The same API as on [`PORT`] on the node itself, for root.
const SOCKET: &str = "/run/perigee/agent.sock";
/// Strokes per watchdog period: one may be late.
const WATCHDOG_STROKES: u32 = 3;
/// How long answers on their way are waited for at the end; PID 1 gives the agent longer.
const FINISH_TIMEOUT: Duration = Duration::from_secs(3);
/// /proc and the root file system are read on one thread beside the event loop; its stack holds a walk's folders.
const READER_STACK_BYTES: usize = 512 * 1024;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(1)
        .thread_stack_size(READER_STACK_BYTES)
        .build();
    let failed = match runtime {
        Ok(runtime) => match runtime.block_on(run()) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => error.to_string(),
        },
        Err(error) => format!("cannot make an event loop: {error}"),
    };
    event!("failed error={failed:?}");
    ExitCode::FAILURE
}

/// Serves until it is asked to end: a listener that fails for good is an error, and PID 1 starts the agent again.
async fn run() -> Result<(), Error> {
    let mut end = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let config = Path::new("/config");
    let key = slot_key(&config.join("slot.pub"));
    let node = Arc::new(Node::new("/run/perigee/init.sock".into(), "/".into()));

    let local = server::bind_unix(Path::new(SOCKET))?;
    tokio::spawn(server::serve_unix(local, Gate::new(), node.clone()));

    let pki = config.join("pki");
    let tls = tls::server(&pki)?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let command =
        TcpListener::bind(address).await.map_err(|source| Error::Listen { at: address.to_string(), source })?;
    tokio::spawn(server::serve_tls(command, tls, Gate::new(), node.clone()));
    event!("listening address={address} socket={SOCKET}");

    match key {
        Some(key) => {
            let heard = UdpSocket::bind(address).await;
            let heard = heard.map_err(|source| Error::Listen { at: format!("{address} (UDP)"), source })?;
            tokio::spawn(scrub(node.clone(), key));
            tokio::spawn(take_updates(node.clone(), key, heard));
        }
        None => event!("scrub=none updates=none reason=\"no key of who signs slots in {}\"", config.display()),
    }

    let addons = Addons {
        config: config.to_owned(),
        manifests: "/usr/share/perigee/manifests.json".into(),
        api_server: SocketAddr::from((Ipv4Addr::LOCALHOST, API_SERVER_PORT)),
    };
    if addons.is_ours() {
        tokio::spawn(addons::keep(addons));
    }
    tokio::select! {
        failed = keep_pid1_informed() => failed,
        _ = end.recv() => {
            let finished = timeout(FINISH_TIMEOUT, node.finish()).await.is_ok();
            event!("ended finished={finished}");
            Ok(())
        }
    }
}

async fn scrub(node: Arc<Node>, key: VerifyingKey) {
    node.scrubber.keep(key, begin()).await;
}

/// Goes on with the update that is kept, and takes others. A data partition that cannot be read is no reason not to serve.
async fn take_updates(node: Arc<Node>, key: VerifyingKey, socket: UdpSocket) {
    node.pid1.data_mounted().await;
    let updater = match Updater::open(Places::of_node(), key, node.pid1.clone()) {
        Ok(updater) => updater,
        Err(error) => return event!("updates=none error={:?}", error.to_string()),
    };
    // Nobody else does.
    let _ = node.updater.set(updater);
    let updater = node.updater.wait().await;
    tokio::join!(updater.keep(&node.scrubber), updater.hear(socket));
}

/// Who signs slots and updates.
fn slot_key(path: &Path) -> Option<VerifyingKey> {
    let bytes = fs::read(path).ok()?;
    VerifyingKey::from_bytes(bytes.as_slice().try_into().ok()?).ok()
}

/// Where the first scrub of this boot begins: the kernel's boot id is another number each time.
fn begin() -> u64 {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// Says that the agent is ready, and then that its event loop still turns.
async fn keep_pid1_informed() -> Result<(), Error> {
    sd_notify::notify(&[NotifyState::Ready]).map_err(Error::Notify)?;
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| *period > Duration::ZERO) else {
        return std::future::pending().await;
    };
    let mut strokes = interval(period / WATCHDOG_STROKES);
    strokes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        strokes.tick().await;
        sd_notify::notify(&[NotifyState::Watchdog]).map_err(Error::Notify)?;
    }
}
