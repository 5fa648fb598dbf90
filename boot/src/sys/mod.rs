//! The only room of the loader with `unsafe` in it.

pub mod memory;

use uefi::boot::{self, OpenProtocolAttributes, OpenProtocolParams, ScopedProtocol};
use uefi::proto::ProtocolPointer;
use uefi::proto::loaded_image::LoadedImage;
use uefi::{CStr16, Handle};

/// Protocols that stand two users: their drivers in the firmware have them open and go on using them.
pub trait Shared: ProtocolPointer {}

/// Each call reads or writes blocks; there is no state between two calls.
impl Shared for uefi::proto::media::block::BlockIO {}
/// Each call reads or writes one register. A device that has no driver in the firmware is nobody else's.
impl Shared for uefi::proto::pci::root_bridge::PciRootBridgeIo {}

/// Opens a protocol beside the firmware's own drivers.
pub fn open_shared<P: Shared + ?Sized>(handle: Handle) -> uefi::Result<ScopedProtocol<P>> {
    let params = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
    // SAFETY: not exclusive, which `Shared` says is harmless; the handle's device stays for as long as the loader.
    unsafe { boot::open_protocol(params, OpenProtocolAttributes::GetProtocol) }
}

/// Gives a loaded image its command line, which lives until the next reset.
pub fn set_load_options(image: Handle, options: &'static CStr16) -> uefi::Result {
    let mut info = boot::open_protocol_exclusive::<LoadedImage>(image)?;
    let bytes = options.as_bytes();
    // SAFETY: the options are 'static: they outlive the image.
    unsafe { info.set_load_options(bytes.as_ptr(), bytes.len() as u32) };
    Ok(())
}
