//! One network for several machines: a switch with a port for each, and one that leads to the host.
//!
//! The host's is a QEMU without a machine, so that every node can be killed, paused or unplugged and the others still
//! see each other.

use std::path::Path;

use anyhow::{Context, Result};

use crate::config::{Forward, user_options, value};
use crate::machine::{Files, Process};
use crate::qmp::Qmp;
use crate::switch::Switch;

/// A running network; ends when dropped.
#[derive(Debug)]
pub struct Router {
    _process: Process,
    _qmp: Qmp,
    switch: Switch,
    _files: Files,
}

impl Router {
    /// Starts a network 10.0.2.0/24 with `ports` ports for machines, the host at 10.0.2.2, and `forwards` into it.
    pub fn start(ports: usize, forwards: &[Forward]) -> Result<Self> {
        let files = Files::new()?;
        let switch = Switch::start((0..=ports).map(|port| files.path(format!("port-{port}"))).collect())?;
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
    use super::*;
    use crate::config::Protocol;

    #[test]
    fn the_host_is_at_one_end_of_a_wire_and_a_port_at_the_other() {
        let forward = Forward { protocol: Protocol::Tcp, host: 1, address: [10, 0, 2, 15].into(), port: 2 };
        let line = arguments("/run/qmp".as_ref(), "/run/port-3".as_ref(), &[forward]).join(" ");
        assert_eq!(line.matches("hubid=0").count(), 2);
        assert!(line.contains("hostfwd=tcp:127.0.0.1:1-10.0.2.15:2"), "{line}");
        assert!(line.contains("stream,id=port,server=off,addr.type=unix,addr.path=/run/port-3"), "{line}");
    }
}
