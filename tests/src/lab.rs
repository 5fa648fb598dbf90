//! Machines for tests: images are built once for each architecture, machines run on copies of their disks.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use perigee::client::Client;
use perigee::machines;
use perigee_core::control::{Fault, Request, Response, Scrubs, ServiceState, ServiceStatus, Slots, Status, Update};
use perigee_core::inspect::{Inspection, Processes};
use perigee_image::build::{Arch, Ctx};
use perigee_image::node::{self, Built, Disks};
use perigee_qemu::{Cluster, Kubectl, Plan};

use crate::card::Card;

/// How often a node is asked how it is.
const PERIOD: Duration = Duration::from_secs(1);
/// Memory of a test's machine: twice what a single node needs, MiB.
const MEMORY_MIB: u32 = 1024;
/// `nice` adds this to a priority (nice(2)).
const LOWEST_PRIORITY: i32 = 19;
/// The service that answers us.
pub const AGENT: &str = "agent";
/// Services that write to data.
const WRITERS: [&str; 2] = ["containerd", "etcd"];
/// Longest times under emulation on a host with other things to do: ten times what is usual.
pub const SERVICES_TIMEOUT: Duration = Duration::from_secs(600);
/// Every service's own time to end, and the file systems'.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(120);
/// See [`SERVICES_TIMEOUT`].
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// Where images are built and machines run.
#[derive(Debug)]
pub struct Lab {
    ctx: Ctx,
    out: PathBuf,
    built: Vec<(Arch, Built)>,
    building: Vec<(Arch, JoinHandle<Result<Built>>)>,
}

impl Lab {
    /// A lab for the clone at `repo`, below `out/test` of it.
    pub fn new(repo: &Path) -> Result<Self> {
        Ok(Self {
            ctx: Ctx::new(repo.to_owned())?,
            out: repo.join("out/test"),
            built: Vec::new(),
            building: Vec::new(),
        })
    }

    /// The clone's root, and the cache.
    pub fn ctx(&self) -> &Ctx {
        &self.ctx
    }

    /// Begins to build the mission at the clone's top for `arch`, with what processors have left over: machines run
    /// beside it as if it were not there.
    pub fn prepare(&mut self, arch: Arch) {
        let (ctx, mission, out) = (self.ctx.clone(), self.mission(), self.out.clone());
        let building = std::thread::spawn(move || {
            // Of this thread alone, and of the programs that it starts. If it is refused, it only takes longer.
            let _ = rustix::process::nice(LOWEST_PRIORITY);
            node::build(&ctx, arch, &mission, &out, Disks::Write)
        });
        self.building.push((arch, building));
    }

    /// The mission at the clone's top for `arch`, built once.
    pub fn built(&mut self, arch: Arch) -> Result<&Built> {
        if let Some(i) = self.built.iter().position(|(for_arch, _)| *for_arch == arch) {
            return Ok(&self.built[i].1);
        }
        let built = match self.building.iter().position(|(for_arch, _)| *for_arch == arch) {
            Some(i) => self.building.swap_remove(i).1.join().map_err(|_| anyhow!("the build panicked"))??,
            None => self.build(arch, &self.mission())?,
        };
        self.built.push((arch, built));
        self.built.last().map(|(_, built)| built).context("just built")
    }

    fn mission(&self) -> PathBuf {
        self.ctx.repo.join("mission.toml")
    }

    /// The folder of the keys that sign slots.
    pub fn keys(&self) -> PathBuf {
        self.out.join("keys")
    }

    /// Another mission for `arch`.
    pub fn build(&self, arch: Arch, mission: &Path) -> Result<Built> {
        node::build(&self.ctx, arch, mission, &self.out, Disks::Write)
    }

    /// A machine of the built mission for the test `name`, with `change` made to it, running.
    pub fn rig(&mut self, arch: Arch, name: &str, change: impl FnOnce(&mut Plan) -> Result<()>) -> Result<Rig> {
        let mut rig = self.rig_off(arch, name, change)?;
        for node in 0..rig.cluster.nodes().len() {
            rig.cluster.power_on(node)?;
        }
        Ok(rig)
    }

    /// The same, on `card` instead of a new disk.
    pub fn rig_on(&mut self, card: &Card, arch: Arch, name: &str) -> Result<Rig> {
        self.rig(arch, name, |plan| {
            card.insert(plan);
            Ok(())
        })
    }

    /// The same as [`Lab::rig`], switched off.
    pub fn rig_off(&mut self, arch: Arch, name: &str, change: impl FnOnce(&mut Plan) -> Result<()>) -> Result<Rig> {
        let folder = self.folder(arch, name);
        let built = self.built(arch)?;
        let mut plan = machines::fresh(machines::plan(built, arch, Some(MEMORY_MIB)), folder)?;
        change(&mut plan)?;
        Rig::off(plan, &built.pki)
    }

    /// A folder for the test `name`; it need not be there yet.
    pub fn folder(&self, arch: Arch, name: &str) -> PathBuf {
        self.out.join(arch.name()).join(name)
    }
}

/// Running machines, and how to ask them.
#[derive(Debug)]
pub struct Rig {
    /// The machines.
    pub cluster: Cluster,
    /// One a node: each keeps its connection, which is dear to make.
    clients: Vec<Client>,
}

impl Rig {
    /// The machines of `plan`, none of them running, whose agents believe the operator's certificate in `pki`.
    pub fn off(plan: Plan, pki: &Path) -> Result<Self> {
        let nodes = plan.nodes.len();
        let cluster = Cluster::off(plan)?;
        let clients = (0..nodes).map(|node| Client::new(cluster.agent_port(node), pki)).collect::<Result<_>>()?;
        Ok(Self { cluster, clients })
    }

    /// The first node's API server.
    pub fn kubectl(&self) -> Kubectl {
        self.cluster.kubectl(0)
    }

    /// Asks an agent.
    pub fn ask(&self, node: usize, request: &Request) -> Result<Response> {
        self.clients[node].request(request)
    }

    /// Asks the first node's agent for something to happen.
    pub fn tell(&self, request: &Request) -> Result<()> {
        match self.ask(0, request)? {
            Response::Done => Ok(()),
            other => bail!("{request:?}: expected `done`, got {other:?}"),
        }
    }

    /// Ends the first node in order, and waits until it is off.
    pub fn power_off(&mut self) -> Result<()> {
        self.tell(&Request::PowerOff)?;
        self.cluster.machine(0)?.wait_end(POWER_OFF_TIMEOUT).map(drop)
    }

    /// A node's status.
    pub fn status(&self, node: usize) -> Result<Status> {
        match self.ask(node, &Request::Status)? {
            Response::Status(status) => Ok(status),
            other => bail!("expected the node's status, got {other:?}"),
        }
    }

    /// The first node's slots.
    pub fn slots(&self) -> Result<Slots> {
        match self.ask(0, &Request::Slots)? {
            Response::Slots(slots) => Ok(slots),
            other => bail!("expected the node's slots, got {other:?}"),
        }
    }

    /// What reading the first node's slots has found.
    pub fn scrubs(&self) -> Result<Scrubs> {
        match self.ask(0, &Request::Scrubs)? {
            Response::Scrubs(scrubs) => Ok(scrubs),
            other => bail!("expected what scrubbing has found, got {other:?}"),
        }
    }

    /// Asks the first node's agent something of its update; gives how far that is.
    pub fn update(&self, request: &Request) -> Result<Update> {
        match self.ask(0, request)? {
            Response::Update(update) => Ok(update),
            other => bail!("{request:?}: expected how far the update is, got {other:?}"),
        }
    }

    /// A node's processes.
    pub fn processes(&self, node: usize) -> Result<Processes> {
        match self.ask(node, &Request::Processes)? {
            Response::Processes(processes) => Ok(processes),
            other => bail!("expected the node's processes, got {other:?}"),
        }
    }

    /// Facts of the first node.
    pub fn inspect(&self) -> Result<Inspection> {
        match self.ask(0, &Request::Inspect)? {
            Response::Inspect(inspection) => Ok(inspection),
            other => bail!("expected the node's facts, got {other:?}"),
        }
    }

    /// Does something to a service of the first node, behind PID 1's back.
    pub fn fault(&self, service: &str, fault: Fault) -> Result<()> {
        let told = self.tell(&Request::Fault { service: service.to_owned(), fault });
        // The one who passes it on may be down before it has answered.
        if service == AGENT { Ok(()) } else { told }
    }

    /// Asks `question` until it is so; ends at once if a machine ends.
    ///
    /// The error has the last answer and the end of the first node's console.
    pub fn wait<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut question: impl FnMut(&Self) -> Result<T>,
    ) -> Result<T> {
        let begin = Instant::now();
        loop {
            let asked = Instant::now();
            let error = match question(self) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.cluster.alive().with_context(|| what.to_owned())?;
            if begin.elapsed() > timeout {
                let tail = self.cluster.tail();
                return Err(error)
                    .with_context(|| format!("{what}: not within {timeout:?}; the console's end:\n{tail}"));
            }
            std::thread::sleep(PERIOD.saturating_sub(asked.elapsed()));
        }
    }

    /// Waits until what writes to the first node's data is ready.
    pub fn wait_writers(&mut self) -> Result<Status> {
        self.wait("what writes to data is ready", SERVICES_TIMEOUT, |rig| {
            let status = rig.status(0)?;
            for name in WRITERS {
                let now = service(&status, name)?;
                ensure!(now.state == ServiceState::Ready, "{now:?}");
            }
            Ok(status)
        })
    }

    /// Waits until every service of a node is ready.
    pub fn wait_services(&mut self, node: usize) -> Result<Status> {
        self.wait("all services ready", SERVICES_TIMEOUT, |rig| {
            let status = rig.status(node)?;
            let waiting = status.services.iter().filter(|service| service.state != ServiceState::Ready);
            let names: Vec<&str> = waiting.map(|service| service.name.as_str()).collect();
            ensure!(!status.services.is_empty() && names.is_empty(), "not ready: {}", names.join(", "));
            Ok(status)
        })
    }

    /// Waits until the node is Ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait("node Ready", ANSWER_TIMEOUT, |rig| {
            let ready = rig.kubectl().ready_nodes()?;
            ensure!(ready.len() == rig.cluster.nodes().len(), "only Ready: {ready:?}");
            Ok(())
        })
    }

    /// Waits until the demo answers through its Service's DNS name.
    pub fn wait_answering(&mut self) -> Result<String> {
        self.wait("the demo answers", ANSWER_TIMEOUT, |rig| rig.kubectl().demo())
    }
}

/// A service of a status, by name.
pub fn service<'a>(status: &'a Status, name: &str) -> Result<&'a ServiceStatus> {
    status.services.iter().find(|service| service.name == name).ok_or_else(|| anyhow!("no service {name}"))
}
