//! From the text of a mission to a checked [`Mission`].

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use super::{CONTROL_PLANE, Error, Mission, Node, ROLES, Range};
use crate::document::{Document, Key, Table, quoted};

const NAME: Key =
    Key::new("name", "the cluster's name: a DNS label (1 to 63 of a-z, 0-9 and, inside, -)", "name = \"first-light\"");
const KUBERNETES: Key = Key::new("kubernetes", "a table", "[kubernetes]");
const NODE: Key = Key::new("node", "at least one table `[[node]]`", "[[node]]");

const POD_RANGE: Key = Key::new("pod_range", "an IPv4 range of prefix 8 to 24", "pod_range = \"10.42.0.0/16\"");
const SERVICE_RANGE: Key =
    Key::new("service_range", "an IPv4 range of prefix 12 to 28", "service_range = \"10.43.0.0/16\"");
const CLUSTER_DOMAIN: Key = Key::new(
    "cluster_domain",
    "a DNS name: labels (1 to 63 of a-z, 0-9 and, inside, -) with dots between them",
    "cluster_domain = \"cluster.local\"",
);

const NODE_NAME: Key =
    Key::new("name", "the node's name: a DNS label (1 to 63 of a-z, 0-9 and, inside, -)", "name = \"node-1\"");
const NODE_ROLES: Key =
    Key::new("roles", "a list of control-plane, worker or both", "roles = [\"control-plane\", \"worker\"]");
const ADDRESS: Key =
    Key::new("address", "a machine's IPv4 address with its network's prefix, 8 to 31", "address = \"10.0.2.15/24\"");
const GATEWAY: Key = Key::new("gateway", "an IPv4 address", "gateway = \"10.0.2.2\"");
const INTERFACES: Key = Key::new(
    "interfaces",
    "one or two names of network interfaces, 1 to 15 of a-z, A-Z, 0-9, -, _ and .",
    "interfaces = [\"eth0\"]",
);

const DEFAULT_POD_RANGE: Range = Range { address: Ipv4Addr::new(10, 42, 0, 0), prefix: 16 };
const DEFAULT_SERVICE_RANGE: Range = Range { address: Ipv4Addr::new(10, 43, 0, 0), prefix: 16 };
const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";
const DEFAULT_INTERFACE: &str = "eth0";

/// Prefix of each node's part of the pod range: 256 addresses, over twice the 110 pods that a kubelet takes.
const NODE_POD_PREFIX: u8 = 24;
/// A pod range of one node up to one of 65,536.
const POD_PREFIXES: core::ops::RangeInclusive<u8> = 8..=NODE_POD_PREFIX;
/// At least 16 addresses, so that the tenth (DNS) is in it; at most 2^20, the API server's limit.
const SERVICE_PREFIXES: core::ops::RangeInclusive<u8> = 12..=28;
/// /31 is a link between two boards (RFC 3021); a /32 would have no neighbour.
const ADDRESS_PREFIXES: core::ops::RangeInclusive<u8> = 8..=31;
/// One, or the sizes at which an etcd quorum outlives the loss of one or two members.
const CONTROL_PLANE_COUNTS: [usize; 3] = [1, 3, 5];
/// A bond's two buses.
const MAX_INTERFACES: usize = 2;
/// IFNAMSIZ (linux/if.h) without its final NUL.
const MAX_INTERFACE_NAME_BYTES: usize = 15;
/// RFC 1035, section 2.3.4.
const MAX_LABEL_BYTES: usize = 63;
/// RFC 1035 allows 253; Services' names stand before it and must fit, too.
const MAX_DOMAIN_BYTES: usize = 127;

/// The mission in `text`; errors name it `file`.
///
/// # Errors
/// The first mistake, with its line, what was expected, and an example.
pub fn parse(file: &str, text: &str) -> Result<Mission, Error> {
    let document = Document::new(file, text);
    let root = document.root()?;
    let root = Table::root(&document, &root, &[&NAME, &KUBERNETES, &NODE])?;
    let name = root.required(&NAME, root.text(&NAME, dns_label)?)?;
    let kubernetes = root.table(&KUBERNETES, &[&POD_RANGE, &SERVICE_RANGE, &CLUSTER_DOMAIN])?;
    let tables = root.tables(&NODE, &[&NODE_NAME, &NODE_ROLES, &ADDRESS, &GATEWAY, &INTERFACES])?;

    let mut mission = Mission {
        name,
        pod_range: DEFAULT_POD_RANGE,
        service_range: DEFAULT_SERVICE_RANGE,
        cluster_domain: DEFAULT_CLUSTER_DOMAIN.to_owned(),
        nodes: Vec::with_capacity(tables.len()),
    };
    if let Some(table) = &kubernetes {
        kubernetes_part(table, &mut mission)?;
    }
    // Where a range that is written nowhere is to be corrected: in the table that could have it.
    let ranges = kubernetes.as_ref().unwrap_or(&root);
    if mission.pod_range.overlaps(mission.service_range) {
        return Err(apart(ranges, &SERVICE_RANGE, mission.service_range, "pod_range", mission.pod_range));
    }
    for table in &tables {
        let node = node(table, &mission)?;
        for (key, range) in [(&POD_RANGE, mission.pod_range), (&SERVICE_RANGE, mission.service_range)] {
            if node.address.overlaps(range) {
                return Err(apart(table, &ADDRESS, node.address, key.name, range));
            }
        }
        mission.nodes.push(node);
    }
    control_plane_count(&root, &tables, &mission)?;
    Ok(mission)
}

fn kubernetes_part(table: &Table<'_>, mission: &mut Mission) -> Result<(), Error> {
    for (key, prefixes, range) in [
        (&POD_RANGE, POD_PREFIXES, &mut mission.pod_range),
        (&SERVICE_RANGE, SERVICE_PREFIXES, &mut mission.service_range),
    ] {
        let Some(written) = table.text(key, |text| with_prefix(text, prefixes.clone()))? else { continue };
        if written != written.network() {
            let expected = format!("a range without host bits, {}", written.network());
            return Err(table.mistake(key, expected, written.to_string()));
        }
        *range = written;
    }
    if let Some(domain) = table.text(&CLUSTER_DOMAIN, dns_name)? {
        mission.cluster_domain = domain;
    }
    Ok(())
}

/// One `[[node]]`, checked against those before it.
fn node(table: &Table<'_>, mission: &Mission) -> Result<Node, Error> {
    let name = table.required(&NODE_NAME, table.text(&NODE_NAME, dns_label)?)?;
    if mission.node(&name).is_some() {
        return Err(table.mistake(&NODE_NAME, "a name that no other node has", format!("{} again", quoted(&name))));
    }
    let roles = table.required(&NODE_ROLES, table.texts(&NODE_ROLES, role)?)?;
    let distinct = ROLES.iter().filter(|role| roles.iter().any(|own| own == *role)).count();
    if distinct == 0 || distinct != roles.len() {
        let found = if distinct == 0 { "an empty list" } else { "a role twice" };
        return Err(table.mistake(&NODE_ROLES, "each role at most once, and at least one", found));
    }

    let address = table.required(&ADDRESS, table.text(&ADDRESS, |text| with_prefix(text, ADDRESS_PREFIXES))?)?;
    if !address.is_host() || !is_unicast(address.address) {
        let expected = "a machine's address: not its network's first or last, no loopback, no multicast";
        return Err(table.mistake(&ADDRESS, expected, address.to_string()));
    }
    if let Some(other) = mission.nodes.iter().find(|other| other.address.address == address.address) {
        let found = format!("{}, which is {}'s", address.address, other.name);
        return Err(table.mistake(&ADDRESS, "an address that no other node has", found));
    }
    let gateway = table.text(&GATEWAY, |text| text.parse::<Ipv4Addr>().ok())?;
    if let Some(gateway) = gateway.filter(|&gateway| {
        let as_host = Range { address: gateway, prefix: address.prefix };
        !address.contains(gateway) || gateway == address.address || !as_host.is_host()
    }) {
        let expected = format!("another machine's address in the node's network {}", address.network());
        return Err(table.mistake(&GATEWAY, expected, gateway.to_string()));
    }

    Ok(Node {
        name,
        roles,
        address,
        gateway,
        interfaces: interfaces(table)?,
        pod_range: node_pod_range(table, mission)?,
    })
}

fn interfaces(table: &Table<'_>) -> Result<Vec<String>, Error> {
    let Some(names) = table.texts(&INTERFACES, interface)? else {
        return Ok([DEFAULT_INTERFACE.to_owned()].into());
    };
    if names.is_empty() || names.len() > MAX_INTERFACES {
        return Err(table.mistake(&INTERFACES, "one interface, or two for a bond", format!("{} of them", names.len())));
    }
    if names.len() == MAX_INTERFACES && names.first() == names.last() {
        return Err(table.mistake(&INTERFACES, "two different interfaces", "the same one twice"));
    }
    Ok(names)
}

/// The /24 of the node that comes next.
fn node_pod_range(table: &Table<'_>, mission: &Mission) -> Result<Range, Error> {
    let place = mission.nodes.len();
    let fit = 1_usize << NODE_POD_PREFIX.saturating_sub(mission.pod_range.prefix);
    if place >= fit {
        let expected =
            format!("as many nodes as /{NODE_POD_PREFIX} fit into pod_range {}, {fit} at most", mission.pod_range);
        return Err(table.mistake(&NODE_NAME, expected, format!("node {}", place + 1)));
    }
    // Lossless: `fit` is at most 2^16.
    let offset = (place as u32) << (32 - NODE_POD_PREFIX);
    Ok(Range { address: mission.pod_range.nth(offset), prefix: NODE_POD_PREFIX })
}

fn control_plane_count(root: &Table<'_>, tables: &[Table<'_>], mission: &Mission) -> Result<(), Error> {
    let count = mission.control_plane().count();
    if tables.is_empty() {
        return root.required(&NODE, None);
    }
    if CONTROL_PLANE_COUNTS.contains(&count) {
        return Ok(());
    }
    // The last control-plane node is the one too many; where there is none, the first node is the one to become one.
    let place = mission.nodes.iter().rposition(|node| node.has_role(CONTROL_PLANE)).unwrap_or(0);
    let table = tables.get(place).unwrap_or(root);
    Err(table.mistake(&NODE_ROLES, "1, 3 or 5 nodes with the role control-plane (an etcd quorum)", format!("{count}")))
}

fn apart(table: &Table<'_>, key: &Key, range: Range, other: &str, other_range: Range) -> Error {
    table.mistake(key, format!("addresses apart from {other} {other_range}"), range.to_string())
}

fn with_prefix(text: &str, prefixes: core::ops::RangeInclusive<u8>) -> Option<Range> {
    text.parse::<Range>().ok().filter(|range| prefixes.contains(&range.prefix))
}

fn is_unicast(address: Ipv4Addr) -> bool {
    !(address.is_loopback() || address.is_multicast() || address.is_broadcast() || address.octets()[0] == 0)
}

fn role(text: &str) -> Option<String> {
    ROLES.contains(&text).then(|| text.to_owned())
}

fn dns_label(text: &str) -> Option<String> {
    is_dns_label(text).then(|| text.to_owned())
}

fn dns_name(text: &str) -> Option<String> {
    (text.len() <= MAX_DOMAIN_BYTES && text.split('.').all(is_dns_label)).then(|| text.to_owned())
}

/// RFC 1123, section 2.1, in lower case, as Kubernetes wants it.
fn is_dns_label(text: &str) -> bool {
    (1..=MAX_LABEL_BYTES).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn interface(text: &str) -> Option<String> {
    let good = (1..=MAX_INTERFACE_NAME_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && !matches!(text, "." | ".." | "lo");
    good.then(|| text.to_owned())
}
