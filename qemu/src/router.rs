//! One network for several machines: a switch with a port for each, and one that leads to the host.
//!
//! The host's is a QEMU without a machine, so that every node can be killed, paused or unplugged and the others still
//! see each other. What goes to the host and comes from it may have to pass a radio link; what machines say to each other
//! never has to.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::config::{Forward, user_options, value};
use crate::machine::{Files, Process};
use crate::qmp::Qmp;
use crate::radio::Channel;
use crate::switch::{Port, Switch};

/// A running network; ends when dropped.
#[derive(Debug)]
pub struct Router {
    _process: Process,
    _qmp: Qmp,
    switch: Switch,
    _files: Files,
}

impl Router {
    /// Starts a network 10.0.2.0/24 with `ports` ports for machines, the host at 10.0.2.2, and `forwards` into it,
    /// from behind `radio` if there is one.
    pub fn start(ports: usize, forwards: &[Forward], radio: Option<Arc<Channel>>) -> Result<Self> {
        let files = Files::new()?;
        let port = |port, radio| Port { socket: files.path(format!("port-{port}")), radio };
        let machines = (0..ports).map(|number| port(number, None));
        let switch = Switch::start(machines.chain([port(ports, radio)]).collect())?;
        let socket = files.path("qmp");
        let arguments = arguments(&socket, switch.port(ports), forwards);
        let mut process = Process::start("qemu-system-x86_64", &arguments)?;
        // Once it answers, the forwarded ports are there.
        let qmp = process.connect(&socket).context("start the machines' network")?;
        Ok(Self { _process: process, _qmp: qmp, switch, _files: files })
    }

    /// The socket of one port, for [`crate::Network::Shared`].
    pub fn port(&self, port: usize) -> &Path {
        self.switch.port(port)
    }
}

fn arguments(qmp: &Path, port: &Path, forwards: &[Forward]) -> Vec<String> {
    let mut args: Vec<String> =
        ["-machine", "none", "-nodefaults", "-no-user-config", "-display", "none"].map(String::from).into();
    let mut add = |option: &str, value: String| args.extend([format!("-{option}"), value]);
    add("qmp", format!("unix:{},server=on,wait=off", value(qmp)));
    add("netdev", format!("user,id=host,{}", user_options(forwards)));
    add("netdev", format!("stream,id=port,server=off,addr.type=unix,addr.path={}", value(port)));
    // A hub with two ports is a wire.
    add("netdev", "hubport,id=wire-host,hubid=0,netdev=host".into());
    add("netdev", "hubport,id=wire-port,hubid=0,netdev=port".into());
    args
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cluster::free_port;
    use crate::config::Protocol;
    use crate::switch::{read_frame, write_frame};

    const PATIENCE: Duration = Duration::from_secs(20);
    const NODE: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const ADDRESS: [u8; 4] = [10, 0, 2, 15];
    const HOST: [u8; 4] = [10, 0, 2, 2];
    /// Kinds of frames (EtherType).
    const ARP: [u8; 2] = [8, 6];
    const IPV4: [u8; 2] = [8, 0];

    #[test]
    fn the_host_is_at_one_end_of_a_wire_and_a_port_at_the_other() {
        let forward = Forward { protocol: Protocol::Tcp, host: 1, address: [10, 0, 2, 15].into(), port: 2 };
        let line = arguments("/run/qmp".as_ref(), "/run/port-3".as_ref(), &[forward]).join(" ");
        assert_eq!(line.matches("hubid=0").count(), 2);
        assert!(line.contains("hostfwd=tcp:127.0.0.1:1-10.0.2.15:2"), "{line}");
        assert!(line.contains("stream,id=port,server=off,addr.type=unix,addr.path=/run/port-3"), "{line}");
    }

    /// Asks for the host's address as a node does (RFC 826).
    fn who_is_host(mut node: &UnixStream) {
        let kind = [&[0xff; 6][..], &NODE, &ARP, &[0, 1, 8, 0, 6, 4, 0, 1]].concat();
        let addresses = [&NODE[..], &ADDRESS, &[0; 6], &HOST].concat();
        write_frame(&mut node, &[kind, addresses].concat()).unwrap();
    }

    /// The next frame of a kind; the host may ask for our address at any time.
    fn next(mut node: &UnixStream, kind: [u8; 2]) -> Option<Arc<[u8]>> {
        std::iter::from_fn(|| read_frame(&mut node).ok()).find(|frame| frame[12..14] == kind)
    }

    #[test]
    fn the_host_is_reached_through_the_radio_both_ways_and_not_while_it_is_cut() {
        let radio = Arc::new(Channel::new(&"rate=64k,delay=50ms".parse().unwrap()));
        let forward =
            Forward { protocol: Protocol::Udp, host: free_port().unwrap(), address: ADDRESS.into(), port: 7443 };
        let router = Router::start(1, &[forward], Some(radio.clone())).unwrap();
        let node = UnixStream::connect(router.port(0)).unwrap();
        node.set_read_timeout(Some(PATIENCE)).unwrap();

        let asked = Instant::now();
        who_is_host(&node);
        let answer = next(&node, ARP).unwrap();
        assert_eq!((&answer[..6], &answer[28..32]), (&NODE[..], &HOST[..]));
        assert!(asked.elapsed() >= Duration::from_millis(100), "{:?}", asked.elapsed());

        let ground = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        ground.send_to(b"a datagram", (Ipv4Addr::LOCALHOST, forward.host)).unwrap();
        let datagram = next(&node, IPV4).unwrap();
        // After Ethernet's 14 bytes and IPv4's 20 come UDP's 8, and then the data.
        assert_eq!((datagram[23], &datagram[36..38]), (17, &7443_u16.to_be_bytes()[..]));
        assert_eq!(datagram[42..52], *b"a datagram");

        radio.cut();
        who_is_host(&node);
        let deadline = Instant::now() + PATIENCE;
        while radio.counters().downlink.down.frames == 0 {
            assert!(Instant::now() < deadline, "{:?}", radio.counters());
            std::thread::yield_now();
        }
        radio.restore();
        who_is_host(&node);
        assert!(next(&node, ARP).is_some());
        let counters = radio.counters();
        assert_eq!((counters.downlink.sent.frames, counters.downlink.delivered.frames), (3, 2), "{counters:?}");
        assert_eq!(counters.uplink.delivered, counters.uplink.sent);
    }
}
