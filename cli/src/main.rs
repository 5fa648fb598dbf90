//! `perigee`'s verbs, with an example for each. Exit codes: 0 done, 1 failed, 2 wrong use.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use perigee::ask::{self, At, FaultArgs, Named, RebootArgs, ScrubArgs};
use perigee::{build, run, update};

/// Builds, runs and looks into Kubernetes nodes that nobody can touch.
#[derive(Debug, Parser)]
#[command(name = "perigee", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong use. `perigee <verb> --help` has an example of each verb."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build the disks of a mission
    #[command(after_help = "Example: perigee build --target aarch64 --mission docs/missions/three-nodes.toml")]
    Build(build::Args),
    /// Build a mission, boot its nodes in QEMU, show them becoming Ready, stay until Ctrl-C
    #[command(after_help = "Example: perigee run --link rate=64k,loss=5%,window=8m/96m,speed=20")]
    Run(run::Args),
    /// A node at a glance: version, data, links, services
    #[command(after_help = "Example: perigee status --node 127.0.0.1:17443")]
    Status(At),
    /// Services: state, for how long, restarts, memory, last end
    #[command(after_help = "Example: perigee services --json")]
    Services(At),
    /// A service's newest output; `init` is PID 1 itself
    #[command(after_help = "Example: perigee logs kube-apiserver")]
    Logs(Named),
    /// The boot as a chart: each service from its start to being ready
    #[command(after_help = "Example: perigee timeline")]
    Timeline(At),
    /// Processes with their memory, the largest first
    #[command(after_help = "Example: perigee processes --json")]
    Processes(At),
    /// What a shell would show: PID 1, the root file system, its programs, mounts, zombies
    #[command(after_help = "Example: perigee inspect")]
    Inspect(At),
    /// Slots: which image runs, which starts next, how many starts each may still lose
    #[command(after_help = "Example: perigee slots")]
    Slots(At),
    /// How the last starts ended: cause, last words
    #[command(after_help = "Example: perigee resets --json")]
    Resets(At),
    /// What reading the slots' blocks has found and mended
    #[command(after_help = "Example: perigee scrub --now")]
    Scrub(ScrubArgs),
    /// Updates: send a bundle, see how far it is, have it started
    #[command(subcommand, after_help = "Example: perigee update send out/release.bundle --activate")]
    Update(update::Verb),
    /// End a service and start it again
    #[command(after_help = "Example: perigee restart etcd")]
    Restart(Named),
    /// End a service and leave it ended
    #[command(after_help = "Example: perigee stop kube-scheduler")]
    Stop(Named),
    /// Start a service that was stopped
    #[command(after_help = "Example: perigee start kube-scheduler")]
    Start(Named),
    /// A drill: kill, stop or freeze a service behind PID 1's back
    #[command(after_help = "Example: perigee fault kubelet kill")]
    Fault(FaultArgs),
    /// End everything in order and start again
    #[command(after_help = "Example: perigee reboot --node 127.0.0.1:17443")]
    Reboot(RebootArgs),
    /// End everything in order and switch off
    #[command(after_help = "Example: perigee power-off --node 127.0.0.1:17443")]
    PowerOff(At),
}

fn main() -> ExitCode {
    let cli = Cli::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit());
    match act(&cli.verb).and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("perigee: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The verbs, and below them the example of each.
fn command() -> clap::Command {
    let command = Cli::command();
    let examples = command.get_subcommands().filter_map(|verb| verb.get_after_help());
    let examples: String =
        examples.map(|example| format!("{}\n", example.to_string().replace("Example: ", "  "))).collect();
    command.after_help(format!("Examples:\n{examples}\nExit codes: 0 done, 1 failed, 2 wrong use"))
}

/// Does what the verb says; what is left to print is returned.
fn act(verb: &Verb) -> Result<String> {
    match verb {
        Verb::Build(args) => build::build(args).map(|()| String::new()),
        Verb::Run(args) => run::run(args).map(|()| String::new()),
        Verb::Status(at) => ask::status(at),
        Verb::Services(at) => ask::services(at),
        Verb::Logs(named) => ask::logs(named),
        Verb::Timeline(at) => ask::timeline(at),
        Verb::Processes(at) => ask::processes(at),
        Verb::Inspect(at) => ask::inspect(at),
        Verb::Restart(named) => ask::restart(named),
        Verb::Stop(named) => ask::stop(named),
        Verb::Start(named) => ask::start(named),
        Verb::Fault(args) => ask::fault(args),
        Verb::Slots(at) => ask::slots(at),
        Verb::Resets(at) => ask::resets(at),
        Verb::Scrub(args) => ask::scrub(args),
        Verb::Update(verb) => update::act(verb),
        Verb::Reboot(args) => ask::reboot(args),
        Verb::PowerOff(at) => ask::power_off(at),
    }
}

/// A reader that has seen enough (`perigee logs etcd | head`) is no failure.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_well_formed_and_has_an_example() {
        let mut command = command();
        command.clone().debug_assert();
        let help = command.render_help().to_string();
        for verb in command.get_subcommands_mut() {
            let example = format!("perigee {}", verb.get_name());
            assert!(help.contains(&format!("  {example}")), "{help}");
            let help = verb.render_help().to_string();
            assert!(help.contains(&format!("Example: {example}")), "{help}");
            for below in verb.get_subcommands_mut() {
                let help = below.render_help().to_string();
                assert!(help.contains(&format!("Example: {example} {}", below.get_name())), "{help}");
            }
        }
    }

    #[test]
    fn wrong_use_is_told_from_failure() {
        for wrong in [
            &["perigee", "logs"][..],
            &["perigee", "fly"],
            &["perigee", "fault", "etcd", "tickle"],
            &["perigee", "run", "--link", "rate=fast"],
        ] {
            assert_eq!(Cli::try_parse_from(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
        assert_eq!(Cli::try_parse_from(["perigee", "--help"]).unwrap_err().exit_code(), 0);
    }
}
