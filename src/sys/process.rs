//! Making processes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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

/// `CLONE_INTO_CGROUP` of clone3(2); libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a [`clone_sibling`] or [`clone_child`] one is on.
#[derive(Debug)]
pub enum Cloned {
    /// The caller: the new process's pid as seen here, and its pidfd.
    Caller {
        /// Its pid in the caller's pid namespace.
        pid: Pid,
        /// Close-on-exec.
        pidfd: OwnedFd,
    },
    /// The new process.
    New,
}

/// `clone3(2)` with the given `CLONE_NEW*` flags, plus `CLONE_PIDFD` and `CLONE_PARENT`: the new process is a sibling of
/// the caller, so that the caller's parent waits for it. With `cgroup` it is born in there (`CLONE_INTO_CGROUP`), which
/// avoids the migration and its grace period.
///
/// # Errors
/// `EBUSY` when this process has a second thread; what clone3(2) gives otherwise.
pub fn clone_sibling(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    // It signals its end as the caller does.
    clone(namespaces | libc::CLONE_PARENT as u64, 0, cgroup)
}

/// As [`clone_sibling`], but a child of the caller, as after [`fork`].
///
/// # Errors
/// As [`clone_sibling`].
pub fn clone_child(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    clone(namespaces, libc::SIGCHLD as u64, cgroup)
}

fn clone(flags: u64, exit_signal: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    refuse_threads()?;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is a plain struct of integers, for which all zeros is a valid value (man 2 clone3).
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.exit_signal = exit_signal;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    }
    // SAFETY: no CLONE_VM and no stack: the child is a copy as after fork(2), of a process with one thread (checked
    // above); args and pidfd outlive the call.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut args), size_of::<libc::clone_args>())
    };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::New),
        _ => Ok(Cloned::Caller {
            pid: Pid::from_raw(i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidData)?),
            // SAFETY: the kernel stored a fresh descriptor that nothing else owns (CLONE_PIDFD).
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Fails with `EBUSY` when this process has a second thread (proc(5), /proc/PID/task). Where no /proc is mounted, this is a
/// process that [`fork`] made a moment ago, in a root of its own: it has one.
fn refuse_threads() -> io::Result<()> {
    // A directory's link count is two more than its subdirectories: one stat instead of a listing.
    match rustix::fs::stat("/proc/self/task") {
        Ok(tasks) if tasks.st_nlink == 3 => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `unshare(2)`; of the flags only namespaces, never `CLONE_FILES`.
///
/// # Errors
/// What unshare(2) gives; `EUSERS`, `ENOSPC` for limits, `EPERM` without CAP_SYS_ADMIN.
pub fn unshare_namespaces(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    let flags = flags - rustix::thread::UnshareFlags::FILES;
    // SAFETY: the descriptor table stays shared (FILES is taken out), which is all that the call's contract is about.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Ends this process at once: no destructors, no atexit(3), no flushing of what the parent buffered (man 2 _exit).
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(i32::from(status)) }
}
