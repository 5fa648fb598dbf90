//! Growing a mounted ext4.

use std::ffi::c_void;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// `EXT4_IOC_RESIZE_FS`, fs/ext4/ext4.h: `_IOW('f', 16, __u64)`, the argument is the new size in blocks.
struct ResizeFs {
    blocks: u64,
}

// SAFETY: the opcode is the kernel's for this operation, the pointer is to a u64 that lives as long as `self`, and
// the kernel only reads it.
unsafe impl Ioctl for ResizeFs {
    type Output = ();
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::write::<u64>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.blocks).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> Result<(), Errno> {
        Ok(())
    }
}

/// Grows the mounted file system that `root` (its mount point) belongs to, to `blocks` of its blocks. Blocks until
/// it is done: seconds on a large, slow card.
///
/// # Errors
/// The kernel's: EPERM without CAP_SYS_RESOURCE, EINVAL when it would shrink, ENOSPC when the device is smaller.
pub fn resize(root: impl AsFd, blocks: u64) -> Result<(), Errno> {
    // SAFETY: see the implementation of Ioctl.
    unsafe { ioctl(root, ResizeFs { blocks }) }
}
