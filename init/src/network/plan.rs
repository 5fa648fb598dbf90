//! What the mission asks of the network, as data: for each link, the steps that configure it.
//!
//! All of it is static: it works in the dark, and nothing waits for anything. A link that is not there yet gets its
//! steps when it appears.

use std::net::Ipv4Addr;

use perigee_core::mission::{Mission, Node, Range};

/// Two interfaces or more are one link under this name.
const BOND: &str = "bond0";

/// A link and how it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPlan {
    /// The kernel's name for it.
    pub name: String,
    /// Whether it is made by PID 1 (a bond) or by the kernel.
    pub made: bool,
    /// In this order.
    pub steps: Vec<Step>,
}

/// One request to the kernel about a link. Each can be repeated without harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Switch it on. Loopback gets its address by that.
    Up,
    /// Switch it off: a link joins a bond only so.
    Down,
    /// Make it part of the link of this name.
    Join(String),
    /// Give it an address in its network.
    Address(Range),
    /// Send what is for `to` out here, through `via`.
    Route {
        /// The destination.
        to: Range,
        /// The next hop, in the network of the link's address.
        via: Ipv4Addr,
    },
}

/// Loopback alone: what a node without a mission has.
pub fn loopback() -> Vec<LinkPlan> {
    vec![LinkPlan { name: "lo".to_owned(), made: false, steps: vec![Step::Up] }]
}

/// All links of `node`, each after the one that it joins.
pub fn plan(mission: &Mission, node: &Node) -> Vec<LinkPlan> {
    let mut links = loopback();
    let kernels = |name: &String, steps| LinkPlan { name: name.clone(), made: false, steps };
    match node.interfaces.as_slice() {
        [] => {}
        [only] => links.push(kernels(only, uplink(mission, node))),
        several => {
            links.push(LinkPlan { name: BOND.to_owned(), made: true, steps: uplink(mission, node) });
            let join = || vec![Step::Down, Step::Join(BOND.to_owned()), Step::Up];
            links.extend(several.iter().map(|name| kernels(name, join())));
        }
    }
    links
}

/// The link to the other nodes: address, their pods' ranges, everything else.
fn uplink(mission: &Mission, node: &Node) -> Vec<Step> {
    let near =
        |address: Ipv4Addr| mask(address, node.address.prefix) == mask(node.address.address, node.address.prefix);
    let mut steps = vec![Step::Up, Step::Address(node.address)];
    // A node in another network is reached like everything else: through the gateway.
    steps.extend(
        mission
            .nodes
            .iter()
            .filter(|other| other.name != node.name && near(other.address.address))
            .map(|other| Step::Route { to: other.pod_range, via: other.address.address }),
    );
    if let Some(gateway) = node.gateway {
        steps.push(Step::Route { to: Range { address: Ipv4Addr::UNSPECIFIED, prefix: 0 }, via: gateway });
    }
    steps
}

/// The network part of an address.
fn mask(address: Ipv4Addr, prefix: u8) -> u32 {
    let host_bits = 32_u32.saturating_sub(prefix.into());
    u32::MAX.checked_shl(host_bits).unwrap_or(0) & address.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(address: [u8; 4], prefix: u8) -> Range {
        Range { address: address.into(), prefix }
    }

    fn node(place: u8, interfaces: &[&str]) -> Node {
        Node {
            name: format!("node-{place}"),
            roles: vec!["worker".into()],
            address: range([10, 0, 2, place], 24),
            gateway: Some([10, 0, 2, 2].into()),
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
            pod_range: range([10, 42, place, 0], 24),
        }
    }

    fn mission(nodes: Vec<Node>) -> Mission {
        Mission {
            name: "test".into(),
            pod_range: range([10, 42, 0, 0], 16),
            service_range: range([10, 43, 0, 0], 16),
            cluster_domain: "cluster.local".into(),
            nodes,
        }
    }

    #[test]
    fn one_interface_has_the_address_and_all_routes() {
        let mission = mission(vec![node(15, &["eth0"]), node(16, &["eth0"])]);
        let links = plan(&mission, &mission.nodes[0]);
        assert_eq!(links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo", "eth0"]);
        assert_eq!(
            links[1].steps,
            [
                Step::Up,
                Step::Address(range([10, 0, 2, 15], 24)),
                Step::Route { to: range([10, 42, 16, 0], 24), via: [10, 0, 2, 16].into() },
                Step::Route { to: range([0, 0, 0, 0], 0), via: [10, 0, 2, 2].into() },
            ]
        );
    }

    #[test]
    fn two_interfaces_join_a_bond_that_is_planned_before_them() {
        let mission = mission(vec![node(15, &["eth0", "eth1"])]);
        let links = plan(&mission, &mission.nodes[0]);
        assert_eq!(links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo", "bond0", "eth0", "eth1"]);
        assert!(links[1].made && !links[2].made);
        assert_eq!(links[2].steps, [Step::Down, Step::Join("bond0".into()), Step::Up]);
    }

    #[test]
    fn a_node_in_another_network_has_no_route_that_the_kernel_would_refuse() {
        let mut far = node(16, &["eth0"]);
        far.address = range([192, 168, 7, 1], 24);
        let mission = mission(vec![node(15, &["eth0"]), far]);
        let links = plan(&mission, &mission.nodes[0]);
        assert_eq!(links[1].steps.len(), 3);
    }

    #[test]
    fn every_prefix_has_a_mask() {
        let address = Ipv4Addr::new(10, 1, 2, 3);
        assert_eq!(mask(address, 0), 0);
        assert_eq!(mask(address, 8), 0x0A00_0000);
        assert_eq!(mask(address, 32), address.to_bits());
        assert_eq!(mask(address, 200), address.to_bits());
    }
}
