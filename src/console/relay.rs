//! The relay: in pipe mode, pipes in place of those of the caller's streams that are terminals.
//!
//! A payload that holds the user's terminal can type into it by `TIOCSTI`, wherever its root has CAP_SYS_ADMIN over that
//! terminal (man 2 ioctl_tty), and with it leave the machine. So it never gets one: the supervisor copies.
//! systemd-nspawn warns and passes it on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::pipe::PipeFlags;

use super::Flow;
use super::forward::Drained;
use super::queue::Queue;
use super::stream::{Direction, Stream};

/// So many reads and writes are done in one turn.
const ROUNDS: usize = 16;

/// The three descriptors that the payload gets. Close them in the supervisor once the leader has them: while they are open
/// here, the relay sees no end.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error; the same pipe as standard output where both are one terminal, so that the order is kept.
    pub stderr: OwnedFd,
}

/// Copies between the caller's terminals and the payload's pipes.
#[derive(Debug)]
pub struct Relay {
    typed: Option<Pump>,
    written: Vec<Pump>,
    flow: Flow,
}

/// One direction of one pipe.
#[derive(Debug)]
struct Pump {
    from: Option<Stream>,
    to: Option<Stream>,
    queue: Queue,
}

impl Relay {
    /// What the payload gets for the caller's standard input, output and error: a copy of each that is no terminal, a pipe
    /// for each that is one.
    ///
    /// # Errors
    /// What pipe(2) or dup(2) give.
    pub fn open(caller: [BorrowedFd<'_>; 3]) -> io::Result<(Streams, Self)> {
        let [stdin, stdout, stderr] = caller;
        let mut relay = Self { typed: None, written: Vec::new(), flow: Flow::Flowing };
        let stdin = if rustix::termios::isatty(stdin) {
            let (read_end, write_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            relay.typed = Some(Pump::new(Stream::open(stdin, Direction::In)?, Stream::own(write_end)?));
            read_end
        } else {
            copy(stdin)?
        };
        let out = relay.take_output(stdout)?;
        let error =
            if same_terminal(stdout, stderr)? { copy(out.as_fd())? } else { relay.take_output(stderr)? };
        Ok((Streams { stdin, stdout: out, stderr: error }, relay))
    }

    fn take_output(&mut self, fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        if !rustix::termios::isatty(fd) {
            return copy(fd);
        }
        let (read_end, write_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        self.written.push(Pump::new(Stream::own(read_end)?, Stream::open(fd, Direction::Out)?));
        Ok(write_end)
    }

    /// Whether what the user types is read.
    pub fn set_flow(&mut self, flow: Flow) {
        self.flow = flow;
    }

    /// What to poll for at present; ask again before each poll(2). Nothing when no stream is a terminal.
    pub fn interest(&self) -> impl Iterator<Item = PollFd<'_>> {
        let typed = self.typed.iter().flat_map(|pump| pump.interest(self.flow));
        typed.chain(self.written.iter().flat_map(|pump| pump.interest(Flow::Flowing)))
    }

    /// Moves what can be moved without waiting.
    pub fn turn(&mut self) {
        if let Some(pump) = &mut self.typed {
            pump.turn(self.flow);
        }
        for pump in &mut self.written {
            pump.turn(Flow::Flowing);
        }
    }

    /// After the payload's death: brings what it has written to the terminal, for as long as that takes, or until `stop` is
    /// readable.
    ///
    /// # Errors
    /// What poll(2) gives.
    pub fn drain(&mut self, stop: BorrowedFd<'_>) -> io::Result<Drained> {
        self.typed = None;
        loop {
            for pump in &mut self.written {
                while pump.turn(Flow::Flowing) {}
            }
            let mut set = vec![PollFd::new(stop, PollFlags::POLLIN)];
            set.extend(self.written.iter().filter_map(Pump::unwritten));
            if set.len() == 1 {
                return Ok(Drained::All);
            }
            match poll(&mut set, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if set[0].any() == Some(true) {
                return Ok(Drained::Interrupted);
            }
        }
    }
}

impl Pump {
    fn new(from: Stream, to: Stream) -> Self {
        Self { from: Some(from), to: Some(to), queue: Queue::new() }
    }

    fn interest(&self, flow: Flow) -> impl Iterator<Item = PollFd<'_>> {
        let reads = flow == Flow::Flowing && self.queue.room() > 0;
        let from =
            self.from.as_ref().filter(|_| reads).map(|from| PollFd::new(from.as_fd(), PollFlags::POLLIN));
        from.into_iter().chain(self.unwritten())
    }

    /// The far end, while something waits for it.
    fn unwritten(&self) -> Option<PollFd<'_>> {
        let to = self.to.as_ref().filter(|_| !self.queue.is_empty())?;
        Some(PollFd::new(to.as_fd(), PollFlags::POLLOUT))
    }

    /// Whether there may be more to move: a turn ends, so that a busy pipe cannot keep the loop from its signals.
    fn turn(&mut self, flow: Flow) -> bool {
        let more = (0..ROUNDS).all(|_| (flow == Flow::Flowing && self.read()) | self.write());
        if self.from.is_none() && self.queue.is_empty() {
            // Closed: the end of file for whoever reads it.
            self.to = None;
        }
        if self.to.is_none() {
            // Closed: who writes to it gets EPIPE, as with any pipe whose reader went.
            self.from = None;
            self.queue.clear();
        }
        more
    }

    /// Whether it read something.
    fn read(&mut self) -> bool {
        let Some(from) = self.from.as_ref().filter(|_| self.queue.room() > 0) else { return false };
        match self.queue.fill(|space| from.read(space)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(_) | Ok(0) => {
                self.from = None;
                false
            }
            Ok(_) => true,
        }
    }

    /// Whether it wrote something.
    fn write(&mut self) -> bool {
        let Some(to) = self.to.as_ref().filter(|_| !self.queue.is_empty()) else { return false };
        match self.queue.take(|bytes| to.write(bytes)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(_) => {
                self.to = None;
                false
            }
            Ok(count) => count > 0,
        }
    }
}

fn copy(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

fn same_terminal(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> io::Result<bool> {
    let (a, b) = (rustix::fs::fstat(one)?, rustix::fs::fstat(other)?);
    let both = rustix::termios::isatty(one) && rustix::termios::isatty(other);
    Ok(both && (a.st_dev, a.st_ino, a.st_rdev) == (b.st_dev, b.st_ino, b.st_rdev))
}

#[cfg(test)]
mod tests;
