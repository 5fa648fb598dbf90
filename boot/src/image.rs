//! A slot's kernel: read, checked, started.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt::Write;

use ed25519_dalek::VerifyingKey;
use perigee_core::gpt::{Partition, SECTOR_BYTES};
use perigee_core::slot::Slot;
use perigee_core::slot::header::{Arch, BLOCK_BYTES, Header, PARTUUID, SLOT, header_blocks};
use sha2::{Digest, Sha256};
use uefi::boot::{self, LoadImageSource};
use uefi::{CString16, Handle};

use crate::disk::Disk;
use crate::error::Error;
use crate::sys::memory::Pages;
use crate::sys::set_load_options;

/// Whose slots are started: given when the loader is built, never on the node.
const KEY: &[u8; 32] = include_bytes!(env!("PERIGEE_SLOT_KEY"));
/// What this loader's kernels run on.
const ARCH: Arch = if cfg!(target_arch = "x86_64") { Arch::X86_64 } else { Arch::Aarch64 };
const SECTORS_PER_BLOCK: u64 = (BLOCK_BYTES / SECTOR_BYTES) as u64;
/// How much is read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A kernel that was found to be what its slot's header says.
pub struct Kernel {
    memory: Pages,
    bytes: usize,
    command_line: String,
}

/// Whether the slot has a header that could be started from.
pub fn exists(disk: &mut Disk, slot: Slot) -> bool {
    disk.partition(slot.name()).is_ok_and(|partition| with_header(disk, &partition, |_| ()).is_ok())
}

impl Kernel {
    /// Reads a slot's kernel and checks it.
    pub fn read(disk: &mut Disk, slot: Slot) -> Result<Self, Error> {
        let partition = disk.partition(slot.name())?;
        let (start, bytes, sha256, command_line) = with_header(disk, &partition, |header| {
            say!("slot name={} version={}", slot.name(), header.version);
            let line = header.command_line.replace(PARTUUID, &uuid(partition.id)).replace(SLOT, slot.name());
            let layout = header.layout;
            (layout.kernel().start, layout.kernel_bytes as usize, layout.kernel_sha256, line)
        })?;
        let mut memory = Pages::new(bytes.next_multiple_of(BLOCK_BYTES))?;
        let mut sector = start * SECTORS_PER_BLOCK;
        let mut hash = Sha256::new();
        let mut left = bytes;
        for chunk in memory.bytes_mut().chunks_mut(CHUNK_BYTES) {
            disk.read(&partition, sector, chunk)?;
            sector += (chunk.len() / SECTOR_BYTES) as u64;
            let used = left.min(chunk.len());
            hash.update(&chunk[..used]);
            left -= used;
        }
        if hash.finalize()[..] != sha256 {
            return Err(Error::Kernel);
        }
        Ok(Self { memory, bytes, command_line })
    }

    /// Hands it to firmware, which gives it a place and checks what it has to say about it (Secure Boot).
    pub fn load(&self) -> Result<Loaded, Error> {
        let options = CString16::try_from(self.command_line.as_str()).map_err(|_| Error::CommandLine)?;
        let source = LoadImageSource::FromBuffer { buffer: &self.memory.bytes()[..self.bytes], file_path: None };
        let image = boot::load_image(boot::image_handle(), source).map_err(Error::firmware("load the kernel"))?;
        // Whatever becomes of the kernel, it may look at them: they are not taken back.
        set_load_options(image, Box::leak(Box::new(options))).map_err(Error::firmware("load the kernel"))?;
        Ok(Loaded(image))
    }
}

/// A kernel in its place. It is not unloaded: what is left of one that failed harms nobody.
pub struct Loaded(Handle);

impl Loaded {
    /// Starts it; comes back only with why it did not run.
    pub fn start(self) -> Error {
        match boot::start_image(self.0) {
            Ok(()) => Error::Returned(uefi::Status::SUCCESS),
            Err(error) => Error::Returned(error.status()),
        }
    }
}

/// Calls `use_it` with the first of the slot's headers that can be started from.
fn with_header<T>(disk: &mut Disk, partition: &Partition, use_it: impl FnOnce(&Header<'_>) -> T) -> Result<T, Error> {
    let blocks = partition.sectors / SECTORS_PER_BLOCK;
    // A constant that is no key accepts no signature.
    let key = VerifyingKey::from_bytes(KEY).unwrap_or_default();
    let mut block = [0; BLOCK_BYTES];
    let mut why = Error::NoPartition("with room for a slot");
    for at in header_blocks(blocks) {
        let read = disk.read(partition, at * SECTORS_PER_BLOCK, &mut block);
        match read.and_then(|()| Ok(Header::decode(&block, &key)?)) {
            Ok(header) => {
                header.fits(ARCH, blocks)?;
                return Ok(use_it(&header));
            }
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// As the kernel wants it after `PARTUUID=`.
fn uuid(id: [u8; 16]) -> String {
    let mut text = String::new();
    for (at, byte) in id.iter().enumerate() {
        let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
        // Writing to a String does not fail.
        let _ = write!(text, "{dash}{byte:02x}");
    }
    text
}
