//! The front: the process that the user's shell started and waits for, when it was started on a terminal.
//!
//! It forks before anything else is done. The child leads a session of its own and is the supervisor; it reads and writes
//! the terminal through the descriptors that it inherited, and no job control stops it, for the terminal does not control
//! it (man 3 tcgetpgrp). The parent, the front, holds the terminal: it sets raw mode and takes it back on every way out,
//! the supervisor's SIGKILL as well. It passes on signals and window changes over a SOCK_SEQPACKET pair, and goes when the
//! supervisor ends or the user detaches. Should the front be killed, the supervisor takes raw mode back ([`FrontWire`]).
//!
//! Refused here: deciding what a signal means.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::unistd::Pid;
use rustix::io::retry_on_intr;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use super::Flow;
use super::protocol::{FromFront, Snapshot, ToFront, receive, send};
use super::replay::Replay;
use super::terminal::{Keys, Terminal};

/// How the front's waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontEnd {
    /// The user detached; the supervisor goes on.
    Detached,
    /// The supervisor exited with this status.
    Ended(i32),
    /// A signal killed the supervisor.
    Killed(i32),
}

/// The two ends of the wire: the front's for [`run`], the supervisor's for [`FrontWire::new`]. After the fork each side
/// drops the other's.
///
/// # Errors
/// What socketpair(2) gives.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The supervisor's end of the wire, and the terminal that it puts back when the front could not.
#[derive(Debug)]
pub struct FrontWire {
    wire: OwnedFd,
    terminal: Option<Terminal>,
    flow: Flow,
}

impl FrontWire {
    /// For the child of the fork: the second of [`pair`], and the terminal as it was found before the fork.
    pub fn new(wire: OwnedFd, terminal: Terminal) -> Self {
        Self::attached(wire, Some(terminal))
    }

    /// For a front that has connected; its streams need not be a terminal.
    pub(super) fn attached(wire: OwnedFd, terminal: Option<Terminal>) -> Self {
        Self { wire, terminal, flow: Flow::Paused }
    }

    /// What to poll for POLLIN.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }

    /// The next message; `None` when there is none at present.
    ///
    /// # Errors
    /// What recvmsg(2) gives; a packet that the front does not send.
    pub fn recv(&mut self) -> io::Result<Option<FromFront>> {
        let message = match receive(&self.wire) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            packet => FromFront::decode(&packet?)?,
        };
        match (message, &self.terminal) {
            (FromFront::Input(flow), _) => self.flow = flow,
            // While it was the shell's turn, the terminal was the shell's to set. One that went with the front cannot be put
            // back, and need not be.
            (FromFront::Gone, Some(terminal)) if self.flow == Flow::Flowing => drop(terminal.restore()),
            _ => {}
        }
        Ok(Some(message))
    }

    /// Tells the front something, with the screen where it is to show it or to leave it.
    ///
    /// # Errors
    /// `EPIPE` when it is gone; `WouldBlock` when it does not listen.
    pub fn tell(&self, told: ToFront, screen: Option<&Snapshot>) -> io::Result<()> {
        told.send(&self.wire, screen)
    }

    /// Lets the front go; it puts the terminal back and exits. Its shell goes on at once.
    ///
    /// # Errors
    /// `EPIPE` when it is gone already.
    pub fn detach(self, screen: Option<&Snapshot>) -> io::Result<()> {
        self.tell(ToFront::Detached, screen)
    }
}

/// Puts the terminal back when the front goes, whichever way.
pub(super) struct Held {
    terminal: Option<Terminal>,
    wire: Option<OwnedFd>,
    flow: Flow,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let (Flow::Flowing, Some(terminal)) = (self.flow, &self.terminal) {
            // EIO: it was hung up; there is nothing to put back.
            let _ = terminal.restore();
        }
    }
}

/// The signals that a front waits for.
pub(super) type Signals = SignalDelivery<UnixStream, SignalOnly>;

/// Catches them.
pub(super) fn catch() -> io::Result<Signals> {
    let (read_end, write_end) = UnixStream::pair()?;
    let caught = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP, SIGCONT];
    SignalDelivery::with_pipe(read_end, write_end, SignalOnly, caught)
}

/// Holds `terminal` until `supervisor`, a child of the caller, ends or lets go; `wire` is the first of [`pair`].
///
/// # Errors
/// What tcsetattr(3), poll(2), pidfd_open(2) or waitid(2) give. The terminal is put back then, too.
pub fn run(supervisor: Pid, wire: OwnedFd, terminal: Terminal) -> io::Result<FrontEnd> {
    let child = rustix::process::Pid::from_raw(supervisor.as_raw()).ok_or(Errno::ESRCH)?;
    // No race: a child keeps its pid until it is waited for.
    let child = rustix::process::pidfd_open(child, PidfdFlags::empty())?;
    let mut signals = catch()?;
    let mut held = Held::new(Some(terminal), wire);
    held.take()?;
    loop {
        let woken = held.wait(&signals, Some(child.as_fd()))?;
        if woken.told
            && let Some((ToFront::Detached, screen)) = held.hear()?
        {
            leave(held, screen.as_ref());
            return Ok(FrontEnd::Detached);
        }
        if woken.child_ended {
            return reap(&child);
        }
        for signal in signals.pending().collect::<Vec<_>>() {
            held.pass_on(signal)?;
        }
    }
}

/// Gives the terminal back after a detach, without the modes that the console's programs have set.
pub(super) fn leave(held: Held, screen: Option<&Snapshot>) {
    let shows = held.terminal.as_ref().is_some_and(Terminal::is_output);
    drop(held);
    if let Some(Ok((bytes, rows, columns))) = screen.filter(|_| shows).map(Snapshot::read) {
        // A terminal that does not take it is in no state that could be helped.
        let _ = io::stdout().write_all(Replay::of(&bytes, rows, columns).farewell().as_bytes());
        let _ = io::stdout().flush();
    }
}

fn reap(child: &OwnedFd) -> io::Result<FrontEnd> {
    let status =
        retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED))?;
    let status = status.ok_or(Errno::ECHILD)?;
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => FrontEnd::Ended(code),
        (None, Some(signal)) => FrontEnd::Killed(signal),
        (None, None) => return Err(Errno::ECHILD.into()),
    })
}

/// What ended a wait.
pub(super) struct Woken {
    /// The supervisor said something, or is gone.
    pub(super) told: bool,
    child_ended: bool,
}

impl Held {
    pub(super) fn new(terminal: Option<Terminal>, wire: OwnedFd) -> Self {
        Self { terminal, wire: Some(wire), flow: Flow::Paused }
    }

    /// Waits for the supervisor's word, a signal, the child's end.
    pub(super) fn wait(&self, signals: &Signals, child: Option<BorrowedFd<'_>>) -> io::Result<Woken> {
        let input = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut set = vec![input(signals.get_read().as_fd())];
        set.extend(child.map(input));
        set.extend(self.wire.iter().map(|wire| input(wire.as_fd())));
        match poll(&mut set, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = |at: usize| set.get(at).is_some_and(|fd| fd.any() == Some(true));
        let children = usize::from(child.is_some());
        Ok(Woken { told: ready(1 + children), child_ended: child.is_some() && ready(1) })
    }

    /// Takes the terminal, unless the shell has it.
    pub(super) fn take(&mut self) -> io::Result<()> {
        if self.flow == Flow::Paused && self.is_ours() {
            // Said before it is so: killed in between, the front leaves a supervisor that puts the terminal back.
            self.flow = Flow::Flowing;
            self.send(FromFront::Input(Flow::Flowing));
            self.prepare()?;
        }
        Ok(())
    }

    /// What happens to keys from now on.
    pub(super) fn set_keys(&mut self, keys: Keys) -> io::Result<()> {
        if let Some(terminal) = &mut self.terminal {
            terminal.set_keys(keys);
        }
        if self.flow == Flow::Flowing && self.is_ours() { self.prepare() } else { Ok(()) }
    }

    fn is_ours(&self) -> bool {
        self.terminal.as_ref().is_none_or(Terminal::is_ours)
    }

    fn prepare(&self) -> io::Result<()> {
        self.terminal.as_ref().map_or(Ok(()), Terminal::prepare)
    }

    /// Gives the terminal to the shell and stops, as ^Z and `kill -TSTP` ask.
    fn stop(&mut self) -> io::Result<()> {
        if self.flow == Flow::Flowing {
            self.send(FromFront::Input(Flow::Paused));
            self.terminal.as_ref().map_or(Ok(()), Terminal::restore)?;
            self.flow = Flow::Paused;
        }
        Ok(raise(Signal::SIGSTOP)?)
    }

    /// Does what a signal asks; one that asks for the end is the supervisor's business.
    pub(super) fn pass_on(&mut self, signal: i32) -> io::Result<()> {
        match signal {
            SIGWINCH => self.send(FromFront::Resized),
            SIGTSTP => self.stop()?,
            SIGCONT => {
                self.send(FromFront::Resized);
                if self.flow == Flow::Flowing && self.is_ours() {
                    // SIGSTOP cannot be caught: the shell has set its own attributes in the meantime.
                    self.prepare()?;
                }
                self.take()?;
            }
            other => {
                if let Ok(signal) = Signal::try_from(other) {
                    self.send(FromFront::Signal(signal));
                }
            }
        }
        Ok(())
    }

    /// A supervisor that cannot take a message now is ending, or stopped by somebody who means it.
    pub(super) fn send(&mut self, message: FromFront) {
        let Some(wire) = &self.wire else { return };
        let _ = send(wire, &message.encode(), &[]);
    }

    /// What the supervisor says. At its end of file the wire is dropped: the supervisor's own end follows.
    pub(super) fn hear(&mut self) -> io::Result<Option<(ToFront, Option<Snapshot>)>> {
        let Some(wire) = &self.wire else { return Ok(None) };
        match receive(wire) {
            Ok(packet) if packet.length == 0 => self.wire = None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            packet => return ToFront::decode(packet?).map(Some),
        }
        Ok(None)
    }

    /// Whether the supervisor is gone.
    pub(super) fn is_alone(&self) -> bool {
        self.wire.is_none()
    }
}

#[cfg(test)]
mod tests;
