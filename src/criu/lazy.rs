//! Memory that comes after the tasks run: `criu lazy-pages`, which gets their userfaultfd(2)s, asks for the pages that they
//! touch and then for all the others, and is answered here.
//!
//! **It must not end before they do**: the kernel gives zeros for what is missing as soon as nobody has the userfaultfd any more.
//! So it is told of the end of its pages by nobody but [`LazyPages::finish`]; whoever gives up ends the tasks first.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use super::images::{Pages, page};
use super::log;
use super::{Criu, Failed, Version};

/// `PS_IOV_ADD_F` with `PE_PRESENT`, `PS_IOV_GET`, `PS_IOV_CLOSE` and `PS_IOV_FORCE_CLOSE` (criu/page-xfer.c).
const ADD: u32 = 6 | 4 << 16;
const GET: u32 = 7;
const CLOSE: [u32; 2] = [0x1023, 0x1024];
/// It asks without waiting and gives up where its question finds no room: one for each task at least, bytes.
const ROOM: usize = 8 << 20;
/// How long it may take to take what it has asked for, and to end when it has all.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to start, milliseconds.
const READY: u16 = 30_000;

/// A running `criu lazy-pages`. Dropped before it has ended, it is killed: by then none of the tasks may run.
#[derive(Debug)]
pub struct LazyPages {
    child: Child,
    socket: OwnedFd,
    log: PathBuf,
    version: Version,
    owner: u32,
}

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It wants pages: as many of these, from the first on, as there are together.
    Pages(Pages),
    /// It needs no more, or has given up: [`LazyPages::finish`] tells.
    Over,
}

impl Criu {
    /// Starts it for a restore from `images` with [`super::Restore::lazy`] in the directory `work`. Its log becomes `log`.
    ///
    /// # Errors
    /// [`Failed`]: it does not start.
    pub fn lazy_pages(&self, images: &Path, work: &Path, log: &Path) -> Result<LazyPages, Failed> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(|errno| Failed::start("make a socket")(errno.into()))?;
        // A program that is stopped, or hangs, is not waited for without end.
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, direction, Some(PATIENCE))
                .map_err(|errno| Failed::start("set a socket up")(errno.into()))?;
        }
        // What is not allowed more has room for some hundred tasks.
        let _ = setsockopt(&theirs, sockopt::SndBufForce, &ROOM);
        let (ready, says) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Failed::start("make a pipe")(errno.into()))?;
        let _ = fs::remove_file(log);
        let start = || -> io::Result<Child> {
            // dup(2) leaves close-on-exec off.
            let [theirs, says] = [rustix::io::dup(&theirs)?, rustix::io::dup(&says)?];
            Command::new(&self.program)
                .args(["--no-default-config", "lazy-pages", "--page-server", "-v4"])
                .args(["--ps-socket", &theirs.as_raw_fd().to_string()])
                .args(["--status-fd", &says.as_raw_fd().to_string()])
                .arg("-D")
                .arg(images)
                .arg("-W")
                .arg(work)
                .arg("-o")
                .arg(log)
                .env("LC_ALL", "C")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0)
                .spawn()
        };
        let child = start().map_err(Failed::start("start criu"))?;
        drop((theirs, says));
        let mut this = LazyPages {
            child,
            socket,
            log: log.to_owned(),
            version: self.version,
            owner: std::process::id(),
        };
        let mut word = [0];
        let in_time = poll(&mut [PollFd::new(ready.as_fd(), PollFlags::POLLIN)], READY) != Ok(0);
        match retry_on_intr(|| if in_time { rustix::io::read(&ready, &mut word) } else { Ok(0) }) {
            Ok(1) => Ok(this),
            _ => Err(this.failed()),
        }
    }
}

impl LazyPages {
    /// Readable when there is something to [`LazyPages::hear`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Keeps it from seeing the end of its pages for as long as somebody has this open; close-on-exec.
    ///
    /// # Errors
    /// What fcntl(2) gives.
    pub fn lifeline(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Reads what it says; waits for it.
    ///
    /// # Errors
    /// `InvalidData` for what it cannot say; what recv(2) gives.
    pub fn hear(&self) -> io::Result<Asked> {
        let mut message = vec![0; self.length()];
        let (count, _) = retry_on_intr(|| recv(&self.socket, &mut message[..], RecvFlags::WAITALL))?;
        if count < message.len() {
            return Ok(Asked::Over);
        }
        let word = |at: usize| message[at..].first_chunk().copied().map_or(0, u32::from_ne_bytes);
        let long = |at: usize| message[at..].first_chunk().copied().map_or(0, u64::from_ne_bytes);
        match word(0) {
            GET => Ok(Asked::Pages(if self.is_long() {
                Pages { number: long(8), address: long(16), task: long(24) }
            } else {
                Pages { number: word(4).into(), address: long(8), task: long(16) }
            })),
            command if CLOSE.contains(&command) => Ok(Asked::Over),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Gives what is in `pages`: the answer to the oldest of its questions that was not answered.
    ///
    /// # Errors
    /// `EPIPE` when it has ended, `EAGAIN` when it takes nothing any more.
    pub fn give(&self, pages: Pages, content: &[u8]) -> io::Result<()> {
        if u64::try_from(content.len()).ok() != pages.number.checked_mul(page()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Pages { task, address, number } = pages;
        let mut answer = Vec::with_capacity(self.length() + content.len());
        answer.extend_from_slice(&ADD.to_ne_bytes());
        if self.is_long() {
            answer.extend_from_slice(&[0; 4]);
            answer.extend_from_slice(&number.to_ne_bytes());
        } else {
            let number = u32::try_from(number).map_err(|_| io::ErrorKind::InvalidData)?;
            answer.extend_from_slice(&number.to_ne_bytes());
        }
        answer.extend_from_slice(&address.to_ne_bytes());
        answer.extend_from_slice(&task.to_ne_bytes());
        answer.extend_from_slice(content);
        self.send(&answer)
    }

    /// After [`Asked::Over`]: whether it was all. When it was not, it still has the userfaultfds, and the tasks have to end before
    /// this is dropped.
    ///
    /// # Errors
    /// Why it has given up.
    pub fn finish(&mut self) -> Result<(), Failed> {
        if self.cause().is_some() {
            return Err(self.failed());
        }
        // It waits for this answer, and ends.
        let answered = self.send(&0_u32.to_ne_bytes());
        match answered.and_then(|()| self.wait()) {
            Ok(Some(status)) if status.success() => {
                let _ = fs::remove_file(&self.log);
                Ok(())
            }
            _ => Err(self.failed()),
        }
    }

    /// `None` when it does not end.
    fn wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = retry_on_intr(|| send(&self.socket, bytes, SendFlags::NOSIGNAL))?;
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    fn cause(&self) -> Option<String> {
        log::cause(&String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()), &|_| None)
    }

    fn failed(&mut self) -> Failed {
        let log = self.log.clone();
        match (self.cause(), self.child.try_wait()) {
            (Some(cause), _) => Failed::Refused { cause, log },
            (None, Ok(Some(status))) => Failed::Died { how: format!("ended: {status}"), log },
            _ => Failed::Died { how: "gave up".to_owned(), log },
        }
    }

    /// Since 4.2 the number of pages has 64 bits: `struct page_server_iov`.
    fn is_long(&self) -> bool {
        self.version >= Version::new(4, 2, 0)
    }

    fn length(&self) -> usize {
        if self.is_long() { 32 } else { 24 }
    }
}

impl Drop for LazyPages {
    fn drop(&mut self) {
        // A forked child has a copy of this, and the program is not its own.
        if self.owner == std::process::id() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
