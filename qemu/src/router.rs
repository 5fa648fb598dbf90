//! One network for several machines: a hub that also leads to the host.
//!
//! It is a QEMU without a machine, so that every node can be killed, paused or unplugged and the others still see
//! each other.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::config::{Forward, user_options, value};
use crate::machine::{Files, Process};
use crate::qmp::Qmp;

/// A running network; ends when dropped.
#[derive(Debug)]
pub struct Router {
    _process: Process,
    _qmp: Qmp,
    files: Files,
}

impl Router {
    /// Starts a network 10.0.2.0/24 with `ports` ports for machines, the host at 10.0.2.2, and `forwards` into it.
    pub fn start(ports: usize, forwards: &[Forward]) -> Result<Self> {
        let files = Files::new()?;
        let socket = files.path("qmp");
        let mut process = Process::start("qemu-system-x86_64", &arguments(ports, forwards, &files))?;
        // Once it answers, its sockets and forwarded ports are there.
        let qmp = process.connect(&socket).context("start the machines' network")?;
        Ok(Self { _process: process, _qmp: qmp, files })
    }

    /// The socket of one port, for [`crate::Network::Shared`].
    pub fn port(&self, port: usize) -> PathBuf {
        port_socket(&self.files, port)
    }
}

fn port_socket(files: &Files, port: usize) -> PathBuf {
    files.path(format!("port-{port}"))
}

fn arguments(ports: usize, forwards: &[Forward], files: &Files) -> Vec<String> {
    let mut args: Vec<String> =
        ["-machine", "none", "-nodefaults", "-no-user-config", "-display", "none"].map(String::from).into();
    let mut add = |option: &str, value: String| args.extend([format!("-{option}"), value]);
    add("qmp", format!("unix:{},server=on,wait=off", value(&files.path("qmp"))));
    add("netdev", format!("user,id=host,{}", user_options(forwards)));
    add("netdev", "hubport,id=hub-host,hubid=0,netdev=host".into());
    for port in 0..ports {
        let socket = value(&port_socket(files, port));
        add("netdev", format!("stream,id=node{port},server=on,addr.type=unix,addr.path={socket}"));
        add("netdev", format!("hubport,id=hub-node{port},hubid=0,netdev=node{port}"));
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_and_the_host_are_on_one_hub() {
        let files = Files::new().unwrap();
        let line = arguments(3, &[Forward { host: 1, address: [10, 0, 2, 15].into(), port: 2 }], &files).join(" ");
        assert_eq!(line.matches("hubid=0").count(), 4);
        assert!(line.contains("hostfwd=tcp:127.0.0.1:1-10.0.2.15:2"), "{line}");
        assert!(line.contains("stream,id=node2,server=on"), "{line}");
    }
}
