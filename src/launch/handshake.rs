//! The handshake between the supervisor and the leader: every message, and both ends' states, on this page.
//!
//! ```text
//! supervisor                               outer, then leader
//! Forked    ◀─Cloned{pid; pidfd}──         the outer, which then exits
//! Cloned    ──IdsMapped──▶                 Born
//! Mapped    ◀─NetnsReady──                 Mapped
//! Networked ──Placed─────▶                 Isolated     link made, scope made, registered with machined, cgroup delegated
//! Placed    ◀─Ready{console, notify}──     Confined     mounts done, console made, capabilities limited
//! Ready     ──Go─────────▶                 Waiting
//! Running   ◀─end of file──                execve closed the socket; or Failed{…}, at any time before
//! ```
//!
//! Each state owns the socket and gives the next state, so a barrier that is skipped or doubled does not compile. A step
//! that fails sends [`Failure`], which the supervisor says in words; a peer that dies is an end of file at the wrong time.
//! The supervisor waits for each message with [`Watch`], so that neither an outer that dies nor a leader that hangs holds it.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::watch::Watch;
use crate::error::failure::Failure;
use crate::error::{Error, Kind};
use crate::wire::{Heard, Wire};

/// From the outer and the leader.
#[derive(Debug, Serialize, Deserialize)]
enum FromInside {
    /// The leader is there; with its pidfd.
    Cloned {
        /// In the host's pid namespace.
        pid: u32,
    },
    /// The leader's network namespace can be given links.
    NetnsReady,
    /// All is set up; with the descriptors said here, in this order.
    Ready {
        /// The master of the console's pty.
        console: bool,
        /// The socket on which the payload's init reports.
        notify: bool,
    },
    /// A step failed; nothing comes after it.
    Failed(Failure),
}

/// From the supervisor to the leader.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
enum ToLeader {
    /// The user namespace has its maps.
    IdsMapped,
    /// Links, unit, registration and cgroup are made.
    Placed,
    /// Execute.
    Go,
}

/// Both ends, before the fork.
///
/// # Errors
/// What socketpair(2) gives.
pub(super) fn pair() -> io::Result<(Forked, Inside)> {
    let (one, other) = Wire::pair()?;
    Ok((Forked(one), Inside(other, PhantomData)))
}

/// The next message, which `watch` waits for. A step that failed is an error, and so is an end with a word of ours unread.
fn hear(wire: &Wire, watch: &mut Watch<'_>) -> Result<Option<(FromInside, Vec<OwnedFd>)>, Error> {
    watch.await_word(wire.as_fd())?;
    match wire.hear() {
        Ok(Heard::Message(FromInside::Failed(failure), _)) => Err(failure.into()),
        Ok(Heard::Message(message, fds)) => Ok(Some((message, fds))),
        Ok(Heard::End) => Ok(None),
        Ok(Heard::Reset) => Err(died()),
        Err(error) => Err(Error::io("cannot hear the machine's first process", &error)),
    }
}

/// The next message; there has to be one.
fn expect(wire: &Wire, watch: &mut Watch<'_>) -> Result<(FromInside, Vec<OwnedFd>), Error> {
    hear(wire, watch)?.ok_or_else(died)
}

/// The end of the leader before it has executed anything.
pub(super) fn died() -> Error {
    Error::new(Kind::Failed, "cannot set the machine up").because("its first process died")
}

fn out_of_turn() -> Error {
    Error::new(Kind::Failed, "cannot set the machine up").because("its first process spoke out of turn")
}

fn tell(wire: &Wire, message: &ToLeader, watch: &mut Watch<'_>) -> Result<(), Error> {
    let error = match wire.send(message, &[]) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    if error.kind() == io::ErrorKind::BrokenPipe {
        // What it said before it died is the reason.
        expect(wire, watch)?;
    }
    Err(Error::io("cannot talk to the machine's first process", &error))
}

/// The supervisor, when the outer is forked.
#[derive(Debug)]
pub(super) struct Forked(Wire);

/// The leader, as the outer announced it.
#[derive(Debug)]
pub(super) struct Leader {
    /// In the host's pid namespace.
    pub(super) pid: u32,
    /// Close-on-exec.
    pub(super) pidfd: OwnedFd,
}

impl Forked {
    /// Waits for the leader.
    ///
    /// # Errors
    /// The step of the outer that failed.
    pub(super) fn cloned(self, watch: &mut Watch<'_>) -> Result<(Cloned, Leader), Error> {
        match expect(&self.0, watch)? {
            (FromInside::Cloned { pid }, fds) => {
                let pidfd = fds.into_iter().next().ok_or_else(out_of_turn)?;
                Ok((Cloned(self.0), Leader { pid, pidfd }))
            }
            _ => Err(out_of_turn()),
        }
    }
}

/// The supervisor, when the leader is there.
#[derive(Debug)]
pub(super) struct Cloned(Wire);

impl Cloned {
    /// Says that the ID maps are written, and waits for the network namespace.
    ///
    /// # Errors
    /// The step of the leader that failed.
    pub(super) fn ids_mapped(self, watch: &mut Watch<'_>) -> Result<Networked, Error> {
        tell(&self.0, &ToLeader::IdsMapped, watch)?;
        match expect(&self.0, watch)? {
            (FromInside::NetnsReady, _) => Ok(Networked(self.0)),
            _ => Err(out_of_turn()),
        }
    }
}

/// The supervisor, when links can be given.
#[derive(Debug)]
pub(super) struct Networked(Wire);

/// What the leader hands over when it is set up.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// The master of the console's pty.
    pub(super) console: Option<OwnedFd>,
    /// The socket on which the payload's init reports.
    pub(super) notify: Option<OwnedFd>,
}

impl Networked {
    /// Says that the machine is where it belongs, and waits until it is set up.
    ///
    /// # Errors
    /// The step of the leader that failed.
    pub(super) fn placed(self, watch: &mut Watch<'_>) -> Result<(Ready, Handover), Error> {
        tell(&self.0, &ToLeader::Placed, watch)?;
        match expect(&self.0, watch)? {
            (FromInside::Ready { console, notify }, fds) => {
                let mut fds = fds.into_iter();
                let console = if console { Some(fds.next().ok_or_else(out_of_turn)?) } else { None };
                let notify = if notify { Some(fds.next().ok_or_else(out_of_turn)?) } else { None };
                Ok((Ready(self.0), Handover { console, notify }))
            }
            _ => Err(out_of_turn()),
        }
    }
}

/// The supervisor, when all is set up.
#[derive(Debug)]
pub(super) struct Ready(Wire);

impl Ready {
    /// Lets the payload be executed, and waits until it is.
    ///
    /// # Errors
    /// That it could not be executed.
    pub(super) fn go(self, watch: &mut Watch<'_>) -> Result<(), Error> {
        tell(&self.0, &ToLeader::Go, watch)?;
        match hear(&self.0, watch)? {
            None => Ok(()),
            Some(_) => Err(out_of_turn()),
        }
    }
}

/// The end inside, in its state: the outer's, which the leader inherits.
#[derive(Debug)]
pub(super) struct Inside<State = Outer>(Wire, PhantomData<State>);

/// The outer, and the leader until it begins.
#[derive(Debug)]
pub(super) enum Outer {}
/// The leader, new.
#[derive(Debug)]
pub(super) enum Born {}
/// The leader, with its IDs.
#[derive(Debug)]
pub(super) enum Mapped {}
/// The leader, where it belongs.
#[derive(Debug)]
pub(super) enum Isolated {}
/// The leader, about to execute. The socket closes with execve(2): that is the last message.
#[derive(Debug)]
pub(super) enum Waiting {}

/// The supervisor is gone, or spoke out of turn: there is nothing to go on for.
#[derive(Debug)]
pub(super) struct Orphaned;

impl<State> Inside<State> {
    /// Says what failed; the process ends after it.
    pub(super) fn fail(&self, failure: Failure) {
        // A supervisor that is gone has nobody to tell.
        let _ = self.0.send(&FromInside::Failed(failure), &[]);
    }

    fn say(&self, message: &FromInside, fds: &[BorrowedFd<'_>]) -> Result<(), Orphaned> {
        self.0.send(message, fds).map_err(|error| {
            self.fail(Failure::set_up("talk to the supervisor", &error));
            Orphaned
        })
    }

    fn hear<Next>(self, word: &ToLeader) -> Result<Inside<Next>, Orphaned> {
        // Said, whatever it is: an end of file without a word is how the supervisor knows of a payload that runs.
        match self.0.receive::<ToLeader>() {
            Ok(Some((said, _))) if said == *word => return Ok(Inside(self.0, PhantomData)),
            Ok(None) => {}
            Ok(Some(_)) => self.fail(Failure::refused("hear the supervisor", "it spoke out of turn")),
            Err(error) => self.fail(Failure::set_up("hear the supervisor", &error)),
        }
        Err(Orphaned)
    }
}

impl Inside<Outer> {
    /// The outer's last word: the leader is there.
    ///
    /// # Errors
    /// [`Orphaned`].
    pub(super) fn cloned(self, pid: u32, pidfd: BorrowedFd<'_>) -> Result<(), Orphaned> {
        self.say(&FromInside::Cloned { pid }, &[pidfd])
    }

    /// The leader begins.
    pub(super) fn born(self) -> Inside<Born> {
        Inside(self.0, PhantomData)
    }
}

impl Inside<Born> {
    /// Waits until user and group IDs mean what they are to mean.
    ///
    /// # Errors
    /// [`Orphaned`].
    pub(super) fn await_ids(self) -> Result<Inside<Mapped>, Orphaned> {
        self.hear(&ToLeader::IdsMapped)
    }
}

impl Inside<Mapped> {
    /// Says that links can be given, and waits until the machine is where it belongs.
    ///
    /// # Errors
    /// [`Orphaned`].
    pub(super) fn await_place(self) -> Result<Inside<Isolated>, Orphaned> {
        self.say(&FromInside::NetnsReady, &[])?;
        self.hear(&ToLeader::Placed)
    }
}

impl Inside<Isolated> {
    /// Hands over what the supervisor serves, and waits for the word to execute.
    ///
    /// # Errors
    /// [`Orphaned`].
    pub(super) fn await_go(self, handover: &Handover) -> Result<Inside<Waiting>, Orphaned> {
        let Handover { console, notify } = handover;
        let fds: Vec<_> = console.iter().chain(notify).map(AsFd::as_fd).collect();
        self.say(&FromInside::Ready { console: console.is_some(), notify: notify.is_some() }, &fds)?;
        self.hear(&ToLeader::Go)
    }
}

impl Inside<Waiting> {
    /// Whether the supervisor is gone.
    pub(super) fn is_orphaned(&self) -> bool {
        let mut end = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        matches!(poll(&mut end, PollTimeout::ZERO), Ok(1..))
    }
}
