//! Answers requests: what PID 1 knows is asked of PID 1, what the agent can see it looks up itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use perigee_core::control::{MAX_LINE_BYTES, Request, Response};
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;

use crate::scrub::Scrubber;
use crate::{facts, lines, processes};

/// PID 1 answers from memory; longer than this it is not well, and the client should hear so.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers on their way at the same time: each of two listeners has eight clients at the most, and each client one.
const MAX_ANSWERS: u32 = 16;

/// Where the node's parts are.
#[derive(Debug)]
pub struct Node {
    /// PID 1's control socket.
    pub init_socket: PathBuf,
    /// The root file system, for [`Request::Inspect`].
    pub root: PathBuf,
    /// Reads the slots.
    pub scrubber: Scrubber,
    /// A place for every answer on its way.
    answers: Semaphore,
}

impl Node {
    /// A node whose parts are there.
    #[must_use]
    pub fn new(init_socket: PathBuf, root: PathBuf) -> Self {
        Self { init_socket, root, scrubber: Scrubber::default(), answers: Semaphore::new(MAX_ANSWERS as usize) }
    }

    /// Held from a request's end to its answer's; `None` when there is no time for another.
    pub async fn answering(&self) -> Option<SemaphorePermit<'_>> {
        self.answers.acquire().await.ok()
    }

    /// Returns when every answer on its way has left; from now on there are no others.
    ///
    /// Who asks a node to go down hears that it does, although the agent is among the first that go.
    pub async fn finish(&self) {
        let _all = self.answers.acquire_many(MAX_ANSWERS).await;
        self.answers.close();
    }

    /// The answer's line to one request, at most [`MAX_LINE_BYTES`] long. Failures are answers, too.
    pub async fn answer(self: &Arc<Self>, request: Request) -> Vec<u8> {
        match request {
            Request::Processes => line(&look(|| processes::read().map(Response::Processes)).await),
            Request::Inspect => {
                let root = self.root.clone();
                line(&look(move || facts::read(&root).map(Response::Inspect)).await)
            }
            Request::Scrubs => line(&Response::Scrubs(self.scrubber.report())),
            Request::Scrub => {
                self.scrubber.hurry();
                line(&Response::Done)
            }
            request => self.relay(&request).await.unwrap_or_else(|error| {
                let socket = self.init_socket.display();
                line(&Response::Error(format!("PID 1 at {socket}: {error}")))
            }),
        }
    }

    /// PID 1's answer, unread: what a newer PID 1 says, an older agent passes on.
    async fn relay(&self, request: &Request) -> Result<Vec<u8>, lines::Error> {
        let connect = tokio::time::timeout(INIT_TIMEOUT, UnixStream::connect(&self.init_socket));
        let mut stream = BufReader::with_capacity(4096, connect.await.map_err(|_| lines::Error::Idle(INIT_TIMEOUT))??);
        let request = serde_json::to_vec(request).map_err(std::io::Error::from)?;
        lines::write(&mut stream, &request, INIT_TIMEOUT).await?;
        lines::read(&mut stream, MAX_LINE_BYTES, INIT_TIMEOUT).await?.ok_or(lines::Error::Torn)
    }
}

/// Runs what reads many files beside the event loop.
async fn look<E: ToString + Send + 'static>(read: impl FnOnce() -> Result<Response, E> + Send + 'static) -> Response {
    let refused = |error: E| Response::Error(error.to_string());
    match spawn_blocking(move || read().unwrap_or_else(refused)).await {
        Ok(response) => response,
        Err(error) => Response::Error(format!("reading the node failed: {error}")),
    }
}

/// `response` as a line that is not too long.
pub fn line(response: &Response) -> Vec<u8> {
    let reason = match serde_json::to_vec(response) {
        Ok(line) if line.len() <= MAX_LINE_BYTES => return line,
        Ok(line) => format!("the answer has {} bytes; a line may have {MAX_LINE_BYTES}", line.len()),
        Err(error) => format!("the answer is no JSON: {error}"),
    };
    serde_json::json!({ "error": reason }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_too_long_for_a_line_is_said_so() {
        let short = line(&Response::Logs("x".repeat(10)));
        assert_eq!(short, br#"{"logs":"xxxxxxxxxx"}"#);
        let long = line(&Response::Logs("x".repeat(MAX_LINE_BYTES)));
        let Response::Error(error) = serde_json::from_slice(&long).unwrap() else { panic!("expected an error") };
        assert!(error.contains("1048587 bytes"), "{error}");
    }
}
