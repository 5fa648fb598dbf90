//! Machines with nothing on their disks: as far as the firmware's complaint.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use perigee_qemu::cluster::Node;
use perigee_qemu::{Board, Cluster, Disks, Firmware, Plan, Ports, Storage};

/// The firmware under TCG takes 5 s; a busy host makes it slower.
const TIMEOUT: Duration = Duration::from_secs(120);
/// What OVMF and AAVMF say when they have tried all there is.
const NOTHING_TO_BOOT: &str = "EFI Internal Shell";

fn plan(name: &str, board: Board, nodes: u8) -> Plan {
    let folder = std::env::temp_dir().join(format!("perigee-qemu-test-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let disk = folder.join("empty.img");
    File::create(&disk).unwrap().set_len(48 << 20).unwrap();
    let node = |i: u8| Node {
        name: format!("node-{}", i + 1),
        disk: disk.clone(),
        address: [10, 0, 2, 15 + i].into(),
        memory_mib: 256,
    };
    Plan {
        board,
        firmware: Firmware::Edk2,
        storage: Storage::Virtio,
        nodes: (0..nodes).map(node).collect(),
        kubectl: PathBuf::from("kubectl"),
        kubeconfig: PathBuf::from("kubeconfig"),
        folder,
        disks: Disks::Fresh,
        ports: Ports::Free,
        link: false,
        radio: None,
    }
}

#[test]
fn two_machines_share_a_network_and_end_when_dropped() {
    let plan = plan("two", Board::Q35, 2);
    let folder = plan.folder.clone();
    let mut cluster = Cluster::start(plan).unwrap();
    for node in 0..2 {
        let machine = cluster.machine(node).unwrap();
        machine.console().wait_for(0, NOTHING_TO_BOOT, TIMEOUT).unwrap();
        machine.set_link(true).unwrap();
        assert_eq!(machine.status().unwrap(), "running");
    }
    cluster.power_cut(1);
    assert!(cluster.machine(1).is_err());

    let machine = cluster.machine(0).unwrap();
    let mark = machine.console().mark();
    machine.reset().unwrap();
    machine.console().wait_for(mark, NOTHING_TO_BOOT, TIMEOUT).unwrap();
    let error = machine.wait_end(Duration::ZERO).unwrap_err().to_string();
    assert!(error.contains("not powered off") && error.contains("BdsDxe"), "{error}");

    let log = std::fs::read_to_string(folder.join("node-1.console.log")).unwrap();
    assert!(log.contains("BdsDxe"));
    drop(cluster);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_arm_board_comes_up_with_its_firmware() {
    let plan = plan("arm", Board::Virt, 1);
    let folder = plan.folder.clone();
    let mut cluster = Cluster::start(plan).unwrap();
    cluster.machine(0).unwrap().console().wait_for(0, NOTHING_TO_BOOT, TIMEOUT).unwrap();
    drop(cluster);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_machine_that_qemu_refuses_says_why() {
    let mut plan = plan("refused", Board::Q35, 1);
    let folder = plan.folder.clone();
    plan.storage = Storage::Sd { kernel: "/no/such/kernel".into() };
    let error = format!("{:#}", Cluster::start(plan).unwrap_err());
    assert!(error.contains("node-1") && error.contains("/no/such/kernel"), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}
