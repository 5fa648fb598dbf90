//! The boot as a chart: one bar per service, from its first exec to being ready for the first time.

use std::cmp::Ordering;
use std::fmt::Write as _;

use perigee_core::control::Status;
use serde::Serialize;

/// Columns of the bars: with a name of 23 and the times, 80 in all.
const WIDTH: u64 = 38;

/// When a service started and was ready, milliseconds since the kernel's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// The service.
    pub name: String,
    /// Its first exec.
    pub exec_ms: Option<u64>,
    /// Ready for the first time.
    pub ready_ms: Option<u64>,
}

/// PID 1 and the services, in the order of their starts; what has not started is last.
pub fn stages(status: &Status) -> Vec<Stage> {
    let mut stages: Vec<Stage> = status
        .services
        .iter()
        .map(|service| Stage {
            name: service.name.clone(),
            exec_ms: service.first_exec_ms,
            ready_ms: service.first_ready_ms,
        })
        .collect();
    stages.sort_by(|a, b| match (a.exec_ms, b.exec_ms) {
        (Some(a), Some(b)) => a.cmp(&b),
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (None, None) => Ordering::Equal,
    });
    let at = Some(status.pid1_started_ms);
    stages.insert(0, Stage { name: "init".into(), exec_ms: at, ready_ms: at });
    stages
}

/// The chart. Its end is the last service's readiness, or now while one is still on its way.
pub fn timeline(status: &Status) -> String {
    let stages = stages(status);
    let pending = stages.iter().any(|stage| stage.exec_ms.is_some() && stage.ready_ms.is_none());
    let last = stages.iter().filter_map(|stage| stage.ready_ms.max(stage.exec_ms)).max().unwrap_or(0);
    let end = if pending { status.now_ms } else { last }.max(1);
    let name_width = stages.iter().map(|stage| stage.name.len()).max().unwrap_or(0);
    let column = |ms: u64| (ms.min(end) * WIDTH / end) as usize;

    let mut text = format!("{:name_width$}  0 s{:>width$}\n", "", seconds(end), width = WIDTH as usize - 3);
    for Stage { name, exec_ms, ready_ms } in &stages {
        let (bar, times) = match (exec_ms, ready_ms) {
            (Some(exec), Some(ready)) => {
                (bar(column(*exec), column(*ready), '█'), format!("{:>6} → {}", seconds(*exec), seconds(*ready)))
            }
            (Some(exec), None) => (bar(column(*exec), column(end), '░'), format!("{:>6} → ?", seconds(*exec))),
            (None, _) => (String::new(), "not started".into()),
        };
        let _infallible = writeln!(text, "{name:name_width$}  {bar:width$}  {times}", width = WIDTH as usize);
    }
    text
}

/// Blanks up to `from`, and at least one block.
fn bar(from: usize, to: usize, block: char) -> String {
    let from = from.min(WIDTH as usize - 1);
    let mut bar = " ".repeat(from);
    bar.extend(std::iter::repeat_n(block, to.saturating_sub(from).max(1)));
    bar
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}
