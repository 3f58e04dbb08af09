//! Closing descriptors that this process inherited and nothing in it owns.

use std::io;
use std::os::fd::RawFd;

/// `close_range(2)`: closes the descriptors from `first` to `last`, both of them included. For a process just forked,
/// which ends by `exit_now` and so never drops what its copy of the parent's memory says it owns.
///
/// # Errors
/// `EINVAL` when `last` is below `first`; `ENOSYS` before Linux 5.9.
pub fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: takes three integers. That no live owner of these descriptors is used again is the caller's side, above.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
