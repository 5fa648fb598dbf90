//! QMP, QEMU's control protocol: one JSON object a line over a unix socket (QEMU's `docs/interop/qmp-spec.rst`).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// QEMU answers at once when its main loop runs; on a loaded host that is seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the socket of a QEMU that is starting is tried.
const CONNECT_PERIOD: Duration = Duration::from_millis(20);

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to the socket at `path` as soon as it is there, and negotiates.
    ///
    /// `alive` is asked between tries; its error (QEMU has ended, and why) ends the wait.
    pub fn connect(path: &Path, mut alive: impl FnMut() -> Result<()>) -> Result<Self> {
        let until = Instant::now() + ANSWER_TIMEOUT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > until => {
                    return Err(error).with_context(|| format!("connect to QMP at {}", path.display()));
                }
                Err(_) => alive()?,
            }
            std::thread::sleep(CONNECT_PERIOD);
        };
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut qmp = Self { reader: BufReader::new(stream) };
        let greeting = qmp.receive().context("QMP greeting")?;
        if greeting.get("QMP").is_none() {
            bail!("QMP: expected a greeting, got {greeting}");
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs one command; gives its result. Events that come before it are of no interest here and are dropped.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        self.reader.get_mut().write_all(request.as_bytes()).with_context(|| format!("QMP {command}"))?;
        loop {
            let mut answer = self.receive().with_context(|| format!("QMP {command}"))?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("QMP {command} {arguments}: {error}");
            }
        }
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU closed its control socket");
        }
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A QEMU that greets and answers each request with the next of `answers`; gives back what it was asked.
    fn fake(answers: &'static [&'static str]) -> (Qmp, std::thread::JoinHandle<Vec<String>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            let mut reader = BufReader::new(theirs);
            let mut asked = Vec::new();
            for answer in answers {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                asked.push(line.trim().to_owned());
                writeln!(reader.get_mut(), "{answer}").unwrap();
            }
            asked
        });
        (Qmp { reader: BufReader::new(ours) }, server)
    }

    #[test]
    fn events_before_the_answer_are_skipped() {
        let (mut qmp, server) = fake(&["{\"event\": \"RTC_CHANGE\"}\n{\"return\": {\"status\": \"running\"}}"]);
        assert_eq!(qmp.execute("query-status", json!({})).unwrap()["status"], "running");
        assert_eq!(server.join().unwrap(), [r#"{"arguments":{},"execute":"query-status"}"#]);
    }

    #[test]
    fn a_refusal_is_an_error_that_names_the_command() {
        let (mut qmp, _server) = fake(&[r#"{"error": {"class": "GenericError", "desc": "no such link"}}"#]);
        let error = qmp.execute("set_link", json!({"name": "net9"})).unwrap_err().to_string();
        assert!(error.contains("set_link") && error.contains("no such link"), "{error}");
    }

    #[test]
    fn a_qemu_that_ends_is_an_error() {
        let (mut qmp, server) = fake(&[]);
        server.join().unwrap();
        assert!(qmp.execute("quit", json!({})).is_err());
    }
}
