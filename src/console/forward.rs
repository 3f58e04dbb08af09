//! The forwarder: bytes between a pty's master and the caller's standard input and output, for a poll(2) loop.
//!
//! The loop is the supervisor's: it polls for [`Forwarder::interest`] beside its own descriptors and calls
//! [`Forwarder::turn`] when something is ready. Each direction has a bounded queue. A queue that is full is not read
//! into, so a slow reader slows the payload, and no byte is lost or doubled. Once the reader is gone the master is still
//! emptied, so that the payload never waits for nobody.
//!
//! Terminals that are attached to the console later are the audience's: of what is read each gets its part, and who of
//! them has the keyboard holds up the reading as the caller does.
//!
//! A hang-up of the pty is never the end of a machine (gettys and PID 1 close and open the console as they like), and a
//! master whose slave is closed would make poll(2) return at once for ever. The forwarder holds the slave open itself,
//! through vhangup(2) too, so that this cannot come; the end is the leader's death, then [`Forwarder::drain`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::Pid;
use rustix::termios::{LocalModes, SpecialCodeIndex, Winsize};

use super::audience::{Audience, Keyboard};
use super::escape::{Escapes, Request};
use super::listener::Listener;
use super::log::Log;
use super::queue::Queue;
use super::stream::{self, Direction, Stream};
use super::{Flow, Mode, Snapshot, pty};

/// So many full queues are moved in one turn, so that a busy console cannot keep the loop from its signals.
const ROUNDS: usize = 16;
/// So much is read of what the user types at once.
const TYPED: usize = 4096;
/// So long attached terminals may take to show the end of a machine.
const FAREWELL: Duration = Duration::from_secs(3);
/// What a console has that nobody has given another size.
const SIZE: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// What the forwarder has to tell its loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The user typed an escape. After [`Request::Detach`] nothing more is read; call [`Forwarder::detach`].
    Request(Request),
    /// Output can no longer be written, for this reason; the payload's is thrown away from now on.
    ReaderGone(Errno),
    /// Input is at its end.
    InputEnded,
    /// Nobody has the slave open any more, and what was written to it has been read; only after
    /// [`Forwarder::release`].
    HungUp,
}

/// How [`Forwarder::drain`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Everything reached the reader.
    All,
    /// The caller's descriptor became readable first.
    Interrupted,
    /// There is no reader.
    ReaderGone,
}

/// The caller's ends of a console.
#[derive(Debug)]
pub struct Ends {
    input: Option<Stream>,
    output: Option<Stream>,
}

impl Ends {
    /// Those of this process that `mode` connects: standard input and output, output only, or none.
    ///
    /// # Errors
    /// What dup(2) gives; a descriptor that is closed.
    pub fn of_caller(mode: Mode) -> io::Result<Self> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        match mode {
            Mode::Interactive => Self::new(Some(stdin.as_fd()), Some(stdout.as_fd())),
            Mode::ReadOnly => Self::new(None, Some(stdout.as_fd())),
            Mode::Passive | Mode::Pipe => Self::new(None, None),
        }
    }

    /// These descriptors, whose file descriptions stay as they are.
    ///
    /// # Errors
    /// What dup(2) gives.
    pub fn new(input: Option<BorrowedFd<'_>>, output: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        Ok(Self {
            input: input.map(|fd| Stream::open(fd, Direction::In)).transpose()?,
            output: output.map(|fd| Stream::open(fd, Direction::Out)).transpose()?,
        })
    }
}

/// A master, and its slave held open against hang-ups, until these are wanted.
#[derive(Debug)]
struct Line {
    master: OwnedFd,
    hold: Hold,
}

/// Whether the slave is held open.
#[derive(Debug)]
enum Hold {
    /// It is: there is no hang-up.
    Held { _slave: OwnedFd },
    /// It is not any more.
    Released,
    /// It is not, and was hung up.
    HungUp,
}

/// See the [module's](self) page.
#[derive(Debug)]
pub struct Forwarder {
    ends: Ends,
    audience: Audience,
    line: Option<Line>,
    inbound: Queue,
    outbound: Queue,
    escapes: Escapes,
    flow: Flow,
    /// Input ended, and the payload is still to be told.
    end_due: bool,
    last_typed: u8,
    carried: u64,
    events: VecDeque<Event>,
}

/// How far one direction got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// There is nothing left to move.
    Dry,
    /// Who is to take it has no room.
    Waiting,
    /// There may be more.
    More,
}

impl Forwarder {
    /// A forwarder with the caller's ends and no pty yet; reads nothing until [`Forwarder::connect`].
    pub fn new(ends: Ends) -> Self {
        Self {
            ends,
            audience: Audience::default(),
            line: None,
            inbound: Queue::new(),
            outbound: Queue::new(),
            escapes: Escapes::default(),
            flow: Flow::Flowing,
            end_due: false,
            last_typed: b'\n',
            carried: 0,
            events: VecDeque::new(),
        }
    }

    /// Other terminals can be attached through `listener` from now on.
    pub fn admit(&mut self, listener: Listener) {
        self.audience.admit(listener);
    }

    /// Writes what the console writes into `log`, too.
    pub fn keep(&mut self, log: Log) {
        self.audience.keep(log);
    }

    /// Takes the master of a machine's pty, gives it the caller's window size and starts. After a reboot in place the
    /// next machine's master takes the place of the last; what was typed for the last one is not passed on to it.
    ///
    /// # Errors
    /// What `TIOCGPTPEER` gives, or fcntl(2).
    pub fn connect(&mut self, master: OwnedFd) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK)?;
        let slave = pty::open_peer(&master)?;
        self.line = Some(Line { master, hold: Hold::Held { _slave: slave } });
        self.inbound.clear();
        self.follow_window()
    }

    /// Gives the pty the window size of the terminal that has the keyboard, else of the caller's. Where there is neither it
    /// keeps the size that it has; at first 80 columns and 24 rows.
    ///
    /// # Errors
    /// What `TIOCSWINSZ` gives.
    pub fn follow_window(&self) -> io::Result<()> {
        let Some(line) = &self.line else { return Ok(()) };
        let ends = [&self.ends.output, &self.ends.input];
        let own = || ends.into_iter().flatten().find_map(|end| pty::window_size(end).ok());
        let size = self.audience.window().or_else(own).unwrap_or_else(|| self.size());
        pty::set_window_size(&line.master, size)
    }

    fn size(&self) -> Winsize {
        let size = self.line.as_ref().and_then(|line| pty::window_size(&line.master).ok());
        size.filter(|size| size.ws_row > 0 && size.ws_col > 0).unwrap_or(SIZE)
    }

    /// The caller's input comes first.
    fn keyboard(&self) -> Keyboard {
        if self.ends.input.is_some() { Keyboard::Taken } else { Keyboard::Free }
    }

    /// The session whose controlling terminal the pty is; `None` while it is nobody's.
    pub fn session(&self) -> Option<Pid> {
        rustix::termios::tcgetsid(&self.line.as_ref()?.master).ok()
    }

    /// So many bytes have come from the pty.
    pub fn carried(&self) -> u64 {
        self.carried
    }

    /// From here on the pty's hang-up is an event, [`Event::HungUp`].
    pub fn release(&mut self) {
        if let Some(line) = &mut self.line {
            line.hold = Hold::Released;
        }
    }

    /// Whether what the user types is read; see [`super::FromFront::Input`].
    pub fn set_flow(&mut self, flow: Flow) {
        self.flow = flow;
    }

    /// Lets go of the caller's ends; the pty is emptied from now on and what comes is thrown away.
    pub fn detach(&mut self) {
        self.ends = Ends { input: None, output: None };
        self.inbound.clear();
        self.outbound.clear();
        self.events.clear();
        self.flow = Flow::Flowing;
    }

    /// The screen as it is, for who leaves it.
    ///
    /// # Errors
    /// What memfd_create(2) or write(2) give.
    pub fn snapshot(&self) -> io::Result<Snapshot> {
        self.audience.snapshot(self.size())
    }

    /// No other terminal can be attached any more.
    ///
    /// # Errors
    /// As [`Listener::close`].
    pub fn shut(&mut self) -> io::Result<()> {
        self.audience.shut()
    }

    /// The attached terminals are let go: the machine has ended with this exit code.
    pub fn tell_end(&mut self, code: u8) {
        self.audience.tell_end(code);
    }

    /// What to poll for at present. Ask again before each poll(2): a descriptor without a purpose is left out, because
    /// its hang-up would end the wait at once.
    pub fn interest(&self) -> impl Iterator<Item = PollFd<'_>> {
        let mut on_master = PollFlags::empty();
        on_master.set(PollFlags::POLLIN, self.outbound.room() > 0 && self.audience.room() > 0);
        on_master.set(PollFlags::POLLOUT, !self.inbound.is_empty());
        let master = self.line.as_ref().map(|line| (line.master.as_fd(), on_master));
        let reads = self.line.is_some() && self.flow == Flow::Flowing && self.inbound.room() > 0;
        let input = self.ends.input.as_ref().filter(|_| reads).map(|end| (end.as_fd(), PollFlags::POLLIN));
        let writes = !self.outbound.is_empty();
        let output =
            self.ends.output.as_ref().filter(|_| writes).map(|end| (end.as_fd(), PollFlags::POLLOUT));
        let wanted = [master, input, output].into_iter().flatten();
        let own = wanted.filter(|(_, events)| !events.is_empty()).map(|(fd, events)| PollFd::new(fd, events));
        own.chain(self.audience.interest(self.inbound.room()))
    }

    /// Moves what can be moved without waiting, and says what happened; call it until it gives `None`.
    ///
    /// # Errors
    /// Only what reading or writing the pty's master gives, and that is no ordinary end.
    pub fn turn(&mut self) -> io::Result<Option<Event>> {
        self.attached()?;
        self.inward()?;
        self.outward()?;
        Ok(self.events.pop_front())
    }

    /// From and for the attached terminals, but for what the console writes.
    fn attached(&mut self) -> io::Result<()> {
        if self.line.is_none() || self.audience.is_closed() {
            return Ok(());
        }
        let (keyboard, size) = (self.keyboard(), self.size());
        let heard = self.audience.turn(keyboard, &mut self.inbound, size);
        self.events.extend(heard.requests.into_iter().map(Event::Request));
        if heard.window { self.follow_window() } else { Ok(()) }
    }

    /// After the leader's death: brings everything that is left in the pty and on the way to the reader, for as long as
    /// that takes, or until `stop` is readable. Attached terminals have three seconds.
    ///
    /// # Errors
    /// As [`Forwarder::turn`]; what poll(2) gives.
    pub fn drain(&mut self, stop: BorrowedFd<'_>) -> io::Result<Drained> {
        let deadline = Instant::now() + FAREWELL;
        loop {
            let progress = self.outward()?;
            let left = deadline.saturating_duration_since(Instant::now());
            let mut waiting: Vec<_> = self.audience.unwritten().collect();
            let timeout = match progress {
                Progress::More => PollTimeout::ZERO,
                _ if !waiting.is_empty() && left.is_zero() => {
                    drop(waiting);
                    self.audience.give_up();
                    continue;
                }
                _ if !waiting.is_empty() => PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
                Progress::Dry if self.ends.output.is_some() => return Ok(Drained::All),
                Progress::Dry => return Ok(Drained::ReaderGone),
                Progress::Waiting => PollTimeout::NONE,
            };
            let mut set = vec![PollFd::new(stop, PollFlags::POLLIN)];
            let output = self.ends.output.as_ref().filter(|_| !self.outbound.is_empty());
            set.extend(output.map(|output| PollFd::new(output.as_fd(), PollFlags::POLLOUT)));
            set.append(&mut waiting);
            match poll(&mut set, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if set[0].any() == Some(true) {
                return Ok(Drained::Interrupted);
            }
        }
    }

    /// From the pty to its readers.
    fn outward(&mut self) -> io::Result<Progress> {
        let Some(line) = &mut self.line else { return Ok(Progress::Dry) };
        for _ in 0..ROUNDS {
            let room = self.outbound.room();
            let filled = fill(&mut self.outbound, &mut self.audience, &line.master);
            self.carried += (room - self.outbound.room()) as u64;
            let source = match (filled, &line.hold) {
                (source, Hold::Held { .. }) => source?,
                // What was written before is in the queue by now.
                (Err(error), hold) if error.raw_os_error() == Some(libc::EIO) => {
                    if matches!(hold, Hold::Released) {
                        line.hold = Hold::HungUp;
                        self.events.push_back(Event::HungUp);
                    }
                    Progress::Dry
                }
                (source, _) => source?,
            };
            self.audience.write();
            match &self.ends.output {
                None => self.outbound.clear(),
                Some(output) => match empty(&mut self.outbound, output) {
                    Ok(Progress::Waiting) => return Ok(Progress::Waiting),
                    Ok(_) => {}
                    Err(error) => {
                        self.events.push_back(Event::ReaderGone(errno(&error)));
                        self.ends.output = None;
                    }
                },
            }
            if source == Progress::Dry || source == Progress::Waiting && self.audience.room() == 0 {
                return Ok(source);
            }
        }
        Ok(Progress::More)
    }

    /// From the user to the pty.
    fn inward(&mut self) -> io::Result<()> {
        for _ in 0..ROUNDS {
            let read = self.read_input();
            let Some(line) = &self.line else { return Ok(()) };
            if self.end_due && self.inbound.is_empty() {
                self.end_due = false;
                self.inbound.push(&end_of_file(&line.master, self.last_typed));
            }
            while !self.inbound.is_empty() {
                match self.inbound.take(|bytes| stream::write(&line.master, bytes)) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            if read != Progress::More {
                return Ok(());
            }
        }
        Ok(())
    }

    fn read_input(&mut self) -> Progress {
        let Some(input) = &self.ends.input else { return Progress::Dry };
        let space = self.inbound.room().min(TYPED);
        if self.line.is_none() || self.flow == Flow::Paused || space == 0 {
            return Progress::Waiting;
        }
        let mut typed = [0; TYPED];
        match input.read(&mut typed[..space]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Dry,
            // EIO: the terminal was hung up (man 3 termios); no other failure of an input leaves more to read either.
            Err(_) | Ok(0) => {
                // Who hangs up a terminal types no ^D; at the end of a pipe the payload waits for one.
                self.end_due = !input.is_terminal();
                self.ends.input = None;
                self.events.push_back(Event::InputEnded);
                return Progress::Dry;
            }
            Ok(count) => self.typed(&typed[..count]),
        }
        Progress::More
    }

    fn typed(&mut self, mut bytes: &[u8]) {
        let now = Instant::now();
        while !bytes.is_empty() {
            let scan = self.escapes.scan(bytes, now);
            self.inbound.push(&bytes[..scan.pass]);
            self.last_typed = bytes[..scan.pass].last().copied().unwrap_or(self.last_typed);
            bytes = &bytes[scan.taken..];
            let Some(request) = scan.request else { continue };
            self.events.push_back(Event::Request(request));
            if request == Request::Detach {
                // What follows is for whoever has the terminal next.
                self.flow = Flow::Paused;
                return;
            }
        }
    }
}

/// Reads the master until it is dry or who is to take it has no room.
fn fill(queue: &mut Queue, audience: &mut Audience, master: &OwnedFd) -> io::Result<Progress> {
    while queue.room() > 0 {
        let room = audience.room();
        if room == 0 {
            return Ok(Progress::Waiting);
        }
        let read = queue.fill(|space| {
            let space = if space.len() > room { &mut space[..room] } else { space };
            stream::read(master, space)
        });
        match read {
            Ok(0) => return Ok(Progress::Dry),
            Ok(count) => audience.hear(queue.last(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Dry),
            Err(error) => return Err(error),
        }
    }
    Ok(Progress::More)
}

/// Writes what the reader takes.
fn empty(queue: &mut Queue, output: &Stream) -> io::Result<Progress> {
    while !queue.is_empty() {
        match queue.take(|bytes| output.write(bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Waiting),
            Err(error) => return Err(error),
        }
    }
    Ok(Progress::Dry)
}

/// What to type for an end of file: VEOF ends a line that is begun, and means the end only at the start of one
/// (man 3 termios). Nothing where the payload does not read lines.
fn end_of_file(master: &OwnedFd, last_typed: u8) -> Vec<u8> {
    match rustix::termios::tcgetattr(master) {
        Ok(attributes) if attributes.local_modes.contains(LocalModes::ICANON) => {
            let key = attributes.special_codes[SpecialCodeIndex::VEOF];
            if last_typed == b'\n' { vec![key] } else { vec![key, key] }
        }
        _ => Vec::new(),
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests;
