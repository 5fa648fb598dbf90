//! Memory by the page, as disks and firmware want it aligned.

use core::ptr::NonNull;

use uefi::boot::{self, AllocateType, MemoryType, PAGE_SIZE};

use crate::error::Error;

/// Pages that are given back when dropped.
pub struct Pages {
    start: NonNull<u8>,
    pages: usize,
}

impl Pages {
    /// Zeroed pages for at least `bytes`, which is not 0.
    pub fn new(bytes: usize) -> Result<Self, Error> {
        let pages = bytes.div_ceil(PAGE_SIZE);
        let start = boot::allocate_pages(AllocateType::AnyPages, MemoryType::LOADER_DATA, pages)
            .map_err(Error::firmware("take memory"))?;
        let memory = Self { start, pages };
        // SAFETY: firmware has just given us these pages, and nobody refers to them yet.
        unsafe { memory.start.write_bytes(0, pages * PAGE_SIZE) };
        Ok(memory)
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the pages are ours until dropped, and were initialised in `new`.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.pages * PAGE_SIZE) }
    }

    /// All of it, to write to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes this the only reference.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.pages * PAGE_SIZE) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: they came from `allocate_pages` with this number, and no reference outlives `self`. Firmware that
        // refuses to take them back only has less memory.
        let _ = unsafe { boot::free_pages(self.start, self.pages) };
    }
}
