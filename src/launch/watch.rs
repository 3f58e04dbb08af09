//! What can end the supervisor's wait for a word from inside, beside the word: the end of the outer, and a request to stop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::error::{Context, Error, Kind, Result};
use crate::machine::attachment::{Attachment, FromUser};
use crate::machine::state::Ask;
use crate::machine::supervise::Signals;

/// What is watched during a launch.
pub(super) struct Watch<'a> {
    /// Where a request to stop comes from, beside signals.
    pub(super) attachment: &'a mut Attachment,
    signals: &'a mut Signals,
    /// Until the leader is known: the leader has an end of the wire too and waits for a word, so that the death of the
    /// outer would be no end of file.
    outer: Option<OwnedFd>,
}

/// What woke the supervisor.
enum Woken {
    Signal,
    Front,
    Word,
    OuterEnded,
}

impl<'a> Watch<'a> {
    /// Watches `outer` and what asks for an end.
    ///
    /// # Errors
    /// What pidfd_open(2) gives.
    pub(super) fn new(
        outer: &Outer,
        attachment: &'a mut Attachment,
        signals: &'a mut Signals,
    ) -> io::Result<Self> {
        let pid = rustix::process::Pid::from_raw(outer.0.as_raw()).ok_or(Errno::ESRCH)?;
        let outer = Some(pidfd_open(pid, PidfdFlags::empty())?);
        Ok(Self { attachment, signals, outer })
    }

    /// The leader is known: the outer may end.
    pub(super) fn forget_outer(&mut self) {
        self.outer = None;
    }

    /// Waits until `wire` has a message or is at its end.
    ///
    /// # Errors
    /// That the outer died, or that somebody wants the end; what poll(2) gives.
    pub(super) fn await_word(&mut self, wire: BorrowedFd<'_>) -> Result<()> {
        let cannot = |why| Err(Error::new(Kind::Failed, "cannot set the machine up").because(why));
        loop {
            match self.poll(wire).context(|| "cannot wait for the machine's first process")? {
                None => {}
                Some(Woken::Word) => return Ok(()),
                Some(Woken::Signal) => self.hear_signals().map_or(Ok(()), cannot)?,
                Some(Woken::OuterEnded) => return cannot("the process that builds its root died"),
                Some(Woken::Front) => {
                    let asked = self.attachment.hear_front().context(|| "cannot hear the terminal")?;
                    if asked == Some(FromUser::Stop) {
                        return cannot("it was asked to end");
                    }
                }
            }
        }
    }

    /// A reboot is what is being done; anything else is a reason not to go on.
    fn hear_signals(&mut self) -> Option<&'static str> {
        self.signals.take().any(|ask| ask != Ask::Reboot).then_some("it was asked to end")
    }

    fn poll(&self, wire: BorrowedFd<'_>) -> io::Result<Option<Woken>> {
        let (front, outer) = (self.attachment.front(), self.outer.as_ref().map(AsFd::as_fd));
        // By rank: what the outer said last is looked at before its end.
        let sources = [
            (Woken::Signal, Some(self.signals.fd())),
            (Woken::Front, front),
            (Woken::Word, Some(wire)),
            (Woken::OuterEnded, outer),
        ];
        let (kinds, mut fds): (Vec<_>, Vec<_>) = sources
            .into_iter()
            .filter_map(|(kind, fd)| Some((kind, PollFd::new(fd?, PollFlags::POLLIN))))
            .unzip();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        Ok(kinds.into_iter().zip(fds).find(|(_, fd)| fd.any() != Some(false)).map(|(kind, _)| kind))
    }
}

/// The outer, a child to be waited for. It ends by itself when the leader is there; before, it is of no use any more when
/// this is dropped.
pub(super) struct Outer(pub(super) Pid);

impl Drop for Outer {
    fn drop(&mut self) {
        // Its pid is its own until it is waited for.
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}
