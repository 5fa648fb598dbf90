//! Answers requests: what PID 1 knows is asked of PID 1, what the agent can see it looks up itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use perigee_core::control::{MAX_LINE_BYTES, Request, Response};
use tokio::sync::{Semaphore, SemaphorePermit, SetOnce};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::pid1::Pid1;
use crate::scrub::Scrubber;
use crate::update::Updater;
use crate::{facts, processes};

/// Answers on their way at the same time: each of two listeners has eight clients at the most, and each client one.
const MAX_ANSWERS: u32 = 16;

const NO_UPDATES: &str =
    "this node takes no updates: it has no key of who signs them (/config/slot.pub), or its data is not mounted yet";

/// How long who asks for an update right after the agent's start waits for what takes it.
const UPDATER_PATIENCE: Duration = Duration::from_secs(1);

/// Where the node's parts are.
#[derive(Debug)]
pub struct Node {
    /// Who is asked what the agent does not know.
    pub pid1: Pid1,
    /// The root file system, for [`Request::Inspect`].
    pub root: PathBuf,
    /// Reads the slots.
    pub scrubber: Scrubber,
    /// Takes updates, once there is data to keep them on; never where nobody is known who signs them.
    pub updater: SetOnce<Updater>,
    /// A place for every answer on its way.
    answers: Semaphore,
}

impl Node {
    /// A node whose parts are there.
    #[must_use]
    pub fn new(init_socket: PathBuf, root: PathBuf) -> Self {
        let (pid1, answers) = (Pid1(init_socket), Semaphore::new(MAX_ANSWERS as usize));
        Self { pid1, root, scrubber: Scrubber::default(), updater: SetOnce::new(), answers }
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
            Request::SlotClear { .. } | Request::SlotWritten { .. } | Request::SlotPrefer { .. } => {
                line(&Response::Error("only updates change slots; see `perigee update --help`".to_owned()))
            }
            Request::Update
            | Request::UpdateBegin { .. }
            | Request::UpdatePut { .. }
            | Request::UpdateActivate { .. }
            | Request::UpdateCancel => line(&self.update(&request).await),
            request => {
                self.pid1.relay(&request).await.unwrap_or_else(|error| line(&Response::Error(error.to_string())))
            }
        }
    }

    async fn update(&self, request: &Request) -> Response {
        let answer = match self.updater().await {
            Some(updater) => updater.answer(request).await,
            None => Some(Response::Error(NO_UPDATES.to_owned())),
        };
        answer.unwrap_or_else(|| Response::Error("a piece comes with its bytes behind the request's line".to_owned()))
    }

    async fn updater(&self) -> Option<&Updater> {
        timeout(UPDATER_PATIENCE, self.updater.wait()).await.ok()
    }

    /// The answer's line to a piece of an update.
    pub async fn put(&self, at: u64, bytes: Vec<u8>) -> Vec<u8> {
        line(&match self.updater().await {
            Some(updater) => updater.put(at, bytes).await,
            None => Response::Error(NO_UPDATES.to_owned()),
        })
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
