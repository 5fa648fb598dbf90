//! The mission on this node: `/config`, from the partition `config-a` or its twin.

use std::fs;

use perigee_core::mission::{self, Mission, Node};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::block::Partitions;
use crate::logs::Logs;

const CONFIG: &str = "/config";
/// Tried in this order.
const PARTITIONS: [&str; 2] = ["config-a", "config-b"];

/// What the mission says, and which of its nodes this is.
pub struct Config {
    /// All of it.
    pub mission: Mission,
    /// This machine.
    pub node: Node,
}

/// Why a copy of the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("there is no such partition")]
    Absent,
    #[error("cannot mount: {0}")]
    Mount(rustix::io::Errno),
    #[error("cannot read {CONFIG}/{0}: {1}")]
    Read(&'static str, std::io::Error),
    #[error("{0}")]
    Mission(mission::Error),
    #[error("{CONFIG}/node says `{0}`, which is no node of {CONFIG}/mission.toml")]
    Node(String),
}

/// Mounts the first copy that can be read to the end. Without any, the node goes on without a mission.
pub fn load(partitions: &mut Partitions, logs: &mut Logs) -> Option<Config> {
    for partition in PARTITIONS {
        match mount_copy(partition, partitions).and_then(|()| read().inspect_err(|_| leave())) {
            Ok(config) => {
                logs.event(format_args!("config={partition} node={}", config.node.name));
                return Some(config);
            }
            Err(error) => logs.event(format_args!("config={partition} error=\"{error}\"")),
        }
    }
    None
}

fn mount_copy(partition: &str, partitions: &mut Partitions) -> Result<(), Error> {
    let device = partitions.find(partition).ok_or(Error::Absent)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount(&device, CONFIG, "erofs", flags, None).map_err(Error::Mount)
}

fn read() -> Result<Config, Error> {
    let file = |name| fs::read_to_string(format!("{CONFIG}/{name}")).map_err(|error| Error::Read(name, error));
    let mission = mission::parse("/config/mission.toml", &file("mission.toml")?).map_err(Error::Mission)?;
    let name = file("node")?.trim().to_owned();
    let node = mission.node(&name).cloned().ok_or(Error::Node(name))?;
    Ok(Config { mission, node })
}

/// Makes room for the twin. Nothing has a file open in it yet, so this cannot fail; if it did, the twin would be
/// mounted over it, which does as well.
fn leave() {
    let _ = unmount(CONFIG, UnmountFlags::empty());
}
