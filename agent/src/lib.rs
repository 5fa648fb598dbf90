//! The node's voice: PID 1's knowledge and the agent's own, over a unix socket and over mutual TLS; the manifests; the
//! scrubber; updates.
//!
//! It may die at any time: PID 1 starts it again and nothing else notices. What it must not forget, an update on its way,
//! is on the data partition.
#![forbid(unsafe_code)]

pub mod addons;
pub mod facts;
pub mod lines;
pub mod log;
pub mod node;
pub mod partition;
pub mod pid1;
pub mod processes;
pub mod scrub;
pub mod server;
pub mod tls;
pub mod update;

use std::io;
use std::path::PathBuf;

/// Why the agent cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener cannot be had.
    #[error("cannot listen at {at}: {source}")]
    Listen {
        /// Address or path.
        at: String,
        /// Why not.
        source: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("{}: {reason}; expected PEM as the image builder writes it", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificate, key and authority do not fit.
    #[error("{}: {reason}; certificate, key and authority must belong together", path.display())]
    Certificates {
        /// The folder or file they are in.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// SIGTERM cannot be waited for.
    #[error("cannot wait for SIGTERM: {0}")]
    Signal(io::Error),
    /// PID 1 cannot be told that the agent lives.
    #[error("cannot notify PID 1 at NOTIFY_SOCKET: {0}")]
    Notify(io::Error),
}
