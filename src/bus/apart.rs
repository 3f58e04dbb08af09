//! A question to the bus from a process that has to stay one thread: asked in a fork, which hands the answer over.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::wait::waitpid;

use super::BusError;
use crate::sys::{Forked, exit_now, fork};
use crate::wire::Wire;

/// Has `ask` ask the bus, and gives the descriptor that it got. zbus's threads live and die with the fork.
///
/// # Errors
/// What `ask` gives; [`BusError::Lost`] when the fork died; what fork(2) and socketpair(2) give.
pub fn apart(ask: impl FnOnce() -> Result<OwnedFd, BusError>) -> Result<OwnedFd, BusError> {
    let (ours, theirs) = Wire::pair()?;
    let child = match fork()? {
        Forked::Child => {
            drop(ours);
            let answer = ask();
            let fds: Vec<_> = answer.iter().map(AsFd::as_fd).collect();
            let said: Result<(), &BusError> = answer.as_ref().map(|_| ());
            // Nobody hears it when the asker has died.
            let _ = theirs.send(&said, &fds);
            exit_now(0)
        }
        Forked::Parent(child) => child,
    };
    drop(theirs);
    let answer = ours.receive::<Result<(), BusError>>();
    while waitpid(child, None) == Err(Errno::EINTR) {}
    let (said, fds) = answer?.ok_or(BusError::Lost)?;
    said?;
    fds.into_iter().next().ok_or(BusError::Lost)
}
