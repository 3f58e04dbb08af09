//! A descriptor that is not waited for without end: the other end may hang, its host may be gone without a word, and the
//! operator may have had enough.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::interrupt::Interrupt;

/// So much a pipe that is ready takes at once (man 7 pipe, `PIPE_BUF`).
const READY: usize = 4096;
/// So long at most nobody looks whether a signal came.
const GLANCE: Duration = Duration::from_millis(200);

/// A descriptor that is not waited for without end.
pub(super) struct Patient<'a> {
    pub(super) file: std::fs::File,
    pub(super) patience: Duration,
    pub(super) interrupt: Option<&'a Interrupt>,
}

/// Why it was not waited for.
#[derive(Debug)]
pub(super) enum Impatience {
    Silent(Duration),
    Interrupted,
}

impl fmt::Display for Impatience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Impatience {}

impl Patient<'_> {
    fn wait(&self, events: PollFlags) -> io::Result<()> {
        let deadline = Instant::now() + self.patience;
        loop {
            if self.interrupt.is_some_and(|interrupt| interrupt.check().is_err()) {
                return Err(io::Error::other(Impatience::Interrupted));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::other(Impatience::Silent(self.patience)));
            }
            let glance = PollTimeout::try_from(left.min(GLANCE)).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(self.file.as_fd(), events)], glance) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                ready => return ready.map(drop).map_err(Into::into),
            }
        }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLIN)?;
        self.file.read(into)
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLOUT)?;
        self.file.write(&bytes[..bytes.len().min(READY)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
