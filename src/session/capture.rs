//! A command in a machine whose output is wanted, not shown.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

use super::{Command, Entry, Session, Standard};
use crate::console::Streams;
use crate::error::{Context, Error, Kind, Result};
use crate::exit::Ended;

/// As much of it is kept; a machine is not to fill the host's memory.
const MOST: usize = 1 << 20;

/// What a command wrote to its standard output, and how it ended.
#[derive(Debug)]
pub struct Captured {
    /// How it ended.
    pub ended: Ended,
    /// What it wrote, up to a MiB.
    pub output: Vec<u8>,
}

/// Runs `command` with /dev/null as its standard input and error.
///
/// # Errors
/// As [`Session::start`]; a command that does not end within `patience`, which is killed.
pub fn capture(entry: &Entry, command: &Command, patience: Duration) -> Result<Captured> {
    let what = || format!("cannot run '{}'", command.program.display());
    let (output, streams) = streams().context(what)?;
    let mut session = Session::start(entry, command, Standard::Streams(&streams))?;
    drop(streams);
    let read = read(&session, &output, Instant::now() + patience).context(what)?;
    let Some(output) = read else {
        session.signal(libc::SIGKILL).context(what)?;
        session.wait().context(what)?;
        return Err(Error::new(Kind::Failed, what())
            .because(format!("it has not ended within {} s", patience.as_secs())));
    };
    Ok(Captured { ended: session.wait().context(what)?, output })
}

fn streams() -> io::Result<(OwnedFd, Streams)> {
    let null = |flags| rustix::fs::open("/dev/null", flags | OFlags::CLOEXEC, Mode::empty());
    let (output, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // The payload's end waits, as any program expects of its standard output.
    rustix::fs::fcntl_setfl(&stdout, OFlags::empty())?;
    Ok((output, Streams { stdin: null(OFlags::RDONLY)?, stdout, stderr: null(OFlags::WRONLY)? }))
}

/// Reads until the process has ended; `None` when that takes too long.
fn read(session: &Session, output: &OwnedFd, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut set = vec![PollFd::from_borrowed_fd(session.pidfd(), PollFlags::IN)];
        if open {
            set.push(PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN));
        }
        rustix::io::retry_on_intr(|| poll(&mut set, Some(&left)))?;
        let ended = !set[0].revents().is_empty();
        let before = text.len();
        open = open && take(output, &mut text)?;
        // What it wrote last is in the pipe still; what it left running may write for ever.
        if ended && (!open || text.len() == before) {
            return Ok(Some(text));
        }
    }
}

/// Takes what is there, in one read, so that a busy writer cannot keep the clock from being looked at; whether more may come.
fn take(output: &OwnedFd, text: &mut Vec<u8>) -> io::Result<bool> {
    let mut part = [0; 1 << 16];
    match rustix::io::retry_on_intr(|| rustix::io::read(output, &mut part)) {
        Ok(0) => Ok(false),
        Ok(count) => {
            text.extend_from_slice(&part[..count.min(MOST - text.len())]);
            Ok(true)
        }
        Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
