//! What a boot has come to, for people: each stage once, with its time, and a sign of life while nothing happens.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use perigee_image::build::Arch;
use perigee_qemu::Cluster;
use serde_json::json;

use super::PERIOD;

/// After this long without a new stage, what is waited for is said.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The user has pressed Ctrl-C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// A stage that a node has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stage {
    node: String,
    name: String,
    /// Host time since the node's processors began to run.
    at: Duration,
}

/// All stages so far.
#[derive(Debug)]
pub(super) struct Progress {
    stages: Vec<Stage>,
    said: Instant,
    interrupted: std::sync::Arc<AtomicBool>,
}

impl Progress {
    pub(super) fn new(interrupted: std::sync::Arc<AtomicBool>) -> Self {
        Self { stages: Vec::new(), said: Instant::now(), interrupted }
    }

    /// Prints a stage, unless it has been printed.
    pub(super) fn reached(&mut self, node: &str, name: &str, at: Duration) {
        if self.stages.iter().any(|stage| stage.node == node && stage.name == name) {
            return;
        }
        println!("{:8.1} s  {node}: {name}", at.as_secs_f64());
        self.stages.push(Stage { node: node.into(), name: name.into(), at });
        self.said = Instant::now();
    }

    /// Asks until it is so; ends at Ctrl-C with [`Interrupted`], and at once when a machine has ended.
    pub(super) fn wait<T>(
        &mut self,
        cluster: &mut Cluster,
        what: &str,
        timeout: Duration,
        mut question: impl FnMut(&mut Self, &mut Cluster) -> Result<T>,
    ) -> Result<T> {
        let begin = Instant::now();
        loop {
            let asked = Instant::now();
            let error = match question(self, cluster) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.check(cluster)?;
            if begin.elapsed() > timeout {
                let tail = cluster.tail();
                return Err(error)
                    .with_context(|| format!("{what}: not within {timeout:?}; the console's end:\n{tail}"));
            }
            if self.said.elapsed() > HEARTBEAT {
                println!("           … {what}: {error:#}");
                self.said = Instant::now();
            }
            std::thread::sleep(PERIOD.saturating_sub(asked.elapsed()));
        }
    }

    /// Waits for Ctrl-C, or for a machine to end.
    pub(super) fn stay(&self, cluster: &mut Cluster) -> Result<()> {
        loop {
            self.check(cluster)?;
            std::thread::sleep(PERIOD / 4);
        }
    }

    fn check(&self, cluster: &mut Cluster) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!(Interrupted);
        }
        cluster.alive()
    }

    /// Writes all stages to the file `path`, for programs.
    pub(super) fn save(&self, path: &Path, arch: Arch, mission: &str) -> Result<()> {
        let stages = self.stages.iter().map(|stage| {
            json!({"node": stage.node, "stage": stage.name, "seconds": (stage.at.as_secs_f64() * 1e3).round() / 1e3})
        });
        let text = json!({"target": arch.name(), "mission": mission, "stages": stages.collect::<Vec<_>>()});
        std::fs::write(path, format!("{text:#}\n")).with_context(|| format!("write {}", path.display()))
    }
}
