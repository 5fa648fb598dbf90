//! What a machine is made of, and QEMU's command line for it. Pure: nothing is opened or started here.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::json;

/// A board that QEMU emulates, with its firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Board {
    /// x86_64: a PC with PCI Express, OVMF.
    Q35,
    /// aarch64: QEMU's own Arm board with GICv3, AAVMF, described by a device tree as flight boards are.
    Virt,
}

impl Board {
    /// QEMU's program for it.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Q35 => "qemu-system-x86_64",
            Self::Virt => "qemu-system-aarch64",
        }
    }

    /// The board without what a satellite has not: no VMware port, no AHCI, no keyboard controller; and no SMM, unless
    /// firmware guards its variables with it.
    const fn machine(self, firmware: Firmware) -> &'static str {
        match (self, firmware) {
            (Self::Q35, Firmware::SecureBoot) => "q35,smm=on,vmport=off,sata=off,i8042=off",
            (Self::Q35, _) => "q35,smm=off,vmport=off,sata=off,i8042=off",
            (Self::Virt, _) => "virt,gic-version=3,acpi=off",
        }
    }

    /// Everything that QEMU can emulate; pointer authentication with QEMU's own cheap algorithm instead of QARMA,
    /// which halves TCG's speed.
    const fn cpu(self) -> &'static str {
        match self {
            Self::Q35 => "max",
            Self::Virt => "max,pauth-impdef=on",
        }
    }
}

/// What starts the loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// OVMF, AAVMF: EDK II's UEFI (Debian's `ovmf` and `qemu-efi-aarch64`).
    Edk2,
    /// OVMF with Secure Boot, which believes the key of [`SECURE_BOOT_KEY`] and no other's.
    SecureBoot,
    /// U-Boot's UEFI on aarch64 (Debian's `u-boot-qemu`); it has no variables that stay.
    UBoot,
}

/// The key that [`Firmware::SecureBoot`] believes, for tests (Debian's `ovmf`), and its certificate; encrypted with the
/// word `snakeoil`.
pub const SECURE_BOOT_KEY: [&str; 2] = ["/usr/share/ovmf/PkKek-1-snakeoil.key", "/usr/share/ovmf/PkKek-1-snakeoil.pem"];

/// A firmware's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flash {
    /// The code, and the variable store that a machine gets a copy of.
    CodeAndVariables(&'static str, &'static str),
    /// All of it.
    Rom(&'static str),
}

impl Firmware {
    pub(crate) const fn flash(self, board: Board) -> Flash {
        match (self, board) {
            (Self::SecureBoot, _) => Flash::CodeAndVariables(
                "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
                "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd",
            ),
            (Self::UBoot, _) => Flash::Rom("/usr/lib/u-boot/qemu_arm64/u-boot.bin"),
            (Self::Edk2, Board::Q35) => {
                Flash::CodeAndVariables("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")
            }
            (Self::Edk2, Board::Virt) => {
                Flash::CodeAndVariables("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd")
            }
        }
    }
}

/// What the disk is connected to.
///
/// eMMC is missing because QEMU 10 refuses `-device emmc` (it exists only where a board has one soldered on); to the
/// guest it is the same `sdhci` and `mmcblk` drivers as [`Storage::Sd`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// virtio-blk on PCI: `/dev/vda`.
    Virtio,
    /// An SD card behind an SDHCI controller on PCI: `/dev/mmcblk0`.
    Sd {
        /// The kernel. Debian's OVMF and AAVMF have no driver for SD cards, so this firmware is handed the kernel as
        /// a board's boot flash would hold it; everything else is read from the card.
        kernel: PathBuf,
    },
}

/// What is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams towards the node. Its answers do not come back: a network without a way out has none for them.
    Udp,
}

impl Protocol {
    /// QEMU's word for it.
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the host's loopback that leads to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// TCP or UDP, on both sides.
    pub protocol: Protocol,
    /// Port on 127.0.0.1.
    pub host: u16,
    /// The node's address.
    pub address: Ipv4Addr,
    /// The node's port.
    pub port: u16,
}

/// Where the network card leads. There is no way out to the world in any of them: what needs one to start is a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// A network of this node and the host alone, 10.0.2.0/24 with the host at 10.0.2.2.
    Alone(Vec<Forward>),
    /// A port of a [`crate::Router`], by its socket.
    Shared(PathBuf),
}

/// The file that is the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disk {
    /// What was built, itself: a node that is to remember.
    Raw(PathBuf),
    /// A qcow2 file over it (see [`crate::disk::overlay`]): tests.
    Overlay(PathBuf),
    /// The same, with a log of all that is written (see [`crate::recording`]).
    Recorded {
        /// The qcow2 file.
        overlay: PathBuf,
        /// The log, an existing file.
        log: PathBuf,
    },
}

impl Disk {
    /// Option and value. The host's own crash is not among the faults under test: what the guest flushes goes to the
    /// host's memory.
    fn option(&self) -> (&'static str, String) {
        let drive = |format: &str, path: &Path| {
            format!("if=none,id=disk,format={format},cache=unsafe,discard=unmap,file={}", value(path))
        };
        match self {
            Self::Raw(path) => ("drive", drive("raw", path)),
            Self::Overlay(path) => ("drive", drive("qcow2", path)),
            Self::Recorded { overlay, log } => ("blockdev", recorded(overlay, log)),
        }
    }

    /// What the disk's device has to know of it. `blklogwrites` adds two parts to a request, and QEMU merges requests until
    /// they have as many parts as one may have: the guest's largest writes would fail.
    const fn merging(&self) -> &'static str {
        match self {
            Self::Raw(_) | Self::Overlay(_) => "",
            Self::Recorded { .. } => ",request-merging=off",
        }
    }
}

/// Flushes are logged, and only then left out.
fn recorded(overlay: &Path, log: &Path) -> String {
    let file = |path: &Path| json!({"driver": "file", "filename": path, "cache": {"no-flush": true}});
    json!({
        "driver": "blklogwrites", "node-name": "disk", "discard": "unmap", "log-sector-size": 512,
        "file": {"driver": "qcow2", "discard": "unmap", "cache": {"no-flush": true}, "file": file(overlay)},
        "log": file(log),
    })
    .to_string()
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node's name, for errors.
    pub name: String,
    /// Its board.
    pub board: Board,
    /// What starts from its disk.
    pub firmware: Firmware,
    /// Whether the host can run the board's instructions by itself (see [`kvm_usable`]).
    pub kvm: bool,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// The disk, which the machine writes to.
    pub disk: Disk,
    /// What the disk is connected to.
    pub storage: Storage,
    /// Where the network card leads.
    pub network: Network,
    /// Whether the network card has a carrier when the machine starts.
    pub link: bool,
    /// The card's number: the last byte of its address, different on each node of a network.
    pub mac: u8,
    /// The file that the console goes to.
    pub console_log: PathBuf,
}

impl Config {
    /// QEMU's arguments: `vars` is the machine's own copy of the firmware's variables, `qmp` the socket to steer by.
    ///
    /// The machine starts paused; the console is on standard output.
    pub fn arguments(&self, vars: &Path, qmp: &Path) -> Vec<String> {
        let mut args = Vec::new();
        let mut add = |option: &str, value: String| args.extend([format!("-{option}"), value]);
        add("name", self.name.clone());
        add("machine", self.board.machine(self.firmware).into());
        if self.kvm {
            add("accel", "kvm".into());
            add("cpu", "host".into());
        } else {
            add("accel", "tcg,thread=multi".into());
            add("cpu", self.board.cpu().into());
        }
        add("smp", self.cpus.to_string());
        add("m", format!("{}M", self.memory_mib));
        match self.firmware.flash(self.board) {
            Flash::Rom(rom) => add("bios", rom.into()),
            Flash::CodeAndVariables(code, _) => {
                add("drive", format!("if=pflash,format=raw,readonly=on,file={code}"));
                add("drive", format!("if=pflash,format=raw,file={}", value(vars)));
            }
        }
        if self.firmware == Firmware::SecureBoot {
            // Only firmware itself, in SMM, writes its variables.
            add("global", "driver=cfi.pflash01,property=secure,value=on".into());
        }
        let (option, disk) = self.disk.option();
        add(option, disk);
        match &self.storage {
            Storage::Virtio => add("device", format!("virtio-blk-pci,drive=disk,bootindex=0{}", self.disk.merging())),
            Storage::Sd { kernel } => {
                add("device", "sdhci-pci".into());
                add("device", "sd-card,drive=disk".into());
                add("kernel", kernel.display().to_string());
            }
        }
        add("netdev", self.network.netdev());
        // Without its option ROM the firmware has no network to try to boot from.
        add("device", format!("virtio-net-pci,id=eth0,netdev=net0,mac=52:54:00:50:45:{:02x},romfile=", self.mac));
        add("device", "virtio-rng-pci".into());
        add("device", "i6300esb".into());
        add("action", "watchdog=reset".into());
        add("chardev", "stdio,id=console,signal=off".into());
        add("serial", "chardev:console".into());
        add("qmp", format!("unix:{},server=on,wait=off", value(qmp)));
        add("display", "none".into());
        args.extend(["-nodefaults", "-no-user-config", "-S"].map(String::from));
        args
    }
}

impl Network {
    fn netdev(&self) -> String {
        match self {
            Self::Alone(forwards) => format!("user,id=net0,{}", user_options(forwards)),
            Self::Shared(socket) => {
                format!("stream,id=net0,server=off,addr.type=unix,addr.path={},reconnect-ms=500", value(socket))
            }
        }
    }
}

/// Options of QEMU's user-mode network: no way out, and `forwards` in.
pub(crate) fn user_options(forwards: &[Forward]) -> String {
    let mut options = "restrict=on,ipv6=off".to_owned();
    for Forward { protocol, host, address, port } in forwards {
        options.push_str(&format!(",hostfwd={}:127.0.0.1:{host}-{address}:{port}", protocol.name()));
    }
    options
}

/// A path as an option's value: commas are doubled (QEMU's `QemuOpts`).
pub(crate) fn value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Whether this host runs x86_64 guests by itself: the processor says so and the device opens.
///
/// Both are asked, because there are hosts with a `/dev/kvm` that no virtual machine comes up on.
pub fn kvm_usable(board: Board) -> bool {
    let says_so = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| has_virtualization(&info));
    board == Board::Q35 && says_so && std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

fn has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.flat_map(str::split_whitespace).any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(board: Board) -> Config {
        Config {
            name: "node-1".into(),
            board,
            firmware: Firmware::Edk2,
            kvm: false,
            memory_mib: 1024,
            cpus: 2,
            disk: Disk::Overlay("/out/a,b.qcow2".into()),
            storage: Storage::Virtio,
            network: Network::Alone(vec![
                Forward { protocol: Protocol::Tcp, host: 16443, address: [10, 0, 2, 15].into(), port: 6443 },
                Forward { protocol: Protocol::Udp, host: 17443, address: [10, 0, 2, 15].into(), port: 7443 },
            ]),
            link: true,
            mac: 1,
            console_log: "/out/node-1.console.log".into(),
        }
    }

    fn line(config: &Config) -> String {
        config.arguments(Path::new("/run/vars"), Path::new("/run/qmp")).join(" ")
    }

    #[test]
    fn a_q35_boots_its_virtio_disk_by_ovmf_under_tcg() {
        let line = line(&config(Board::Q35));
        for part in [
            "-machine q35,smm=off",
            "-accel tcg,thread=multi -cpu max -smp 2 -m 1024M",
            "readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
            "if=pflash,format=raw,file=/run/vars",
            "-device virtio-blk-pci,drive=disk,bootindex=0",
            "-device i6300esb -action watchdog=reset",
            "-qmp unix:/run/qmp,server=on,wait=off",
            "-nodefaults -no-user-config -S",
        ] {
            assert!(line.contains(part), "`{part}` in {line}");
        }
    }

    #[test]
    fn a_virt_has_gicv3_and_aavmf() {
        let line = line(&config(Board::Virt));
        assert!(line.contains("-machine virt,gic-version=3") && line.contains("AAVMF_CODE.fd"), "{line}");
    }

    #[test]
    fn firmware_is_exchanged_without_the_board() {
        let secure = line(&Config { firmware: Firmware::SecureBoot, ..config(Board::Q35) });
        for part in ["q35,smm=on", "OVMF_CODE_4M.secboot.fd", "driver=cfi.pflash01,property=secure,value=on"] {
            assert!(secure.contains(part), "`{part}` in {secure}");
        }
        let u_boot = line(&Config { firmware: Firmware::UBoot, ..config(Board::Virt) });
        assert!(u_boot.contains("-bios /usr/lib/u-boot/qemu_arm64/u-boot.bin"), "{u_boot}");
        assert!(!u_boot.contains("pflash"), "{u_boot}");
    }

    #[test]
    fn kvm_takes_the_hosts_processor() {
        let line = line(&Config { kvm: true, ..config(Board::Q35) });
        assert!(line.contains("-accel kvm -cpu host") && !line.contains("tcg"), "{line}");
    }

    #[test]
    fn an_sd_card_comes_with_the_kernel_its_firmware_cannot_read() {
        let line = line(&Config { storage: Storage::Sd { kernel: "/out/kernel".into() }, ..config(Board::Q35) });
        assert!(line.contains("-device sdhci-pci -device sd-card,drive=disk -kernel /out/kernel"), "{line}");
        assert!(!line.contains("virtio-blk"), "{line}");
    }

    #[test]
    fn the_network_has_no_way_out_and_ports_only_on_loopback() {
        let alone = line(&config(Board::Q35));
        assert!(alone.contains("user,id=net0,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:16443-10.0.2.15:6443"));
        assert!(alone.contains(",hostfwd=udp:127.0.0.1:17443-10.0.2.15:7443"));
        let shared = line(&Config { network: Network::Shared("/run/port-0".into()), ..config(Board::Q35) });
        assert!(shared.contains("stream,id=net0,server=off,addr.type=unix,addr.path=/run/port-0,reconnect-ms=500"));
    }

    #[test]
    fn a_comma_in_a_file_name_is_doubled() {
        assert!(line(&config(Board::Q35)).contains("format=qcow2,cache=unsafe,discard=unmap,file=/out/a,,b.qcow2"));
    }

    #[test]
    fn a_recorded_disk_logs_what_is_flushed() {
        let disk = Disk::Recorded { overlay: "/out/a.qcow2".into(), log: "/out/a.log".into() };
        let line = line(&Config { disk, ..config(Board::Q35) });
        assert!(line.contains("-blockdev {") && line.contains(r#""driver":"blklogwrites""#), "{line}");
        assert!(line.contains(r#""filename":"/out/a.log""#), "{line}");
        assert!(line.contains("virtio-blk-pci,drive=disk,bootindex=0,request-merging=off"), "{line}");
    }

    #[test]
    fn virtualization_is_a_whole_flag() {
        assert!(has_virtualization("processor : 0\nflags : fpu vmx sse\n"));
        assert!(!has_virtualization("flags : fpu vmxish sse\nvmx flags : vnmi\n"));
    }
}
