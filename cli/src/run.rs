//! `perigee run`: builds a mission, boots its nodes in QEMU, and shows them becoming Ready, stage by stage.

mod progress;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use perigee_core::control::{Request, Response, ServiceState, Status};
use perigee_core::mission::CONTROL_PLANE;
use perigee_image::build::Arch;
use perigee_image::node::{Built, Disks};
use perigee_qemu::radio::Counters;
use perigee_qemu::{Cluster, Link, Plan, stage};

use crate::build;
use crate::client::Client;
use crate::machines;
use progress::{Interrupted, Progress};

/// How often the machines are asked how they are. Each question costs the node time: with one second between them it
/// is under a hundredth of one processor.
const PERIOD: Duration = Duration::from_secs(1);
/// The longest times to wait, under emulation on a host with other things to do; on real machines all of them are
/// seconds.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(120);
const SERVICES_TIMEOUT: Duration = Duration::from_secs(600);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// An orderly power-off: PID 1 gives each service its own time.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(90);

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// What is built.
    #[command(flatten)]
    pub build: build::Args,
    /// Memory of each node, MiB.
    #[arg(long)]
    pub memory: Option<u32>,
    /// End when the demo has answered, instead of at Ctrl-C.
    #[arg(long)]
    pub until_answering: bool,
    /// Put a simulated radio link between this host and the nodes once the demo has answered, beginning with a pass.
    ///
    /// Keys, all optional: rate (bit/s each way: 64k, 1M), loss (of frames, at random: 5%), window (up for how long of
    /// how long: 8m/96m), delay (one way: 250ms), speed (all of it so many times as fast: 20), seed (of the losses: 1).
    /// Several nodes share one link to the ground; what they say to each other does not pass it.
    #[arg(long, value_name = "rate=64k,loss=5%,window=8m/96m,speed=20", conflicts_with = "until_answering")]
    pub link: Option<Link>,
}

/// Builds and boots; returns after Ctrl-C (or the demo's answer) and an orderly power-off.
///
/// # Errors
/// What could not be built; a stage that was not reached in time, with the console's end.
pub fn run(args: &Args) -> Result<()> {
    let built = build::mission(&args.build, Disks::Write)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends us at once, and the machines with us.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let mut running = Running::start(args, &built, interrupted)?;
    // Before all else: `perigee status` in another terminal finds the mission by it.
    running.save()?;
    let result = running.follow(args.until_answering);
    running.save()?;
    let stopped = running.power_off();
    match result {
        Err(error) if !error.is::<Interrupted>() => Err(error),
        _ => stopped,
    }
}

/// The machines, and what was seen of them.
struct Running<'a> {
    args: &'a Args,
    built: &'a Built,
    cluster: Cluster,
    progress: Progress,
}

impl<'a> Running<'a> {
    fn start(args: &'a Args, built: &'a Built, interrupted: Arc<AtomicBool>) -> Result<Self> {
        let plan = machines::plan(built, args.build.target, args.memory);
        let plan = Plan { radio: args.link.clone(), ..plan };
        for node in &plan.nodes {
            let console = plan.folder.join(format!("{}.console.log", node.name));
            println!("run: {} starts with {} MiB; its console: {}", node.name, node.memory_mib, console.display());
        }
        let cluster = Cluster::start(plan).context("the ports 16443 and 17443 of this host must be free")?;
        if let (Some(link), Some(radio)) = (&args.link, cluster.radio()) {
            println!("run: once the demo has answered, a radio link leads to the nodes: {link}");
            if link.speed > 1 {
                println!("run: that {} times as fast: {}", link.speed, link.compressed());
            }
            radio.open();
        }
        Ok(Self { args, built, cluster, progress: Progress::new(interrupted) })
    }

    /// Leaves what was seen so far for programs.
    fn save(&self) -> Result<()> {
        self.progress.save(&build::out()?.join("last-run.json"), self.args.build.target, &self.built.mission.name)
    }

    /// Shows every stage; then waits for the end.
    fn follow(&mut self, until_answering: bool) -> Result<()> {
        for node in 0..self.built.nodes.len() {
            self.boot(node)?;
        }
        for node in 0..self.built.nodes.len() {
            self.services(node)?;
        }
        self.kubernetes()?;
        if until_answering {
            return Ok(());
        }
        self.explain();
        if let Some(radio) = self.cluster.radio() {
            radio.restore();
            println!("run: the radio link is there now, and its first pass begins");
        }
        self.progress.stay(&mut self.cluster)
    }

    /// Firmware, kernel, PID 1: from the console.
    fn boot(&mut self, node: usize) -> Result<()> {
        let name = self.built.nodes[node].name.clone();
        let stages = self.wait(&format!("{name}: firmware and kernel"), KERNEL_TIMEOUT, |cluster| {
            let lines = cluster.machine(node)?.console().lines_since(0);
            stage::Stages::of(&lines).context("PID 1 has not been started")
        })?;
        if let Some([loader, _]) = stages.loader {
            self.progress.reached(&name, "firmware done, loader starts", loader);
        }
        self.progress.reached(&name, "kernel starts", stages.kernel);
        self.progress.reached(&name, "PID 1", stages.pid1);
        Ok(())
    }

    /// Services, as they become ready: from the agent.
    fn services(&mut self, node: usize) -> Result<()> {
        let name = self.built.nodes[node].name.clone();
        let client = self.client(node)?;
        let what = format!("{name}: services");
        self.progress.wait(&mut self.cluster, &what, SERVICES_TIMEOUT, |progress, cluster| {
            let machine = cluster.machine(node)?;
            let status = status(&client)?;
            // The node's clock, seen from here: the answer has just come.
            let now = machine.started().elapsed();
            for (service, ready_ms) in ready_services(&status) {
                let ago = Duration::from_millis(status.now_ms.saturating_sub(ready_ms));
                progress.reached(&name, &format!("{service} ready"), now.saturating_sub(ago));
            }
            let waiting: Vec<&str> = waiting_services(&status).collect();
            if waiting.is_empty() { Ok(()) } else { bail!("not ready yet: {}", waiting.join(", ")) }
        })
    }

    /// Node Ready, demo answering: from the API server.
    fn kubernetes(&mut self) -> Result<()> {
        let first = self.built.mission.nodes.iter().position(|node| node.has_role(CONTROL_PLANE));
        let first = first.context("the mission has no control plane")?;
        let kubectl = self.cluster.kubectl(first);
        let names: Vec<String> = self.built.nodes.iter().map(|node| node.name.clone()).collect();
        self.wait("nodes Ready", ANSWER_TIMEOUT, |_| {
            let ready = kubectl.ready_nodes()?;
            let missing: Vec<&String> = names.iter().filter(|name| !ready.contains(name)).collect();
            if missing.is_empty() { Ok(()) } else { bail!("not Ready yet: {missing:?}") }
        })?;
        let at = self.cluster.machine(first)?.started().elapsed();
        for name in &names {
            self.progress.reached(name, "node Ready", at);
        }
        let answer = self.wait("the demo", ANSWER_TIMEOUT, |_| kubectl.demo())?;
        let at = self.cluster.machine(first)?.started().elapsed();
        self.progress.reached(&names[first], &format!("the demo answers through its Service: {}", answer.trim()), at);
        Ok(())
    }

    fn wait<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut question: impl FnMut(&mut Cluster) -> Result<T>,
    ) -> Result<T> {
        self.progress.wait(&mut self.cluster, what, timeout, |_, cluster| question(cluster))
    }

    fn client(&self, node: usize) -> Result<Client> {
        Client::new(self.cluster.agent_port(node), &self.built.pki)
    }

    fn explain(&self) {
        let target = if self.args.build.target == Arch::X86_64 { "" } else { " (emulated: give it time)" };
        println!();
        println!("The cluster runs{target}. In another terminal:");
        println!("  export KUBECONFIG={}", self.built.kubeconfig.display());
        println!("  {} get pods -A", self.built.kubectl.display());
        println!("  out/bin/perigee status");
        println!("  out/bin/perigee timeline");
        println!("Ctrl-C ends it in order; the disk keeps what the node wrote.");
    }

    /// Asks every node to end, and waits for it.
    fn power_off(&mut self) -> Result<()> {
        println!("run: powering off; Ctrl-C again pulls the plug");
        if let Some(radio) = self.cluster.radio() {
            let Counters { uplink, downlink } = radio.counters();
            println!("run: radio link, uplink: {uplink}");
            println!("run: radio link, downlink: {downlink}");
            // The end need not wait for a pass.
            radio.open();
        }
        for node in 0..self.built.nodes.len() {
            let name = &self.built.nodes[node].name;
            if let Err(error) = self.client(node).and_then(|client| client.request(&Request::PowerOff)) {
                println!("run: {name} does not listen ({error:#}): its plug is pulled");
                self.cluster.power_cut(node);
            }
        }
        for node in 0..self.built.nodes.len() {
            if let Ok(machine) = self.cluster.machine(node) {
                machine.wait_end(POWER_OFF_TIMEOUT)?;
                println!("run: {} is off", self.built.nodes[node].name);
            }
        }
        Ok(())
    }
}

fn status(client: &Client) -> Result<Status> {
    match client.request(&Request::Status)? {
        Response::Status(status) => Ok(status),
        other => bail!("expected the node's status, got {other:?}"),
    }
}

/// Services that have been ready in this boot, and when, by the node's clock.
fn ready_services(status: &Status) -> Vec<(&str, u64)> {
    let ready = status.services.iter().filter_map(|service| Some((service.name.as_str(), service.first_ready_ms?)));
    let mut ready: Vec<_> = ready.collect();
    ready.sort_by_key(|(_, at)| *at);
    ready
}

fn waiting_services(status: &Status) -> impl Iterator<Item = &str> {
    let waiting = status.services.iter().filter(|service| service.state != ServiceState::Ready);
    waiting.map(|service| service.name.as_str())
}
