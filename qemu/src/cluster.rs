//! A mission's nodes as machines on this host: disks that are written over, one network, forwarded ports.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, bail};

use crate::config::{Board, Config, Disk, Firmware, Forward, Network, Protocol, Storage, kvm_usable};
use crate::disk;
use crate::kubectl::Kubectl;
use crate::machine::Machine;
use crate::radio::{Channel, Link};
use crate::recording::Recording;
use crate::router::Router;

/// The API server's port in a node, and where it is on the host's loopback for the first node.
pub const API_PORT: (u16, u16) = (6443, 16443);
/// The agent's port in a node, TCP and UDP, and where it is on the host's loopback for the first node.
pub const AGENT_PORT: (u16, u16) = (7443, 17443);
/// Two processors: what the boards in view have, and what a host of two cores can give.
const CPUS: u32 = 2;

/// One node to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name in the mission.
    pub name: String,
    /// The raw disk image that was built for it.
    pub disk: PathBuf,
    /// Its address in 10.0.2.0/24.
    pub address: Ipv4Addr,
    /// Memory, MiB.
    pub memory_mib: u32,
}

/// Nodes and how to reach them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The board of all of them.
    pub board: Board,
    /// What starts from their disks.
    pub firmware: Firmware,
    /// What their disks are connected to.
    pub storage: Storage,
    /// At least one; an API server runs on the first.
    pub nodes: Vec<Node>,
    /// The host's `kubectl`.
    pub kubectl: PathBuf,
    /// The administrator's.
    pub kubeconfig: PathBuf,
    /// Existing folder for overlays and console logs.
    pub folder: PathBuf,
    /// Whether the disks that were built are written to, or copies of them.
    pub disks: Disks,
    /// Ports that people expect, or any that are free (tests).
    pub ports: Ports,
    /// Whether the network cards have a carrier at first.
    pub link: bool,
    /// The radio link between the host and all of the nodes; its first pass begins before they start. Nodes hear each
    /// other without it.
    pub radio: Option<Link>,
}

/// What the nodes write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// The disks that were built: the next start remembers this one.
    Built,
    /// Copies that begin as what was built, and are made anew with each cluster.
    Fresh,
    /// The same, with a log of all that is written to them (see [`crate::recording`]).
    Recorded,
}

/// Which ports of the host's loopback lead to the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// 16443 and 17443 for the first node, 16444 and 17444 for the second, …
    Expected,
    /// Any that are free.
    Free,
}

/// Running nodes. Dropping it is pulling all plugs.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    forwards: Vec<[Forward; 3]>,
    router: Option<Router>,
    radio: Option<Arc<Channel>>,
    /// In the order of the plan; a node that is off has none.
    machines: Vec<Option<Machine>>,
}

impl Cluster {
    /// Starts every node of `plan`.
    pub fn start(plan: Plan) -> Result<Self> {
        let mut cluster = Self::off(plan)?;
        for node in 0..cluster.plan.nodes.len() {
            cluster.power_on(node)?;
        }
        Ok(cluster)
    }

    /// Prepares every node of `plan`, and starts none.
    pub fn off(plan: Plan) -> Result<Self> {
        if plan.disks != Disks::Built {
            for node in &plan.nodes {
                disk::overlay(&node.disk, &plan.overlay(node))?;
            }
        }
        let forwards = plan.nodes.iter().zip(0..).map(|(node, i)| plan.ports.forwards(node.address, i));
        let forwards = forwards.collect::<Result<Vec<_>>>()?;
        let radio = plan.radio.as_ref().map(|link| Arc::new(Channel::new(link)));
        let router = match plan.nodes.len() {
            0 => bail!("a mission has at least one node"),
            1 if radio.is_none() => None,
            ports => Some(Router::start(ports, forwards.as_flattened(), radio.clone())?),
        };
        let machines = plan.nodes.iter().map(|_| None).collect();
        Ok(Self { plan, forwards, router, radio, machines })
    }

    /// Starts a node that is off, on its disk as it is.
    pub fn power_on(&mut self, node: usize) -> Result<()> {
        let config = self.config(node)?;
        if let Disk::Recorded { log, .. } = &config.disk {
            File::create(log).with_context(|| format!("create {}", log.display()))?;
        }
        self.machines[node] = Some(Machine::start(&config)?);
        Ok(())
    }

    /// Pulls a node's plug.
    pub fn power_cut(&mut self, node: usize) {
        self.machines[node] = None;
    }

    /// Gives a node that is off another amount of memory, and its disk as it was built.
    pub fn renew(&mut self, node: usize, memory_mib: u32) -> Result<()> {
        self.power_cut(node);
        self.plan.nodes[node].memory_mib = memory_mib;
        let node = &self.plan.nodes[node];
        disk::overlay(&node.disk, &self.plan.overlay(node))
    }

    /// Copies the disk of a node that is off, as it is now, to the raw image `raw`.
    pub fn save_disk(&mut self, node: usize, raw: &Path) -> Result<()> {
        self.power_cut(node);
        disk::flatten(&self.plan.overlay(&self.plan.nodes[node]), raw)
    }

    /// Pulls a node's plug; gives what it wrote since it was powered on, if that is recorded.
    pub fn power_cut_recorded(&mut self, node: usize) -> Result<Recording> {
        self.power_cut(node);
        self.recorded(node)
    }

    /// What a node wrote since it was powered on, if that is recorded.
    pub fn recorded(&self, node: usize) -> Result<Recording> {
        Recording::open(&self.plan.log(&self.plan.nodes[node]))
    }

    /// A node's machine.
    pub fn machine(&mut self, node: usize) -> Result<&mut Machine> {
        let name = &self.plan.nodes[node].name;
        self.machines[node].as_mut().ok_or_else(|| anyhow!("{name} is off"))
    }

    /// The nodes, in the mission's order.
    pub fn nodes(&self) -> &[Node] {
        &self.plan.nodes
    }

    /// Asks a node's own API server.
    pub fn kubectl(&self, node: usize) -> Kubectl {
        let Plan { kubectl, kubeconfig, .. } = &self.plan;
        Kubectl { program: kubectl.clone(), kubeconfig: kubeconfig.clone(), port: self.forwards[node][0].host }
    }

    /// Port on 127.0.0.1 that leads to a node's agent: its connections by TCP, datagrams for it by UDP.
    pub fn agent_port(&self, node: usize) -> u16 {
        self.forwards[node][1].host
    }

    /// The radio link, if there is one: to watch it, and to switch it.
    pub fn radio(&self) -> Option<&Arc<Channel>> {
        self.radio.as_ref()
    }

    /// An error with the end of its console, if a machine has ended by itself.
    pub fn alive(&mut self) -> Result<()> {
        for machine in self.machines.iter_mut().flatten() {
            if let Some(status) = machine.ended()? {
                bail!("{} ended ({status}); its console's end:\n{}", machine.name(), machine.console().tail());
            }
        }
        Ok(())
    }

    /// The end of the console of the first node that is on, for an error.
    pub fn tail(&self) -> String {
        self.machines.iter().flatten().next().map_or_else(String::new, |machine| machine.console().tail())
    }

    fn config(&self, index: usize) -> Result<Config> {
        let Plan { board, firmware, storage, folder, link, .. } = &self.plan;
        let node = &self.plan.nodes[index];
        let network = match &self.router {
            Some(router) => Network::Shared(router.port(index).to_owned()),
            None => Network::Alone(self.forwards[index].to_vec()),
        };
        Ok(Config {
            name: node.name.clone(),
            board: *board,
            firmware: *firmware,
            kvm: kvm_usable(*board),
            memory_mib: node.memory_mib,
            cpus: CPUS,
            disk: match self.plan.disks {
                Disks::Built => Disk::Raw(node.disk.clone()),
                Disks::Fresh => Disk::Overlay(self.plan.overlay(node)),
                Disks::Recorded => Disk::Recorded { overlay: self.plan.overlay(node), log: self.plan.log(node) },
            },
            storage: storage.clone(),
            network,
            link: *link,
            mac: u8::try_from(index + 1).context("more nodes than a mission can have")?,
            console_log: folder.join(format!("{}.console.log", node.name)),
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.machines.clear();
        if self.plan.disks != Disks::Built {
            for node in &self.plan.nodes {
                // It may not have come to be; one that stays is made anew by the next cluster.
                let _ = std::fs::remove_file(self.plan.overlay(node));
                let _ = std::fs::remove_file(self.plan.log(node));
            }
        }
    }
}

impl Plan {
    fn overlay(&self, node: &Node) -> PathBuf {
        self.folder.join(format!("{}.qcow2", node.name))
    }

    fn log(&self, node: &Node) -> PathBuf {
        self.folder.join(format!("{}.writes", node.name))
    }
}

impl Ports {
    /// The API server's, the agent's, and the agent's for datagrams.
    fn forwards(self, address: Ipv4Addr, index: u16) -> Result<[Forward; 3]> {
        let host = |usual: u16| match self {
            Self::Expected => Ok(usual + index),
            Self::Free => free_port(),
        };
        let forward = |protocol, port, host| Forward { protocol, host, address, port };
        let (api, agent) = (host(API_PORT.1)?, host(AGENT_PORT.1)?);
        Ok([
            forward(Protocol::Tcp, API_PORT.0, api),
            forward(Protocol::Tcp, AGENT_PORT.0, agent),
            forward(Protocol::Udp, AGENT_PORT.0, agent),
        ])
    }
}

/// A port of the loopback that nobody has now, neither for TCP nor for UDP. Below those that outgoing connections take (32768 and above, Linux's
/// `ip_local_port_range`), and never the same one twice: it is free until QEMU has it.
pub(crate) fn free_port() -> Result<u16> {
    const FIRST: u16 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Programs that run beside this one begin elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let offset = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = FIRST + u16::try_from(offset)?;
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port from {FIRST} on for {COUNT} ports: something on this host has taken them all")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_find_the_first_node_at_the_contracts_ports_and_the_second_after_it() {
        let address = Ipv4Addr::new(10, 0, 2, 16);
        let [api, agent, datagrams] = Ports::Expected.forwards(address, 1).unwrap();
        assert_eq!((api.host, api.port, agent.host, agent.port), (16444, 6443, 17444, 7443));
        assert_eq!(api.address, address);
        assert_eq!(datagrams, Forward { protocol: Protocol::Udp, ..agent });
    }

    #[test]
    fn tests_get_ports_of_their_own() {
        let [api, agent, _] = Ports::Free.forwards(Ipv4Addr::new(10, 0, 2, 15), 0).unwrap();
        assert!(api.host != agent.host && api.host >= 1024);
    }
}
