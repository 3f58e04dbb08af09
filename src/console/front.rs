//! The front: the process that the user's shell started and waits for, when it was started on a terminal.
//!
//! It forks before anything else is done. The child leads a session of its own and is the supervisor; it reads and writes
//! the terminal through the descriptors that it inherited, and no job control stops it, for the terminal does not control
//! it (man 3 tcgetpgrp). The parent, the front, holds the terminal: it sets raw mode and takes it back on every way out,
//! the supervisor's SIGKILL as well. It passes on signals and window changes over a SOCK_SEQPACKET pair, and goes when the
//! supervisor ends or the user detaches. Should the front be killed, the supervisor takes raw mode back ([`FrontWire`]).
//!
//! Refused here: deciding what a signal means.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::unistd::Pid;
use rustix::io::retry_on_intr;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use super::Flow;
use super::terminal::Terminal;

/// What the front tells the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromFront {
    /// The terminal's window has another size.
    Resized,
    /// Somebody sent the front this signal, or typed it on a terminal that is not raw.
    Signal(Signal),
    /// The terminal is the supervisor's to read (`Flowing`), or the shell's (`Paused`). Nothing may be read before the
    /// first of these: [`super::Forwarder::set_flow`] to `Paused` at the start, then to what comes.
    Input(Flow),
    /// The front is gone; the terminal has been put back. Drop the wire now.
    Gone,
}

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

/// The packet by which the supervisor lets the front go.
const DETACHED: u8 = b'd';

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
    terminal: Terminal,
    flow: Flow,
}

impl FrontWire {
    /// For the child of the fork: the second of [`pair`], and the terminal as it was found before the fork.
    pub fn new(wire: OwnedFd, terminal: Terminal) -> Self {
        Self { wire, terminal, flow: Flow::Paused }
    }

    /// What to poll for POLLIN.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }

    /// The next message; `None` when there is none at present.
    ///
    /// # Errors
    /// What recv(2) gives; a packet that the front does not send.
    pub fn recv(&mut self) -> io::Result<Option<FromFront>> {
        let mut packet = [0; 2];
        let count = match retry_on_intr(|| rustix::net::recv(&self.wire, &mut packet, RecvFlags::empty())) {
            Ok((_, count)) => count,
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(errno) => return Err(errno.into()),
        };
        if count == 0 {
            // While it was the shell's turn, the terminal was the shell's to set.
            if self.flow == Flow::Flowing {
                // A terminal that went with the front cannot be put back, and need not be.
                let _ = self.terminal.restore();
            }
            return Ok(Some(FromFront::Gone));
        }
        let message = decode(packet)?;
        if let FromFront::Input(flow) = message {
            self.flow = flow;
        }
        Ok(Some(message))
    }

    /// Lets the front go; it puts the terminal back and exits. Its shell goes on at once.
    ///
    /// # Errors
    /// `EPIPE` when it is gone already.
    pub fn detach(self) -> io::Result<()> {
        retry_on_intr(|| rustix::net::send(&self.wire, &[DETACHED], SendFlags::NOSIGNAL))?;
        Ok(())
    }
}

/// Puts the terminal back when the front goes, whichever way.
struct Held {
    terminal: Terminal,
    wire: Option<OwnedFd>,
    flow: Flow,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.flow == Flow::Flowing {
            // EIO: it was hung up; there is nothing to put back.
            let _ = self.terminal.restore();
        }
    }
}

type Signals = SignalDelivery<UnixStream, SignalOnly>;

/// Holds `terminal` until `supervisor`, a child of the caller, ends or lets go; `wire` is the first of [`pair`].
///
/// # Errors
/// What tcsetattr(3), poll(2), pidfd_open(2) or waitid(2) give. The terminal is put back then, too.
pub fn run(supervisor: Pid, wire: OwnedFd, terminal: Terminal) -> io::Result<FrontEnd> {
    let child = rustix::process::Pid::from_raw(supervisor.as_raw()).ok_or(Errno::ESRCH)?;
    // No race: a child keeps its pid until it is waited for.
    let child = rustix::process::pidfd_open(child, PidfdFlags::empty())?;
    let (read_end, write_end) = UnixStream::pair()?;
    let caught = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP, SIGCONT];
    let mut signals = SignalDelivery::with_pipe(read_end, write_end, SignalOnly, caught)?;
    let mut held = Held { terminal, wire: Some(wire), flow: Flow::Paused };
    held.take()?;
    loop {
        let (let_go, ended) = wait(&held, &signals, &child)?;
        if let_go && held.let_go()? {
            return Ok(FrontEnd::Detached);
        }
        if ended {
            return reap(&child);
        }
        for signal in signals.pending().collect::<Vec<_>>() {
            held.pass_on(signal)?;
        }
    }
}

/// Waits for any of the three; whether the wire and the child have something.
fn wait(held: &Held, signals: &Signals, child: &OwnedFd) -> io::Result<(bool, bool)> {
    let mut set = vec![
        PollFd::new(child.as_fd(), PollFlags::POLLIN),
        PollFd::new(signals.get_read().as_fd(), PollFlags::POLLIN),
    ];
    set.extend(held.wire.iter().map(|wire| PollFd::new(wire.as_fd(), PollFlags::POLLIN)));
    match poll(&mut set, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let ready = |at: usize| set.get(at).is_some_and(|fd| fd.any() == Some(true));
    Ok((ready(2), ready(0)))
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

impl Held {
    /// Takes the terminal, unless the shell has it.
    fn take(&mut self) -> io::Result<()> {
        if self.flow == Flow::Paused && self.terminal.is_ours() {
            self.terminal.prepare()?;
            self.flow = Flow::Flowing;
            self.send(FromFront::Input(Flow::Flowing));
        }
        Ok(())
    }

    /// Gives the terminal to the shell and stops, as ^Z and `kill -TSTP` ask.
    fn stop(&mut self) -> io::Result<()> {
        if self.flow == Flow::Flowing {
            self.send(FromFront::Input(Flow::Paused));
            self.terminal.restore()?;
            self.flow = Flow::Paused;
        }
        Ok(raise(Signal::SIGSTOP)?)
    }

    fn pass_on(&mut self, signal: i32) -> io::Result<()> {
        match signal {
            SIGWINCH => self.send(FromFront::Resized),
            SIGTSTP => self.stop()?,
            SIGCONT => {
                self.send(FromFront::Resized);
                if self.flow == Flow::Flowing && self.terminal.is_ours() {
                    // SIGSTOP cannot be caught: the shell has set its own attributes in the meantime.
                    self.terminal.prepare()?;
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
    fn send(&mut self, message: FromFront) {
        let Some(wire) = &self.wire else { return };
        let _ = retry_on_intr(|| rustix::net::send(wire, &encode(message), SendFlags::NOSIGNAL));
    }

    /// Whether the supervisor lets the front go. At its end of file the wire is dropped: the supervisor's own end follows.
    fn let_go(&mut self) -> io::Result<bool> {
        let Some(wire) = &self.wire else { return Ok(false) };
        let mut packet = [0; 1];
        match retry_on_intr(|| rustix::net::recv(wire, &mut packet, RecvFlags::empty())) {
            Ok((_, 1)) if packet[0] == DETACHED => return Ok(true),
            Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET) => self.wire = None,
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(false)
    }
}

fn encode(message: FromFront) -> [u8; 2] {
    match message {
        FromFront::Resized => *b"w-",
        // Signal numbers end at 64 (man 7 signal).
        FromFront::Signal(signal) => [b's', u8::try_from(signal as i32).unwrap_or_default()],
        FromFront::Input(Flow::Flowing) => *b"i+",
        FromFront::Input(Flow::Paused) => *b"i-",
        FromFront::Gone => *b"--",
    }
}

fn decode(packet: [u8; 2]) -> io::Result<FromFront> {
    match packet {
        [b'w', _] => Ok(FromFront::Resized),
        [b's', number] => Ok(FromFront::Signal(Signal::try_from(i32::from(number))?)),
        [b'i', b'+'] => Ok(FromFront::Input(Flow::Flowing)),
        [b'i', b'-'] => Ok(FromFront::Input(Flow::Paused)),
        _ => Err(Errno::EBADMSG.into()),
    }
}

#[cfg(test)]
mod tests;
