//! Questions to PID 1, and what it says.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use perigee_core::control::{DataOrigin, MAX_LINE_BYTES, Request, Response, Slots};
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::lines;

/// PID 1 answers from memory; longer than this it is not well, and who asked should hear so.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two questions whether something has come about.
const ASK_PERIOD: Duration = Duration::from_secs(1);

/// PID 1, by its control socket.
#[derive(Clone, Debug)]
pub struct Pid1(pub PathBuf);

/// Why PID 1 did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It did not answer.
    #[error("PID 1 at {}: {source}", socket.display())]
    Silent {
        /// Where it was asked.
        socket: PathBuf,
        /// What came instead.
        source: lines::Error,
    },
    /// It refused.
    #[error("PID 1 says: {0}")]
    Refused(String),
}

impl Pid1 {
    /// Its answer, unread: what a newer PID 1 says, an older agent passes on.
    ///
    /// # Errors
    /// [`Error::Silent`].
    pub async fn relay(&self, request: &Request) -> Result<Vec<u8>, Error> {
        self.exchange(request).await.map_err(|source| Error::Silent { socket: self.0.clone(), source })
    }

    /// Has it do something.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn tell(&self, request: &Request) -> Result<(), Error> {
        self.ask(request).await.map(|_done| ())
    }

    /// What it knows of the slots.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn slots(&self) -> Result<Slots, Error> {
        match self.ask(&Request::Slots).await? {
            Response::Slots(slots) => Ok(slots),
            other => Err(Error::Refused(format!("{other:?}, expected the slots"))),
        }
    }

    /// Returns when /data is there: of a card that is checked first, minutes after the agent.
    pub async fn data_mounted(&self) {
        let is_pending = |answer: &Result<Response, Error>| match answer {
            Ok(Response::Status(status)) => status.data.origin == DataOrigin::Pending,
            Ok(_) => false,
            Err(_) => true,
        };
        while is_pending(&self.ask(&Request::Status).await) {
            sleep(ASK_PERIOD).await;
        }
    }

    async fn ask(&self, request: &Request) -> Result<Response, Error> {
        let line = self.relay(request).await?;
        match serde_json::from_slice(&line) {
            Ok(Response::Error(reason)) => Err(Error::Refused(reason)),
            Ok(response) => Ok(response),
            Err(error) => Err(Error::Refused(format!("what is no answer: {error}"))),
        }
    }

    async fn exchange(&self, request: &Request) -> Result<Vec<u8>, lines::Error> {
        let connect = timeout(TIMEOUT, UnixStream::connect(&self.0));
        let mut stream = BufReader::with_capacity(4096, connect.await.map_err(|_| lines::Error::Idle(TIMEOUT))??);
        let request = serde_json::to_vec(request).map_err(io::Error::from)?;
        lines::write(&mut stream, &request, TIMEOUT).await?;
        lines::read(&mut stream, MAX_LINE_BYTES, TIMEOUT).await?.ok_or(lines::Error::Torn)
    }
}
