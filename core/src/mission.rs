//! `mission.toml`: the one file a user writes.
//!
//! ```toml
//! name = "first-light"
//!
//! [kubernetes]                        # all of it optional
//! pod_range = "10.42.0.0/16"          # each node takes a /24 by its place in this file
//! service_range = "10.43.0.0/16"
//! cluster_domain = "cluster.local"
//!
//! [[node]]
//! name = "node-1"
//! roles = ["control-plane", "worker"]
//! address = "10.0.2.15/24"
//! gateway = "10.0.2.2"                # optional
//! interfaces = ["eth0"]               # optional; two make an active-backup bond
//! ```

mod expand;
mod parse;
mod range;

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;

pub(crate) use self::expand::check;
pub use self::expand::{UnknownVariable, expand};
pub use self::parse::parse;
pub use self::range::Range;
pub use crate::document::Error;

/// Runs etcd, the API server, the controller manager and the scheduler.
pub const CONTROL_PLANE: &str = "control-plane";
/// Runs applications' pods.
pub const WORKER: &str = "worker";
/// All roles that a node can have and a service can ask for.
pub const ROLES: &[&str] = &[CONTROL_PLANE, WORKER];

/// Port of the API server.
const API_SERVER_PORT: u16 = 6443;
/// Port that etcd's members talk to each other on.
const ETCD_PEER_PORT: u16 = 2380;
/// The place of the API server's Service in the service range: Kubernetes takes the first address itself.
const API_SERVICE_PLACE: u32 = 1;
/// The place of DNS in the service range: the tenth by custom (kubeadm, k3s), low so that it is never handed out.
const DNS_SERVICE_PLACE: u32 = 10;

/// A checked mission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mission {
    /// The cluster's name.
    pub name: String,
    /// Pods' addresses; each node takes the /24 of it that its place in the file gives.
    pub pod_range: Range,
    /// Services' addresses.
    pub service_range: Range,
    /// DNS domain of Services, `cluster.local` unless said.
    pub cluster_domain: String,
    /// At least one, with at least one control-plane node (1, 3 or 5).
    pub nodes: Vec<Node>,
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name in the cluster: a DNS label.
    pub name: String,
    /// `control-plane`, `worker`: as written.
    pub roles: Vec<String>,
    /// Its address with the prefix of its network.
    pub address: Range,
    /// Where everything else is, if anywhere.
    pub gateway: Option<Ipv4Addr>,
    /// Its network interfaces; two make an active-backup bond. `["eth0"]` unless said.
    pub interfaces: Vec<String>,
    /// Its own pods' addresses.
    pub pod_range: Range,
}

impl Node {
    /// Whether it has the role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|own| own == role)
    }
}

/// Values of the variables on one node.
pub type Variables = BTreeMap<&'static str, String>;

/// Names of the variables that service files and configuration templates can use, in the order of the alphabet;
/// [`Mission::variables`] says what each is.
pub const VARIABLES: &[&str] = &[
    "API_SERVER",
    "CLUSTER_DOMAIN",
    "CLUSTER_NAME",
    "ETCD_INITIAL_CLUSTER",
    "KUBELET_WAIT_FOR",
    "LEADER_ELECT",
    "NODE_ADDRESS",
    "NODE_LABELS",
    "NODE_NAME",
    "NODE_POD_RANGE",
    "POD_RANGE",
    "REGISTER_TAINTS",
    "SERVICE_API_ADDRESS",
    "SERVICE_DNS_ADDRESS",
    "SERVICE_RANGE",
];

impl Mission {
    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Nodes with the role `control-plane`, in the file's order.
    pub fn control_plane(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.has_role(CONTROL_PLANE))
    }

    /// The value of every one of [`VARIABLES`] on `node`.
    pub fn variables(&self, node: &Node) -> Variables {
        let own_api_server = node.has_role(CONTROL_PLANE);
        let api_server = match self.control_plane().next() {
            Some(first) if !own_api_server => first.address.address,
            _ => Ipv4Addr::LOCALHOST,
        };
        let member = |node: &Node| format!("{}=https://{}:{ETCD_PEER_PORT}", node.name, node.address.address);
        Variables::from([
            // Where this node's clients of the API server go: its own one where it has one.
            ("API_SERVER", format!("https://{api_server}:{API_SERVER_PORT}")),
            ("CLUSTER_DOMAIN", self.cluster_domain.clone()),
            ("CLUSTER_NAME", self.name.clone()),
            // `name=peer URL` of each of etcd's members.
            ("ETCD_INITIAL_CLUSTER", self.control_plane().map(member).collect::<Vec<_>>().join(",")),
            // What the kubelet leaves the processor to for a bounded time at boot: this node's API server, if any.
            (
                "KUBELET_WAIT_FOR",
                if own_api_server { format!("https:{api_server}:{API_SERVER_PORT}/readyz") } else { String::new() },
            ),
            // With one control-plane node there is nobody to elect a leader from.
            ("LEADER_ELECT", (self.control_plane().count() > 1).to_string()),
            ("NODE_ADDRESS", node.address.address.to_string()),
            // Not node-role.kubernetes.io/*: the NodeRestriction admission plugin forbids a kubelet to give itself those.
            (
                "NODE_LABELS",
                node.roles.iter().map(|role| format!("perigee.space/role-{role}=true")).collect::<Vec<_>>().join(","),
            ),
            ("NODE_NAME", node.name.clone()),
            ("NODE_POD_RANGE", node.pod_range.to_string()),
            ("POD_RANGE", self.pod_range.to_string()),
            // A node that is no worker keeps applications' pods away.
            (
                "REGISTER_TAINTS",
                if node.has_role(WORKER) { "" } else { "node-role.kubernetes.io/control-plane=:NoSchedule" }.to_owned(),
            ),
            ("SERVICE_API_ADDRESS", self.service_range.nth(API_SERVICE_PLACE).to_string()),
            ("SERVICE_DNS_ADDRESS", self.service_range.nth(DNS_SERVICE_PLACE).to_string()),
            ("SERVICE_RANGE", self.service_range.to_string()),
        ])
    }
}
