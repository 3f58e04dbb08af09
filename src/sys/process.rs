//! Making processes.

use std::io;

use nix::unistd::{ForkResult, Pid};

/// Which side of a [`fork`] one is on.
#[derive(Debug)]
pub enum Forked {
    /// The caller; the child's pid.
    Parent(Pid),
    /// The child.
    Child,
}

/// `fork(2)`, refused when this process has a second thread: the child would inherit locks that nobody releases.
///
/// # Errors
/// `EBUSY` when `/proc/self/task` shows a second thread; what fork(2) gives otherwise.
pub fn fork() -> io::Result<Forked> {
    refuse_threads()?;
    // SAFETY: the process has one thread (checked above), so the child inherits no lock held by another.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Forked::Parent(child)),
        ForkResult::Child => Ok(Forked::Child),
    }
}

/// Fails with `EBUSY` when this process has a second thread (proc(5), /proc/PID/task).
pub(super) fn refuse_threads() -> io::Result<()> {
    // A directory's link count is two more than its subdirectories: one stat instead of a listing.
    let tasks = rustix::fs::stat("/proc/self/task")?.st_nlink - 2;
    if tasks == 1 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EBUSY)) }
}

/// Ends this process at once: no destructors, no atexit(3), no flushing of what the parent buffered (man 2 _exit).
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(i32::from(status)) }
}
