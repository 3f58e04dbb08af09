//! The supervisor's end of the registrar.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::wire::{Answer, Reply, Request};
use super::{BusError, Event, Registration, Unit, call, clerk};
use crate::sys;
use crate::wire::Wire;

/// The process that talks to the bus for a supervisor.
///
/// Dropped, or its supervisor killed, it takes back on its own what it registered and made. That it sees by the end of
/// file on its socket: a process that the supervisor forks must not keep the supervisor's end (it is close-on-exec).
///
/// The registrar is a child of the supervisor: a `waitpid(-1)` there would take its status away.
#[derive(Debug)]
pub struct Registrar {
    wire: Option<Wire>,
    pid: Pid,
    pidfd: OwnedFd,
    events: VecDeque<Event>,
    limit: Duration,
}

impl Registrar {
    /// Forks the registrar. No connection is made yet.
    ///
    /// # Errors
    /// `EBUSY` when this process has a second thread; what socketpair(2) and fork(2) give.
    pub fn start() -> io::Result<Self> {
        let (wire, theirs) = Wire::pair()?;
        // The registrar keeps them blocked. It must not have an instant in which ^C ends it or one of this process's handlers
        // runs in it.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let forked = sys::fork();
        if !matches!(forked, Ok(sys::Forked::Child)) {
            before.thread_set_mask()?;
        }
        match forked? {
            sys::Forked::Child => clerk::live(theirs),
            sys::Forked::Parent(pid) => {
                let raw = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::InvalidData)?;
                let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
                Ok(Self { wire: Some(wire), pid, pidfd, events: VecDeque::new(), limit: call::LIMIT })
            }
        }
    }

    /// How long to wait for the answer to a request, 25 s unless set. After a request took longer, the registrar counts as
    /// gone: [`BusError::Lost`] to all further ones.
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Checks that the scope's name is free under PID 1. A dead scope of that name is cleared away.
    ///
    /// # Errors
    /// [`BusError::NameTaken`]; [`BusError::NoBus`] and [`BusError::NoSystemd`] when nobody is there to ask.
    pub fn claim_unit(&mut self, name: &str) -> Result<(), BusError> {
        self.ask(&Request::ClaimUnit(name.to_owned()), None).map(drop)
    }

    /// Checks that machined does not know the name; starts machined where it does not run yet.
    ///
    /// # Errors
    /// [`BusError::NameTaken`]; [`BusError::NoBus`] and [`BusError::NoMachined`] when nobody is there to ask.
    pub fn claim_machine(&mut self, name: &str) -> Result<(), BusError> {
        self.ask(&Request::ClaimMachine(name.to_owned()), None).map(drop)
    }

    /// [`Registrar::claim_unit`], then [`Registrar::claim_machine`].
    ///
    /// # Errors
    /// Theirs. After [`BusError::NoMachined`] the scope's name is known to be free.
    pub fn claim(&mut self, name: &str) -> Result<(), BusError> {
        self.claim_unit(name)?;
        self.claim_machine(name)
    }

    /// Makes the machine's scope with the leader in it, delegated, and waits until it is there; or finds the unit to keep.
    ///
    /// `leader` is the leader's pidfd.
    ///
    /// # Errors
    /// [`BusError::NameTaken`], [`BusError::JobFailed`], [`BusError::Refused`] with what PID 1 says of a property.
    pub fn open_unit(&mut self, machine: &Registration, leader: BorrowedFd<'_>) -> Result<Unit, BusError> {
        match self.ask(&Request::OpenUnit(machine.clone()), Some(leader))? {
            Answer::Unit(unit) => Ok(unit),
            Answer::Done => Err(BusError::Lost),
        }
    }

    /// Registers the machine with machined. After [`Registrar::open_unit`] and before the leader is moved further down
    /// in the unit's cgroup: machined takes the unit from where the leader is, and newer ones (seen: 262; not 257) take
    /// a leader in a subgroup for a machine that shares its unit, and signal the supervisor instead of stopping the unit.
    /// Their word for the supervisor is the process that registers: the registrar, which passes SIGTERM on as
    /// [`Event::StopRequested`].
    ///
    /// # Errors
    /// [`BusError::NameTaken`], [`BusError::NoMachined`], [`BusError::Refused`].
    pub fn register(&mut self, machine: &Registration, leader: BorrowedFd<'_>) -> Result<(), BusError> {
        self.ask(&Request::Register(machine.clone()), Some(leader)).map(drop)
    }

    /// Takes the registration back and removes the scope, with all that is in it still; nothing of the machine is known
    /// to machined or PID 1 afterwards. For after the leader's end. The registrar stays usable: a reboot in place
    /// opens and registers again.
    ///
    /// # Errors
    /// The first of what went wrong; the rest was tried all the same.
    pub fn release(&mut self) -> Result<(), BusError> {
        self.ask(&Request::Release, None).map(drop)
    }

    /// Readable when there is an [`Event`]. Before [`Registrar::close`] always a descriptor of the registrar's.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.wire {
            Some(wire) => wire.as_fd(),
            None => self.pidfd.as_fd(),
        }
    }

    /// The next event, without waiting. To be called until it gives `None`: whenever [`Registrar::fd`] is readable, and
    /// after each request, which may have met events on its way.
    ///
    /// # Errors
    /// What poll(2) and recvmsg(2) give.
    pub fn event(&mut self) -> io::Result<Option<Event>> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        let Some(wire) = &self.wire else { return Ok(None) };
        if !readable(wire.as_fd(), Duration::ZERO)? {
            return Ok(None);
        }
        match wire.receive::<Reply>()? {
            Some((Reply::Event(event), _)) => Ok(Some(event)),
            // An answer without a question: there is none in flight outside of `ask`.
            Some((Reply::Answer(_), _)) => Ok(None),
            None => {
                self.wire = None;
                Ok(Some(Event::Lost))
            }
        }
    }

    /// As [`Registrar::release`], then ends the registrar and waits for it.
    ///
    /// # Errors
    /// As [`Registrar::release`].
    pub fn close(mut self) -> Result<(), BusError> {
        let released = self.ask(&Request::Finish, None).map(drop);
        self.end();
        released
    }

    fn ask(&mut self, request: &Request, fd: Option<BorrowedFd<'_>>) -> Result<Answer, BusError> {
        let wire = self.wire.take().ok_or(BusError::Lost)?;
        match wire.send(request, fd.as_slice()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(BusError::Lost),
            other => other?,
        }
        let deadline = Instant::now() + self.limit;
        loop {
            if !readable(wire.as_fd(), deadline.saturating_duration_since(Instant::now()))? {
                return Err(BusError::TimedOut(said(request).to_owned()));
            }
            match wire.receive::<Reply>()? {
                Some((Reply::Event(event), _)) => self.events.push_back(event),
                Some((Reply::Answer(answer), _)) => {
                    self.wire = Some(wire);
                    return answer;
                }
                None => return Err(BusError::Lost),
            }
        }
    }

    /// Shows the registrar the end of file, waits for its end as long as for an answer, then kills and reaps it.
    fn end(&mut self) {
        self.wire = None;
        if !readable(self.pidfd.as_fd(), self.limit).unwrap_or(false) {
            // ESRCH: it ended since.
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
        // ECHILD: somebody reaped it, or it was.
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a request is for, as it stands after "no answer in time to".
fn said(request: &Request) -> &'static str {
    match request {
        Request::ClaimUnit(_) => "look for the scope",
        Request::ClaimMachine(_) => "look for the machine",
        Request::OpenUnit(_) => "make the scope",
        Request::Register(_) => "register the machine",
        Request::Release | Request::Finish => "unregister the machine",
    }
}

/// Waits until `fd` is readable or at its end; false when the time is over.
fn readable(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
