//! What has to be as new before execve(2).

use std::io;
use std::os::fd::RawFd;

/// `close_range(2)` with `CLOSE_RANGE_CLOEXEC`: every descriptor from `first` on closes at the next execve(2).
///
/// # Errors
/// `EINVAL` before Linux 5.11.
pub fn close_at_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: takes three integers and closes nothing now; no owner of a descriptor is affected before its end.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `sigaction(2)`: `signal` has its default action again.
///
/// # Errors
/// `EINVAL` for SIGKILL, SIGSTOP and the signals that libc keeps for itself.
pub fn set_default_action(signal: i32) -> io::Result<()> {
    // SAFETY: SIG_DFL installs no handler; nothing of ours runs on a signal afterwards.
    let result = unsafe { libc::signal(signal, libc::SIG_DFL) };
    if result == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `sigwaitinfo(2)`: takes the next of `signals`, which have to be blocked, real-time ones included.
///
/// # Errors
/// `EINTR` when a signal that is not among them was handled.
pub fn wait_signal(signals: &nix::sys::signal::SigSet) -> io::Result<i32> {
    // SAFETY: the set is a live sigset_t; a null siginfo is allowed (man 2 sigwaitinfo).
    let number = unsafe { libc::sigwaitinfo(signals.as_ref(), std::ptr::null_mut()) };
    if number > 0 { Ok(number) } else { Err(io::Error::last_os_error()) }
}
