//! The user's terminal: its attributes as they were found, raw mode, and the way back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::termios::{LocalModes, OptionalActions, OutputModes, Termios};

use super::Mode;

/// What happens to keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// Every key goes to the machine, ^C and ^Z as well.
    Raw,
    /// As raw, but ^C, ^Z and ^\\ are signals to whoever runs on the terminal: it only watches.
    Signals,
    /// The terminal stays as it is.
    Cooked,
}

/// A terminal and the attributes that it had.
#[derive(Debug)]
pub struct Terminal {
    fd: OwnedFd,
    found: Termios,
    keys: Keys,
    /// Standard output is this terminal too, so that its output modes are ours to set.
    output: bool,
}

impl Terminal {
    /// The caller's, if standard input or output is one. Raw mode is for [`Mode::Interactive`] on a standard input that
    /// is a terminal; otherwise the terminal will stay as it is.
    ///
    /// # Errors
    /// What tcgetattr(3) or dup(2) give.
    pub fn of_caller(mode: Mode) -> io::Result<Option<Self>> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        Self::new(stdin.as_fd(), stdout.as_fd(), mode)
    }

    /// As [`Terminal::of_caller`], on these descriptors.
    ///
    /// # Errors
    /// What tcgetattr(3) or dup(2) give.
    pub fn new(stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>, mode: Mode) -> io::Result<Option<Self>> {
        let typed = rustix::termios::isatty(stdin);
        let fd = match (typed, rustix::termios::isatty(stdout)) {
            (true, _) => stdin,
            (false, true) => stdout,
            (false, false) => return Ok(None),
        };
        let (a, b) = (rustix::fs::fstat(fd)?, rustix::fs::fstat(stdout)?);
        Ok(Some(Self {
            fd: rustix::io::fcntl_dupfd_cloexec(fd, 3)?,
            found: rustix::termios::tcgetattr(fd)?,
            keys: if typed && mode == Mode::Interactive { Keys::Raw } else { Keys::Cooked },
            output: (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        }))
    }

    /// Raw mode, where it is wanted.
    ///
    /// # Errors
    /// What tcsetattr(3) gives.
    pub fn prepare(&self) -> io::Result<()> {
        match self.keys {
            Keys::Cooked => Ok(()),
            Keys::Raw => self.set(&self.raw()),
            Keys::Signals => {
                let mut raw = self.raw();
                raw.local_modes |= self.found.local_modes & LocalModes::ISIG;
                self.set(&raw)
            }
        }
    }

    /// What happens to keys from the next [`Terminal::prepare`] on; a terminal that is to stay as it is stays so.
    pub(super) fn set_keys(&mut self, keys: Keys) {
        if self.keys != Keys::Cooked {
            self.keys = keys;
        }
    }

    /// The attributes as they were found.
    ///
    /// # Errors
    /// What tcsetattr(3) gives; `EIO` when the terminal was hung up.
    pub fn restore(&self) -> io::Result<()> {
        match self.keys {
            Keys::Cooked => Ok(()),
            Keys::Raw | Keys::Signals => self.set(&self.found),
        }
    }

    /// Whether the caller may read it: its process group is the terminal's foreground one, or the terminal is not the one
    /// that controls it.
    pub fn is_ours(&self) -> bool {
        rustix::termios::tcgetpgrp(&self.fd)
            .map_or(true, |foreground| foreground == rustix::process::getpgrp())
    }

    /// Whether standard output is this terminal too.
    pub(super) fn is_output(&self) -> bool {
        self.output
    }

    fn raw(&self) -> Termios {
        let mut raw = self.found.clone();
        raw.make_raw();
        if !self.output {
            raw.output_modes |= self.found.output_modes & OutputModes::OPOST;
        }
        raw
    }

    fn set(&self, attributes: &Termios) -> io::Result<()> {
        // From the background tcsetattr(3) stops the caller, unless it blocks SIGTTOU.
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTTOU);
        let before = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let result = rustix::termios::tcsetattr(&self.fd, OptionalActions::Now, attributes);
        before.thread_set_mask()?;
        Ok(result?)
    }
}
