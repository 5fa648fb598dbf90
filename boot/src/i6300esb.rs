//! Intel's 6300ESB watchdog, a PCI device (Intel 6300ESB I/O Controller Hub datasheet, order 300641-004, chapter 16);
//! QEMU has it for both of our machines.
//!
//! It counts down twice: the first end would be an interrupt, which is off; the second resets. Once its lock bit is
//! set nothing but a reset stops it: Linux's driver tries to, before PID 1 is there to stroke.

use core::time::Duration;

use uefi::boot::{self, ScopedProtocol};
use uefi::proto::pci::PciIoAddress;
use uefi::proto::pci::root_bridge::PciRootBridgeIo;

use crate::sys::open_shared;
use crate::watchdog::Watchdog;

/// Vendor 8086, device 25AB.
const ID: u32 = 0x25ab_8086;

// Configuration space.
const COMMAND: u8 = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const BAR0: u8 = 0x10;
const CONFIG: u8 = 0x60;
/// No interrupt at the first end, 1 kHz, reset at the second.
const CONFIG_RESET: u16 = 0x0003;
const LOCK: u8 = 0x68;
const LOCK_ENABLED: u8 = 1 << 1;
const LOCK_LOCKED: u8 = 1 << 0;

// Memory, from BAR0.
const FIRST: u64 = 0x00;
const SECOND: u64 = 0x04;
const RELOAD: u64 = 0x0c;
const RELOAD_NOW: u16 = 1 << 8;
/// The second end was reached; writing 1 clears it.
const RELOAD_TIMEOUT: u16 = 1 << 9;
/// Written to RELOAD one after the other, they allow one write to a register.
const UNLOCK: [u16; 2] = [0x80, 0x86];
/// Counters have 20 bits and count milliseconds (2^15 PCI clocks).
const MAX_COUNT: u32 = (1 << 20) - 1;

/// The device behind one root bridge.
pub struct I6300Esb {
    bridge: ScopedProtocol<PciRootBridgeIo>,
    device: PciIoAddress,
    memory: u64,
}

impl I6300Esb {
    /// Looks for it on all buses.
    pub fn find() -> Option<Self> {
        boot::find_handles::<PciRootBridgeIo>().ok()?.into_iter().find_map(|handle| {
            let bridge = open_shared(handle).ok()?;
            Self::behind(bridge)
        })
    }

    fn behind(mut bridge: ScopedProtocol<PciRootBridgeIo>) -> Option<Self> {
        let devices = bridge.enumerate().ok()?;
        let device =
            devices.into_iter().find(|device| bridge.pci().read_one::<u32>(device.with_register(0)) == Ok(ID))?;
        let command = bridge.pci().read_one::<u16>(device.with_register(COMMAND)).ok()?;
        bridge.pci().write_one(device.with_register(COMMAND), command | COMMAND_MEMORY).ok()?;
        let bar = bridge.pci().read_one::<u32>(device.with_register(BAR0)).ok()?;
        let memory = u64::from(bar & !0xf);
        (memory != 0).then_some(Self { bridge, device, memory })
    }

    fn write_config<U: uefi::proto::pci::PciIoUnit>(&mut self, register: u8, value: U) {
        // A device that does not answer does not watch: PID 1 finds out, as there is none for it either.
        let _ = self.bridge.pci().write_one(self.device.with_register(register), value);
    }

    fn unlock(&mut self) {
        for word in UNLOCK {
            let _ = self.bridge.memory().write_one(self.memory + RELOAD, word);
        }
    }
}

impl Watchdog for I6300Esb {
    fn name(&self) -> &'static str {
        "i6300esb"
    }

    fn has_reset(&mut self) -> bool {
        let reload = self.bridge.memory().read_one::<u16>(self.memory + RELOAD).unwrap_or(0);
        self.unlock();
        let _ = self.bridge.memory().write_one(self.memory + RELOAD, RELOAD_TIMEOUT);
        reload & RELOAD_TIMEOUT != 0
    }

    fn arm(&mut self, window: Duration) {
        let half = u32::try_from(window.as_millis() / 2).unwrap_or(MAX_COUNT).min(MAX_COUNT);
        self.write_config(CONFIG, CONFIG_RESET);
        for counter in [FIRST, SECOND] {
            self.unlock();
            let _ = self.bridge.memory().write_one(self.memory + counter, half);
        }
        self.stroke();
        self.write_config(LOCK, LOCK_ENABLED | LOCK_LOCKED);
    }

    fn stroke(&mut self) {
        self.unlock();
        let _ = self.bridge.memory().write_one(self.memory + RELOAD, RELOAD_NOW);
    }
}
