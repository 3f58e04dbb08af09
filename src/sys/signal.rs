//! Signals that nix and rustix have no safe name for: the real-time ones.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `sigwaitinfo(2)`: takes the next of `signals`, which have to be blocked, real-time ones included.
///
/// # Errors
/// `EINTR` when a signal that is not among them was handled.
pub fn wait_signal(signals: &nix::sys::signal::SigSet) -> io::Result<i32> {
    // SAFETY: the set is a live sigset_t; a null siginfo is allowed (man 2 sigwaitinfo).
    let number = unsafe { libc::sigwaitinfo(signals.as_ref(), std::ptr::null_mut()) };
    if number > 0 { Ok(number) } else { Err(io::Error::last_os_error()) }
}

/// `pidfd_send_signal(2)` for any signal, real-time ones included.
///
/// # Errors
/// `ESRCH` when the process has ended; `EINVAL` for what is no signal.
pub fn pidfd_send_realtime(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed and makes the call like kill(2); the rest are integers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
