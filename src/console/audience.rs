//! The terminals that were attached to a running machine's console.
//!
//! One of them at most has the keyboard, the one attached longest that wants it, and none while the terminal that the
//! machine was started on has it. Who has the keyboard gets every byte: while its terminal takes no more, the console is
//! not read. Who watches gets what it can take, and is told of what it could not.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::termios::Winsize;

use super::escape::{Escapes, Request};
use super::listener::Listener;
use super::log::Log;
use super::protocol::{FromFront, Hello, Role, Snapshot, ToFront, receive};
use super::queue::Queue;
use super::ring::Ring;
use super::stream::{Direction, Stream};
use super::{Flow, FrontWire, Mode, Terminal, pty};

/// So many may be attached at once: each holds some descriptors of the supervisor's.
const MOST: usize = 64;
/// So much is read of what a user types at once.
const TYPED: usize = 4096;

/// What came of it, for the console.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Escapes of who has the keyboard.
    pub(super) requests: Vec<Request>,
    /// The console's window is now another's, or has another size.
    pub(super) window: bool,
}

/// Whether the keyboard is there to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keyboard {
    /// An attached terminal can have it.
    Free,
    /// The terminal that the machine was started on has it.
    Taken,
}

/// See the [module's](self) page.
#[derive(Debug, Default)]
pub(super) struct Audience {
    listener: Option<Listener>,
    /// Connected; they have not said yet what they want.
    arriving: Vec<OwnedFd>,
    /// In the order of their coming.
    seats: Vec<Seat>,
    ring: Ring,
    log: Option<Log>,
}

/// An attached terminal.
#[derive(Debug)]
struct Seat {
    wire: FrontWire,
    flow: Flow,
    role: Role,
    input: Option<Stream>,
    output: Option<Stream>,
    queue: Queue,
    /// The screen so far was shown.
    shown: bool,
    /// So many bytes did not fit into the queue.
    lost: usize,
    escapes: Escapes,
}

/// What one seat has to say.
enum Said {
    Nothing,
    Asks(Request),
    Resized,
    Left,
}

impl Audience {
    /// Lets in who knocks at `listener`; without one nothing is kept to be shown either.
    pub(super) fn admit(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    /// Writes what the console writes into `log`, too.
    pub(super) fn keep(&mut self, log: Log) {
        self.log = Some(log);
    }

    /// Whether nobody is here and nobody can come.
    pub(super) fn is_closed(&self) -> bool {
        self.listener.is_none() && self.seats.is_empty()
    }

    /// Nobody else is let in.
    ///
    /// # Errors
    /// As [`Listener::close`].
    pub(super) fn shut(&mut self) -> io::Result<()> {
        self.arriving.clear();
        self.listener.take().map_or(Ok(()), Listener::close)
    }

    /// What to poll for; of what is typed nothing while the machine takes no more (`room` is 0).
    pub(super) fn interest(&self, room: usize) -> impl Iterator<Item = PollFd<'_>> {
        let input = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let listener = self.listener.iter().map(move |listener| input(listener.fd()));
        let arriving = self.arriving.iter().map(move |socket| input(socket.as_fd()));
        let seats = self.seats.iter().flat_map(move |seat| {
            let reads = seat.flow == Flow::Flowing && (seat.role != Role::Keyboard || room > 0);
            let typed = seat.input.as_ref().filter(|_| reads).map(|typed| input(typed.as_fd()));
            std::iter::once(input(seat.wire.fd())).chain(typed)
        });
        listener.chain(arriving).chain(seats).chain(self.unwritten())
    }

    /// The terminals for which there is something, and that may take it later.
    pub(super) fn unwritten(&self) -> impl Iterator<Item = PollFd<'_>> {
        let waiting = self.seats.iter().filter(|seat| seat.shown && !seat.queue.is_empty());
        let outputs = waiting.filter_map(|seat| seat.output.as_ref());
        outputs.map(|output| PollFd::new(output.as_fd(), PollFlags::POLLOUT))
    }

    /// So much can be read of the console before who has the keyboard has to take some of it.
    pub(super) fn room(&self) -> usize {
        let keyboard = self.seats.iter().find(|seat| seat.role == Role::Keyboard && seat.is_served());
        keyboard.map_or(usize::MAX, |seat| seat.queue.room())
    }

    /// Takes in what the console has written.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        if self.listener.is_some() {
            self.ring.push(bytes);
        }
        if let Some(log) = &mut self.log {
            log.write(bytes);
        }
        self.seats.iter_mut().for_each(|seat| seat.hear(bytes));
    }

    /// Writes what the terminals take.
    pub(super) fn write(&mut self) {
        self.seats.iter_mut().for_each(Seat::write);
    }

    /// The screen as it is, on a console of this size.
    ///
    /// # Errors
    /// What memfd_create(2) or write(2) give.
    pub(super) fn snapshot(&self, size: Winsize) -> io::Result<Snapshot> {
        Snapshot::of(&self.ring, size)
    }

    /// Lets in who has knocked, hears what the fronts say, and puts what is typed into `typed`.
    pub(super) fn turn(&mut self, keyboard: Keyboard, typed: &mut Queue, size: Winsize) -> Heard {
        let mut heard = Heard::default();
        heard.window |= self.let_in(keyboard, size);
        let mut at = 0;
        while let Some(seat) = self.seats.get_mut(at) {
            let said = match seat.hear_front() {
                Said::Nothing => seat.read(typed),
                said => said,
            };
            match said {
                Said::Nothing => at += 1,
                Said::Resized => heard.window |= seat.role == Role::Keyboard,
                Said::Asks(Request::Detach) => {
                    let seat = self.seats.remove(at);
                    // Without the screen it goes all the same.
                    let _ = seat.wire.detach(Snapshot::of(&self.ring, size).ok().as_ref());
                }
                Said::Asks(request) if seat.role == Role::Keyboard => heard.requests.push(request),
                Said::Asks(_) => {
                    let _ = seat.wire.tell(ToFront::NotYours, None);
                }
                Said::Left => drop(self.seats.remove(at)),
            }
        }
        heard.window |= self.hand_over(keyboard);
        heard
    }

    /// The keyboard goes to who has waited longest, when nobody has it; whether that is so.
    pub(super) fn hand_over(&mut self, keyboard: Keyboard) -> bool {
        let taken = keyboard == Keyboard::Taken || self.has_keyboard();
        let next = self.seats.iter_mut().find(|seat| !taken && seat.role == Role::Waiting);
        let Some(seat) = next else { return false };
        seat.role = Role::Keyboard;
        // Who cannot be told is leaving.
        let _ = seat.wire.tell(ToFront::Role(Role::Keyboard), None);
        true
    }

    /// The window of who has the keyboard.
    pub(super) fn window(&self) -> Option<Winsize> {
        let seat = self.seats.iter().find(|seat| seat.role == Role::Keyboard)?;
        [&seat.output, &seat.input].into_iter().flatten().find_map(|end| pty::window_size(end).ok())
    }

    /// The machine has ended: the fronts are told.
    pub(super) fn tell_end(&mut self, code: u8) {
        for seat in self.seats.drain(..) {
            let _ = seat.wire.tell(ToFront::Ended(code), None);
        }
    }

    /// Whatever is not written by now will not be.
    pub(super) fn give_up(&mut self) {
        self.seats.iter_mut().for_each(|seat| seat.output = None);
    }

    /// Whether one of them has the keyboard.
    fn let_in(&mut self, keyboard: Keyboard, size: Winsize) -> bool {
        let before = self.has_keyboard();
        while let Some(listener) = &self.listener {
            // EMFILE and the like: who knocks has to wait, the machine has not.
            let Ok(Some(socket)) = listener.accept() else { break };
            if self.arriving.len() + self.seats.len() < MOST {
                self.arriving.push(socket);
            }
        }
        for socket in std::mem::take(&mut self.arriving) {
            let packet = match receive(&socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.arriving.push(socket);
                    continue;
                }
                Ok(packet) if packet.length > 0 => packet,
                _ => continue,
            };
            let taken = keyboard == Keyboard::Taken || self.has_keyboard();
            // A front that says what no front says is not let in, and sees the end of its wire.
            let Ok(seat) = Hello::decode(packet).and_then(|(asked, streams)| {
                let role = match asked {
                    Hello::Watch => Role::Watching,
                    Hello::Keyboard if taken => Role::Waiting,
                    Hello::Keyboard => Role::Keyboard,
                };
                let seat = Seat::new(socket, role, &streams)?;
                seat.wire.tell(ToFront::Role(role), Some(&Snapshot::of(&self.ring, size)?))?;
                Ok(seat)
            }) else {
                continue;
            };
            self.seats.push(seat);
        }
        !before && self.has_keyboard()
    }

    fn has_keyboard(&self) -> bool {
        self.seats.iter().any(|seat| seat.role == Role::Keyboard)
    }
}

impl Seat {
    fn new(socket: OwnedFd, role: Role, [stdin, stdout]: &[OwnedFd; 2]) -> io::Result<Self> {
        // They are opened again, and by root: not for more than who sent them could do.
        let denied = |fd: &OwnedFd, other: OFlags| -> io::Result<()> {
            let flags = rustix::fs::fcntl_getfl(fd)?;
            let refused = flags.contains(OFlags::PATH) || flags & OFlags::RWMODE == other;
            if refused { Err(Errno::EBADF.into()) } else { Ok(()) }
        };
        denied(stdin, OFlags::WRONLY)?;
        denied(stdout, OFlags::RDONLY)?;
        let terminal = Terminal::new(stdin.as_fd(), stdout.as_fd(), Mode::Interactive)?;
        Ok(Self {
            wire: FrontWire::attached(socket, terminal),
            flow: Flow::Paused,
            role,
            input: Some(Stream::open(stdin.as_fd(), Direction::In)?),
            output: Some(Stream::open(stdout.as_fd(), Direction::Out)?),
            queue: Queue::new(),
            shown: false,
            lost: 0,
            escapes: Escapes::default(),
        })
    }

    fn is_served(&self) -> bool {
        self.shown && self.output.is_some()
    }

    fn hear(&mut self, bytes: &[u8]) {
        if self.output.is_none() {
            return;
        }
        // After a gap all is left out until there is room to say so.
        let rest = if self.lost > 0 { bytes } else { self.queue.push(bytes) };
        self.lost += rest.len();
    }

    fn write(&mut self) {
        let Some(output) = self.output.as_ref().filter(|_| self.shown) else { return };
        loop {
            while !self.queue.is_empty() {
                match self.queue.take(|bytes| output.write(bytes)) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(_) => {
                        // Its front sees the same hang-up.
                        self.output = None;
                        return;
                    }
                }
            }
            if self.lost == 0 {
                return;
            }
            // CAN: the gap may be in the middle of an escape sequence (ECMA-48).
            let mark = format!("\x18\r\n[osier: {} bytes not shown]\r\n", std::mem::take(&mut self.lost));
            self.queue.push(mark.as_bytes());
        }
    }

    fn hear_front(&mut self) -> Said {
        loop {
            match self.wire.recv() {
                Ok(None) => return Said::Nothing,
                Ok(Some(FromFront::Resized)) => return Said::Resized,
                Ok(Some(FromFront::Input(flow))) => self.flow = flow,
                Ok(Some(FromFront::Shown)) => self.shown = true,
                // A signal to an attached front is for that front.
                Ok(Some(FromFront::Signal(_))) => {}
                Ok(Some(FromFront::Gone)) | Err(_) => return Said::Left,
            }
        }
    }

    /// Reads what is typed; only of who has the keyboard is it passed on.
    fn read(&mut self, queue: &mut Queue) -> Said {
        let Some(input) = self.input.as_ref().filter(|_| self.flow == Flow::Flowing) else {
            return Said::Nothing;
        };
        let types = self.role == Role::Keyboard;
        let space = if types { queue.room().min(TYPED) } else { TYPED };
        let mut typed = [0; TYPED];
        if space == 0 {
            return Said::Nothing;
        }
        let mut bytes = match input.read(&mut typed[..space]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Said::Nothing,
            Err(_) | Ok(0) => {
                self.input = None;
                return Said::Nothing;
            }
            Ok(count) => &typed[..count],
        };
        let now = Instant::now();
        let mut asked = Said::Nothing;
        while !bytes.is_empty() {
            let scan = self.escapes.scan(bytes, now);
            if types {
                queue.push(&bytes[..scan.pass]);
            }
            bytes = &bytes[scan.taken..];
            if let Some(request) = scan.request {
                asked = Said::Asks(request);
                if request == Request::Detach {
                    // What follows is for whoever has the terminal next.
                    break;
                }
            }
        }
        asked
    }
}
