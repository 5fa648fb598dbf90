//! Making processes. PID 1 has one thread, so a child may go on running ordinary code after the fork.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{io, ptr};

use rustix::process::Pid;

/// After standard input, output and error.
const FIRST_OTHER: u32 = 3;
/// linux/sched.h; libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Runs `body` in a new process, in `cgroup` from its first instruction (so that no kill of the cgroup can miss it),
/// and ends it with the status that `body` returns. The child gets the signal mask and every descriptor of PID 1.
///
/// # Errors
/// The kernel's: EAGAIN at pids.max, ENOMEM, ENODEV when the cgroup is gone.
pub fn fork(cgroup: Option<BorrowedFd<'_>>, body: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: clone_args is plain numbers, for which zero means "not asked for" (clone(2)).
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags = CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of the memory. The process has one thread,
    // so no lock can be held by a thread that the child lacks. `args` outlives the call and its size is right.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match result {
        0 => {
            let status = body();
            // SAFETY: _exit has no precondition; the parent's exit handlers must not run here.
            unsafe { libc::_exit(status) }
        }
        pid => i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(io::Error::last_os_error),
    }
}

/// Runs `body` in a new process that stays a copy of PID 1, named `name` (at most 15 bytes). Of PID 1's descriptors it
/// has the first three and `keep`: a copy of a watched one would keep it in PID 1's epoll after its close there.
///
/// # Errors
/// As [`fork`].
pub fn helper(name: &'static CStr, keep: Option<BorrowedFd<'_>>, body: impl FnOnce() -> i32) -> io::Result<Pid> {
    fork(None, || {
        let _ = rustix::thread::set_name(name);
        let begin = match keep.map(|keep| keep.as_raw_fd().unsigned_abs()) {
            Some(keep) => {
                close(FIRST_OTHER, keep.saturating_sub(1));
                FIRST_OTHER.max(keep + 1)
            }
            None => FIRST_OTHER,
        };
        close(begin, u32::MAX);
        body()
    })
}

/// Closes the descriptors from `first` to `last`; none if they are the other way round.
fn close(first: u32, last: u32) {
    // SAFETY: only helpers come here. The owners of these descriptors are in their copy of PID 1's memory, which their
    // bodies do not reach and which ends without being dropped.
    unsafe { libc::close_range(first, last, 0) };
}

/// Becomes `program`. Returns only if that fails.
pub fn exec(program: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer, and they and their strings outlive the call.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}
