//! The keeper: a process that is in a machine's scope until the machine is. systemd makes no scope without a process, and ends
//! one that has none any more.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::sys::{Forked, close_range, exit_now, fork};

/// A child of this process that does nothing. It ends when this is dropped, or with this process.
#[derive(Debug)]
pub(super) struct Keeper {
    pid: Pid,
    pidfd: OwnedFd,
    /// Its other end is all that the keeper has.
    pipe: Option<OwnedFd>,
}

impl Keeper {
    /// Starts it.
    ///
    /// # Errors
    /// What pipe(2) and fork(2) give.
    pub(super) fn start() -> io::Result<Self> {
        let (waits, pipe) = pipe_with(PipeFlags::CLOEXEC)?;
        match fork()? {
            Forked::Child => {
                drop(pipe);
                keep(&waits)
            }
            Forked::Parent(pid) => {
                let raw = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::NotFound)?;
                Ok(Self { pid, pidfd: pidfd_open(raw, PidfdFlags::empty())?, pipe: Some(pipe) })
            }
        }
    }

    /// Its pid.
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Its pidfd.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = waitpid(self.pid, None);
    }
}

fn keep(waits: &OwnedFd) -> ! {
    let kept = waits.as_raw_fd();
    if kept > 0 {
        let _ = close_range(0, kept - 1);
    }
    let _ = close_range(kept + 1, i32::MAX);
    let _ = rustix::io::retry_on_intr(|| rustix::io::read(waits, &mut [0]));
    exit_now(0)
}
