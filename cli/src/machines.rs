//! A mission's nodes as machines on this host: what was built, on the board of its architecture.

use std::path::PathBuf;

use anyhow::Result;
use perigee_core::mission::CONTROL_PLANE;
use perigee_image::build::Arch;
use perigee_image::node::Built;
use perigee_qemu::cluster::Node;
use perigee_qemu::{Board, Disks, Firmware, Plan, Ports, Storage};

/// Memory of a machine with the control plane, and of one without, where the user says nothing, MiB. Four times what
/// each needs at least, so that a first look is not slowed by reclaim.
const CONTROL_PLANE_MIB: u32 = 2048;
const WORKER_MIB: u32 = 768;

/// The machines for `built`: on the disks that were built, at the ports that people expect.
pub fn plan(built: &Built, arch: Arch, memory_mib: Option<u32>) -> Plan {
    let nodes = built.mission.nodes.iter().zip(&built.nodes).map(|(node, disk)| {
        let usual = if node.has_role(CONTROL_PLANE) { CONTROL_PLANE_MIB } else { WORKER_MIB };
        Node {
            name: node.name.clone(),
            disk: disk.disk.clone(),
            address: node.address.address,
            memory_mib: memory_mib.unwrap_or(usual),
        }
    });
    Plan {
        board: board(arch),
        firmware: Firmware::Edk2,
        storage: Storage::Virtio,
        nodes: nodes.collect(),
        kubectl: built.kubectl.clone(),
        kubeconfig: built.kubeconfig.clone(),
        folder: built.folder.clone(),
        disks: Disks::Built,
        ports: Ports::Expected,
        link: true,
        radio: None,
    }
}

/// The same machines, leaving no trace: on copies of the disks that begin as they were built, with consoles and
/// copies in `folder`, at ports that nobody has.
pub fn fresh(plan: Plan, folder: PathBuf) -> Result<Plan> {
    std::fs::create_dir_all(&folder)?;
    Ok(Plan { disks: Disks::Fresh, ports: Ports::Free, folder, ..plan })
}

const fn board(arch: Arch) -> Board {
    match arch {
        Arch::X86_64 => Board::Q35,
        Arch::Aarch64 => Board::Virt,
    }
}
