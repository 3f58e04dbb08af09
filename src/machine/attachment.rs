//! What a machine's console is attached to: the caller's terminal by way of the front, its pipes, or nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::PollFd;

use crate::console::{
    Drained, Ends, Event, Flow, Forwarder, FromFront, FrontWire, Listener, Log, Mode, Relay, Request,
    Streams, release_standard_streams,
};

/// The attachment, and the front if there is one.
#[derive(Debug)]
pub struct Attachment {
    line: Line,
    front: Option<FrontWire>,
}

#[derive(Debug)]
enum Line {
    Pty(Box<Forwarder>),
    Pipes(Relay),
}

/// What the user asks for through the console or the front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromUser {
    /// An escape was typed.
    Request(Request),
    /// The front passed on a signal that asks for the end, or was hung up.
    Stop,
}

impl Attachment {
    /// Attaches to the caller's streams as `mode` says. In pipe mode it gives the streams that the payload gets; with a pty
    /// other terminals can be attached later, as to the machine `name`, which has to be the caller's.
    ///
    /// # Errors
    /// What dup(2) and pipe(2) give; as [`Listener::open`].
    pub fn open(mode: Mode, front: Option<FrontWire>, name: &str) -> io::Result<(Self, Option<Streams>)> {
        let flow = if front.is_some() { Flow::Paused } else { Flow::Flowing };
        if mode == Mode::Pipe {
            let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
            let (streams, mut relay) = Relay::open([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
            relay.set_flow(flow);
            return Ok((Self { line: Line::Pipes(relay), front }, Some(streams)));
        }
        let mut forwarder = Forwarder::new(Ends::of_caller(mode)?);
        forwarder.admit(Listener::open(name)?);
        forwarder.set_flow(flow);
        Ok((Self { line: Line::Pty(Box::new(forwarder)), front }, None))
    }

    /// Takes the master of the pty that a leader made.
    ///
    /// # Errors
    /// As [`Forwarder::connect`].
    pub fn connect(&mut self, master: OwnedFd) -> io::Result<()> {
        match &mut self.line {
            Line::Pty(forwarder) => forwarder.connect(master),
            Line::Pipes(_) => Ok(()),
        }
    }

    /// What to poll for.
    pub fn interest(&self) -> Vec<PollFd<'_>> {
        let front = self.front.iter().map(|front| PollFd::new(front.fd(), nix::poll::PollFlags::POLLIN));
        match &self.line {
            Line::Pty(forwarder) => front.chain(forwarder.interest()).collect(),
            Line::Pipes(relay) => front.chain(relay.interest()).collect(),
        }
    }

    /// Moves what can be moved without waiting, and gives what the user asks for.
    ///
    /// # Errors
    /// What reading or writing the pty gives.
    pub fn turn(&mut self) -> io::Result<Option<FromUser>> {
        if let Some(asked) = self.hear_front()? {
            return Ok(Some(asked));
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
                Event::Request(Request::Detach) => {
                    self.detach()?;
                    return Ok(None);
                }
                Event::Request(request) => return Ok(Some(FromUser::Request(request))),
                Event::ReaderGone(_) | Event::InputEnded | Event::HungUp => {}
            }
        }
        Ok(None)
    }

    /// Readable when the front says something; none without a front.
    pub fn front(&self) -> Option<BorrowedFd<'_>> {
        self.front.as_ref().map(FrontWire::fd)
    }

    /// Takes in what the front says, up to a request.
    ///
    /// # Errors
    /// What recv(2) gives.
    pub fn hear_front(&mut self) -> io::Result<Option<FromUser>> {
        while let Some(front) = &mut self.front {
            match front.recv()? {
                None => break,
                Some(FromFront::Resized) => {
                    if let Line::Pty(forwarder) = &self.line {
                        forwarder.follow_window()?;
                    }
                }
                Some(FromFront::Input(flow)) => match &mut self.line {
                    Line::Pty(forwarder) => forwarder.set_flow(flow),
                    Line::Pipes(relay) => relay.set_flow(flow),
                },
                Some(FromFront::Shown) => {}
                Some(FromFront::Signal(_)) => return Ok(Some(FromUser::Stop)),
                Some(FromFront::Gone) => {
                    self.front = None;
                    return Ok(Some(FromUser::Stop));
                }
            }
        }
        Ok(None)
    }

    /// Gives the terminal back; the machine goes on under this process.
    fn detach(&mut self) -> io::Result<()> {
        let Line::Pty(forwarder) = &mut self.line else { return Ok(()) };
        forwarder.detach();
        if let Some(front) = self.front.take() {
            // Without the screen it goes all the same, and one that has gone already is no reason to end a machine.
            let _ = front.detach(forwarder.snapshot().ok().as_ref());
        }
        release_standard_streams()
    }

    /// Writes what the console writes into `log`, too.
    pub fn keep(&mut self, log: Log) {
        if let Line::Pty(forwarder) = &mut self.line {
            forwarder.keep(log);
        }
    }

    /// No other terminal can be attached any more: before the machine's name is given back.
    ///
    /// # Errors
    /// As [`Listener::close`].
    pub fn shut(&mut self) -> io::Result<()> {
        match &mut self.line {
            Line::Pty(forwarder) => forwarder.shut(),
            Line::Pipes(_) => Ok(()),
        }
    }

    /// The terminals that were attached later are let go: the machine has ended with this exit code.
    pub fn tell_end(&mut self, code: u8) {
        if let Line::Pty(forwarder) = &mut self.line {
            forwarder.tell_end(code);
        }
    }

    /// Brings what the payload has written to its reader, until `stop` is readable.
    ///
    /// # Errors
    /// As [`Attachment::turn`].
    pub fn drain(&mut self, stop: BorrowedFd<'_>) -> io::Result<Drained> {
        match &mut self.line {
            Line::Pty(forwarder) => forwarder.drain(stop),
            Line::Pipes(relay) => relay.drain(stop),
        }
    }
}
