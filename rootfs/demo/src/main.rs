//! The demo application: what a first pod on a new node looks like.
//!
//! | path | answer |
//! |---|---|
//! | `/` | `hello from pod=<name> node=<name> starts=<N>`; N counts this container's starts on its volume |
//! | `/healthz` | `ok` |
//! | `/via-service` | asks the cluster's DNS for its own Service, gets `/` through it: `{"name","address","answer"}`, or 502 and what failed |
//!
//! Environment: `DEMO_LISTEN` (`0.0.0.0:8080`), `DEMO_DATA` (`/data`), `DEMO_SERVICE` (`demo.default.svc.cluster.local:80`),
//! `POD_NAME`, `NODE_NAME`. No name begins with `DEMO_PORT`: Kubernetes sets those for a Service named demo.
#![forbid(unsafe_code)]

mod dns;
mod http;
mod starts;
mod via_service;

use std::env;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use http::Reply;

/// Requests answered at the same time; the rest wait in the listener's queue. A request through the Service may come
/// back to this pod and take a second one.
const THREADS: usize = 8;
/// A thread's stack: the largest thing on it is a DNS message.
const STACK_BYTES: usize = 128 * 1024;
/// Longest time for one request, reading, asking and answering together.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What does not change while the program runs.
struct Demo {
    greeting: String,
    service: Option<String>,
}

fn main() -> ExitCode {
    // Blocked before any thread exists, so that all inherit it and only the wait below takes the signal.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    if let Err(error) = signals.thread_block() {
        eprintln!("event=failed what=block-signals error={error}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = serve() {
        eprintln!("event=failed what=listen error=\"{error}\"");
        return ExitCode::FAILURE;
    }
    match signals.wait() {
        Ok(signal) => {
            println!("event=ended signal={signal}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("event=failed what=wait-for-signal error={error}");
            ExitCode::FAILURE
        }
    }
}

/// Counts the start, binds, and leaves the answering to threads.
fn serve() -> std::io::Result<()> {
    let data = variable("DEMO_DATA", "/data");
    let starts = starts::count(Path::new(&data)).unwrap_or_else(|error| {
        // A full or lost volume must not keep the pod from answering.
        eprintln!("event=starts-not-kept dir={data} error=\"{error}\"");
        1
    });
    let (pod, node) = (variable("POD_NAME", "unknown"), variable("NODE_NAME", "unknown"));
    let demo = Arc::new(Demo {
        greeting: format!("hello from pod={pod} node={node} starts={starts}\n"),
        service: env::var("DEMO_SERVICE").ok(),
    });
    let listener = Arc::new(TcpListener::bind(variable("DEMO_LISTEN", "0.0.0.0:8080"))?);
    println!("event=listening address={} starts={starts}", listener.local_addr()?);
    for _ in 0..THREADS {
        let (listener, demo) = (listener.clone(), demo.clone());
        thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            loop {
                match listener.accept() {
                    Ok((stream, _)) => answer(&demo, stream),
                    // Out of file descriptors, most likely: what is in flight gives some back.
                    Err(_) => thread::sleep(Duration::from_millis(100)),
                }
            }
        })?;
    }
    Ok(())
}

/// Answers one request; a client that goes away or says nothing in time is nobody's loss.
fn answer(demo: &Demo, mut stream: TcpStream) {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let reply = match http::read_request(&mut stream, deadline) {
        Ok(path) => route(demo, &path, deadline),
        Err(error) => Reply::text(400, format!("{error}\n")),
    };
    let _gone = reply.write(&mut stream, deadline);
}

fn route(demo: &Demo, path: &str, deadline: Instant) -> Reply {
    match path {
        "/" => Reply::text(200, demo.greeting.clone()),
        "/healthz" => Reply::text(200, "ok\n".into()),
        "/via-service" => match via_service::ask(demo.service.as_deref(), deadline) {
            Ok(found) => Reply::json(200, found),
            Err(error) => Reply::json(502, serde_json::json!({ "error": error.to_string() })),
        },
        _ => Reply::text(404, "no such path; there are /, /healthz and /via-service\n".into()),
    }
}

fn variable(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}
