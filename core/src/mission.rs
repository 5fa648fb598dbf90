//! `mission.toml`: the one file a user writes.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

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

/// An IPv4 address with a prefix length: `10.42.0.0/16` as a range, `10.0.2.15/24` as an address in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The address as written.
    pub address: Ipv4Addr,
    /// 0 to 32.
    pub prefix: u8,
}

/// Values of the variables on one node.
pub type Variables = BTreeMap<&'static str, String>;
