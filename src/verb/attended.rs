//! A user at a process in a machine: the caller's terminal or pipes served until the process has ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use crate::console::{
    Ends, Event, Flow, Forwarder, FromFront, FrontEnd, FrontWire, Mode, Relay, Request, Streams, Terminal,
    front,
};
use crate::error::{Context, Result};
use crate::exit::Ended;
use crate::sys::{Forked, fork};

/// The signals that go on to the process: those by which people and programs end or poke one.
const PASSED_ON: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// So long a process may take to end after its terminal was hung up, milliseconds.
const HANG_UP: u16 = 2000;

/// On a terminal there are two processes: the front, which the user's shell waits for and which puts the terminal back
/// whatever happens, and the one that does `work`. Gives the exit code of that one.
///
/// # Errors
/// What fork(2) gives, and the terminal; in the child, `work`'s.
pub(super) fn on_terminal(
    terminal: Terminal,
    work: impl FnOnce(Option<FrontWire>) -> Result<u8>,
) -> Result<u8> {
    let (fronts, servers) = front::pair().context(|| "cannot make a socket")?;
    match fork().context(|| "cannot fork")? {
        Forked::Parent(server) => {
            drop(servers);
            match front::run(server, fronts, terminal).context(|| "cannot hold the terminal")? {
                FrontEnd::Detached => Ok(0),
                FrontEnd::Ended(code) => Ok(Ended::Exited(code).code()),
                FrontEnd::Killed(signal) => Ok(Ended::Killed(signal).code()),
            }
        }
        Forked::Child => {
            drop(fronts);
            nix::unistd::setsid().context(|| "cannot lead a session")?;
            work(Some(FrontWire::new(servers, terminal)))
        }
    }
}

/// How often is looked whether a session has begun, milliseconds.
const TICK: u16 = 5;
/// So long after its last word a process that was never seen is taken to have ended.
const SETTLED: Duration = Duration::from_millis(300);
/// So long a machine's systemd may take to start one.
const LATEST: Duration = Duration::from_secs(10);

/// The caller's side.
pub(super) struct Seat {
    line: Line,
    front: Option<FrontWire>,
    signals: SignalDelivery<UnixStream, SignalOnly>,
}

enum Line {
    Pty(Box<Forwarder>),
    Pipes(Relay),
}

/// What the far side is to be told.
enum Told {
    Signal(i32),
    HangUp,
    /// Nothing: it has hung up itself.
    Ended,
}

/// How the serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// What was watched has ended.
    Ended,
    /// The user, or whoever wants the end of osier, hung up.
    HungUp,
}

impl Seat {
    /// Takes the caller's streams as `mode` says; in pipe mode it gives those that the process gets.
    ///
    /// # Errors
    /// What dup(2), pipe(2) and sigaction(2) give.
    pub(super) fn take(mode: Mode, front: Option<FrontWire>) -> io::Result<(Self, Option<Streams>)> {
        let (read_end, write_end) = UnixStream::pair()?;
        let signals = SignalDelivery::with_pipe(read_end, write_end, SignalOnly, PASSED_ON)?;
        let flow = if front.is_some() { Flow::Paused } else { Flow::Flowing };
        if mode == Mode::Pipe {
            let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
            let (streams, mut relay) = Relay::open([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
            relay.set_flow(flow);
            return Ok((Self { line: Line::Pipes(relay), front, signals }, Some(streams)));
        }
        let mut forwarder = Forwarder::new(Ends::of_caller(mode)?);
        forwarder.set_flow(flow);
        Ok((Self { line: Line::Pty(Box::new(forwarder)), front, signals }, None))
    }

    /// Takes the master of the process's pty.
    ///
    /// # Errors
    /// As [`Forwarder::connect`].
    pub(super) fn connect(&mut self, master: OwnedFd) -> io::Result<()> {
        match &mut self.line {
            Line::Pty(forwarder) => forwarder.connect(master),
            Line::Pipes(_) => Ok(()),
        }
    }

    /// Serves until one of `ends` is readable, and what was written has reached its reader. `signal` passes one on.
    ///
    /// # Errors
    /// What poll(2) and the pty give; what `signal` does.
    pub(super) fn serve(
        mut self,
        ends: &[BorrowedFd<'_>],
        mut signal: impl FnMut(i32) -> io::Result<()>,
    ) -> io::Result<Left> {
        loop {
            if self.wait(ends, PollTimeout::NONE)? {
                self.finish()?;
                return Ok(Left::Ended);
            }
            match self.turn()? {
                None => {}
                Some(Told::Signal(number)) => signal(number)?,
                Some(Told::Ended) => {
                    self.finish()?;
                    return Ok(Left::Ended);
                }
                Some(Told::HangUp) => {
                    // The pty goes with its master: its foreground processes and their session get SIGHUP (man 7 pty).
                    self.line = Line::Pty(Box::new(Forwarder::new(Ends::new(None, None)?)));
                    signal(SIGHUP)?;
                    self.wait(ends, PollTimeout::from(HANG_UP))?;
                    return Ok(Left::HungUp);
                }
            }
        }
    }

    /// Serves a pty whose process is nobody's child here, until that process's session has begun and ended: then
    /// [`Seat::serve`] returns with the hang-up of the pty. One that ends before it is seen counts as ended once it has
    /// written and been gone for [`SETTLED`], or was never seen within [`LATEST`].
    ///
    /// Until then the pty is held open: it has a hang-up before anybody opens it, too.
    ///
    /// # Errors
    /// As [`Seat::serve`].
    pub(super) fn serve_until_hang_up(mut self, ends: &[BorrowedFd<'_>]) -> io::Result<Left> {
        let start = Instant::now();
        let mut last = None;
        while let Line::Pty(forwarder) = &mut self.line {
            let quiet = last.is_some_and(|last: Instant| last.elapsed() > SETTLED);
            if forwarder.session().is_some() || quiet || start.elapsed() > LATEST {
                forwarder.release();
                break;
            }
            let before = forwarder.carried();
            if self.wait(ends, PollTimeout::from(TICK))? {
                break;
            }
            if let Some(Told::HangUp) = self.turn()? {
                return Ok(Left::HungUp);
            }
            if matches!(&self.line, Line::Pty(forwarder) if forwarder.carried() > before) {
                last = Some(Instant::now());
            }
        }
        self.serve(ends, |_| Ok(()))
    }

    /// Whether one of `ends` is ready.
    fn wait(&self, ends: &[BorrowedFd<'_>], patience: PollTimeout) -> io::Result<bool> {
        let input = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds: Vec<_> = ends.iter().copied().map(input).collect();
        fds.push(input(self.signals.get_read().as_fd()));
        fds.extend(self.front.iter().map(|front| input(front.fd())));
        match &self.line {
            Line::Pty(forwarder) => fds.extend(forwarder.interest()),
            Line::Pipes(relay) => fds.extend(relay.interest()),
        }
        match poll(&mut fds, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(fds[..ends.len()].iter().any(|fd| fd.any() == Some(true)))
    }

    /// Moves what can be moved without waiting.
    fn turn(&mut self) -> io::Result<Option<Told>> {
        if let Some(number) = self.signals.pending().next() {
            // What runs on a terminal gets its signals from the keys; whoever wants the end of osier hangs it up.
            let hangs_up = matches!(self.line, Line::Pty(_)) && ![SIGUSR1, SIGUSR2].contains(&number);
            return Ok(Some(if hangs_up { Told::HangUp } else { Told::Signal(number) }));
        }
        if let Some(told) = self.hear_front()? {
            return Ok(Some(told));
        }
        let forwarder = match &mut self.line {
            Line::Pty(forwarder) => forwarder,
            Line::Pipes(relay) => {
                relay.turn();
                return Ok(None);
            }
        };
        while let Some(event) = forwarder.turn()? {
            match event {
                Event::Request(Request::Stop | Request::Detach) => return Ok(Some(Told::HangUp)),
                Event::HungUp => return Ok(Some(Told::Ended)),
                Event::Request(_) | Event::ReaderGone(_) | Event::InputEnded => {}
            }
        }
        Ok(None)
    }

    fn hear_front(&mut self) -> io::Result<Option<Told>> {
        while let Some(front) = &mut self.front {
            match (front.recv()?, &mut self.line) {
                (None, _) => break,
                (Some(FromFront::Shown), _) => {}
                (Some(FromFront::Resized), Line::Pty(forwarder)) => forwarder.follow_window()?,
                (Some(FromFront::Resized), Line::Pipes(_)) => {}
                (Some(FromFront::Input(flow)), Line::Pty(forwarder)) => forwarder.set_flow(flow),
                (Some(FromFront::Input(flow)), Line::Pipes(relay)) => relay.set_flow(flow),
                // On a pty ^C comes as a byte: a signal to the front means the front.
                (Some(FromFront::Signal(_)), Line::Pty(_)) => return Ok(Some(Told::HangUp)),
                (Some(FromFront::Signal(signal)), Line::Pipes(_)) => {
                    return Ok(Some(Told::Signal(signal as i32)));
                }
                (Some(FromFront::Gone), _) => {
                    self.front = None;
                    return Ok(Some(Told::HangUp));
                }
            }
        }
        Ok(None)
    }

    /// Brings what was written to its reader; what the process left running may go on to write, and nobody waits for that.
    fn finish(&mut self) -> io::Result<()> {
        let stop = self.signals.get_read().as_fd();
        match &mut self.line {
            Line::Pty(forwarder) => forwarder.drain(stop).map(drop),
            Line::Pipes(relay) => relay.drain(stop).map(drop),
        }
    }
}
