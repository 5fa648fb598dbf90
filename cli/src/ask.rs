//! Verbs that ask a node: where it is, the question, and the answer as text or as JSON.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use perigee_core::control::{Fault, Request, Response, Slots, Status};
use serde_json::Value;

use crate::client::Client;
use crate::{build, show};

/// Which node, and how its answer is shown.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct At {
    /// Where the node's agent is.
    #[arg(long, default_value = "127.0.0.1:17443", value_name = "HOST:PORT")]
    pub node: String,
    /// The mission's pki/ folder; that of the last run unless said.
    #[arg(long, value_name = "FOLDER")]
    pub pki: Option<PathBuf>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which service of which node.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Named {
    /// The service's name, as `perigee services` shows it.
    pub service: String,
    /// Which node.
    #[command(flatten)]
    pub at: At,
}

/// What is to happen to which service of which node.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct FaultArgs {
    /// The service's name, as `perigee services` shows it.
    pub service: String,
    /// What happens to it.
    pub fault: FaultKind,
    /// Which node.
    #[command(flatten)]
    pub at: At,
}

/// Which node is to reboot, and into what.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct RebootArgs {
    /// Start this slot, once: slot-a, slot-b or golden.
    #[arg(long, value_name = "SLOT")]
    pub into: Option<String>,
    /// Which node.
    #[command(flatten)]
    pub at: At,
}

/// Whose slots are read, and when.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct ScrubArgs {
    /// Do not wait for the schedule: read every block of every slot now.
    #[arg(long)]
    pub now: bool,
    /// Which node.
    #[command(flatten)]
    pub at: At,
}

/// [`Fault`] as a word on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FaultKind {
    /// SIGKILL to its main process.
    Kill,
    /// SIGSTOP to its main process.
    Stop,
    /// Its whole cgroup is frozen.
    Freeze,
}

/// A node at a glance.
///
/// # Errors
/// This and all below: the node does not answer or refuses, or it is not known whom to ask.
pub fn status(at: &At) -> Result<String> {
    let status = ask_status(at)?;
    if at.json { json(&status) } else { Ok(show::status(&status)) }
}

/// Its services only.
pub fn services(at: &At) -> Result<String> {
    let status = ask_status(at)?;
    if at.json { json(&status.services) } else { Ok(show::services(&status)) }
}

/// The boot as a chart.
pub fn timeline(at: &At) -> Result<String> {
    let status = ask_status(at)?;
    if at.json { json(&show::stages(&status)) } else { Ok(show::timeline(&status)) }
}

/// A service's newest output.
pub fn logs(named: &Named) -> Result<String> {
    match ask(&named.at, &Request::Logs { service: named.service.clone() })? {
        Response::Logs(text) if named.at.json => json(&text.lines().collect::<Vec<_>>()),
        Response::Logs(text) => Ok(text),
        other => unexpected(&other),
    }
}

/// Processes with their memory.
pub fn processes(at: &At) -> Result<String> {
    match ask(at, &Request::Processes)? {
        Response::Processes(processes) if at.json => json(&processes),
        Response::Processes(processes) => Ok(show::processes(&processes)),
        other => unexpected(&other),
    }
}

/// Facts of the running node.
pub fn inspect(at: &At) -> Result<String> {
    match ask(at, &Request::Inspect)? {
        Response::Inspect(inspection) if at.json => json(&inspection),
        Response::Inspect(inspection) => Ok(show::inspection(&inspection)),
        other => unexpected(&other),
    }
}

/// Ends a service and starts it again.
pub fn restart(named: &Named) -> Result<String> {
    command(&named.at, &Request::Restart { service: named.service.clone() }, &format!("{} restarts", named.service))
}

/// Ends a service.
pub fn stop(named: &Named) -> Result<String> {
    command(&named.at, &Request::Stop { service: named.service.clone() }, &format!("{} ends", named.service))
}

/// Starts a service.
pub fn start(named: &Named) -> Result<String> {
    command(&named.at, &Request::Start { service: named.service.clone() }, &format!("{} starts", named.service))
}

/// Does something to a service behind PID 1's back.
pub fn fault(args: &FaultArgs) -> Result<String> {
    let (fault, done) = match args.fault {
        FaultKind::Kill => (Fault::Kill, "is killed"),
        FaultKind::Stop => (Fault::Stop, "is stopped"),
        FaultKind::Freeze => (Fault::Freeze, "is frozen"),
    };
    command(&args.at, &Request::Fault { service: args.service.clone(), fault }, &format!("{} {done}", args.service))
}

/// Its slots, and which starts next.
pub fn slots(at: &At) -> Result<String> {
    let slots = ask_slots(at)?;
    if at.json { json(&slots) } else { Ok(show::slots(&slots)) }
}

/// How its last starts ended.
pub fn resets(at: &At) -> Result<String> {
    let slots = ask_slots(at)?;
    if at.json { json(&slots.resets) } else { Ok(show::resets(&slots)) }
}

/// What reading its slots has found, or has them read.
pub fn scrub(args: &ScrubArgs) -> Result<String> {
    if args.now {
        return command(&args.at, &Request::Scrub, "all slots are read now; `perigee scrub` shows what is found");
    }
    match ask(&args.at, &Request::Scrubs)? {
        Response::Scrubs(scrubs) if args.at.json => json(&scrubs),
        Response::Scrubs(scrubs) => Ok(show::scrubs(&scrubs)),
        other => unexpected(&other),
    }
}

/// Reboots in order.
pub fn reboot(args: &RebootArgs) -> Result<String> {
    match &args.into {
        Some(slot) => {
            let request = Request::RebootInto { slot: slot.clone() };
            command(&args.at, &request, &format!("the node reboots into {slot}, once"))
        }
        None => command(&args.at, &Request::Reboot, "the node reboots"),
    }
}

/// Switches off in order.
pub fn power_off(at: &At) -> Result<String> {
    command(at, &Request::PowerOff, "the node switches off")
}

fn command(at: &At, request: &Request, done: &str) -> Result<String> {
    match ask(at, request)? {
        Response::Done if at.json => json("done"),
        Response::Done => Ok(format!("{done}\n")),
        other => unexpected(&other),
    }
}

fn ask_status(at: &At) -> Result<Status> {
    match ask(at, &Request::Status)? {
        Response::Status(status) => Ok(status),
        other => unexpected(&other),
    }
}

fn ask_slots(at: &At) -> Result<Slots> {
    match ask(at, &Request::Slots)? {
        Response::Slots(slots) => Ok(slots),
        other => unexpected(&other),
    }
}

fn ask(at: &At, request: &Request) -> Result<Response> {
    client(at)?.request(request)
}

/// Who asks the node.
pub(crate) fn client(at: &At) -> Result<Client> {
    let pki = match &at.pki {
        Some(pki) => pki.clone(),
        None => pki_of_last_run(&build::out()?)?,
    };
    Client::to(&at.node, &pki)
}

/// The `pki/` of the mission in `out/last-run.json`.
fn pki_of_last_run(out: &Path) -> Result<PathBuf> {
    let path = out.join("last-run.json");
    let cure = || format!("{}: which mission is meant? Say `--pki out/<target>/<mission>/pki`", path.display());
    let run: Value = serde_json::from_slice(&fs::read(&path).with_context(cure)?).with_context(cure)?;
    match (run["target"].as_str(), run["mission"].as_str()) {
        (Some(target), Some(mission)) => Ok(out.join(target).join(mission).join("pki")),
        _ => bail!("no target and mission in {}", cure()),
    }
}

pub(crate) fn unexpected<T>(answer: &Response) -> Result<T> {
    bail!("the node answers something else than it was asked: {answer:?}; is it of another version?")
}

pub(crate) fn json(value: &(impl serde::Serialize + ?Sized)) -> Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_run_names_the_mission_and_its_absence_the_cure() {
        let out = tempfile::tempdir().unwrap();
        let error = format!("{:#}", pki_of_last_run(out.path()).unwrap_err());
        assert!(error.contains("--pki"), "{error}");
        fs::write(out.path().join("last-run.json"), r#"{"target": "x86_64", "mission": "first", "stages": []}"#)
            .unwrap();
        assert_eq!(pki_of_last_run(out.path()).unwrap(), out.path().join("x86_64/first/pki"));
        fs::write(out.path().join("last-run.json"), "{}").unwrap();
        assert!(format!("{:#}", pki_of_last_run(out.path()).unwrap_err()).contains("--pki"));
    }
}
