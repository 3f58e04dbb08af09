//! One `criu swrk`: the program started for one request, and the socket to it.
//!
//! The socket is the worker's only link to osier. When osier dies, CRIU finds it closed at its next question, gives up and
//! lets go of the tasks; when CRIU dies, osier reads the end of the file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use prost::Message;
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};

use super::interception::{Interception, Watch};
use super::message::{Answer, Request, Type, VersionAnswer};

/// The longest answer: CRIU's error message is cut at 1024 bytes, everything else is numbers.
const LONGEST: usize = 16 << 10;

/// A running worker. Dropped before it has ended, it is killed.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    ended: Option<ExitStatus>,
    socket: OwnedFd,
    said: File,
    interception: Option<Interception>,
}

impl Worker {
    /// Starts `program`. It gets `inherited` under the same numbers: they must not be close-on-exec.
    ///
    /// # Errors
    /// What socketpair(2) and the start of the program give.
    pub(super) fn start(program: &Path, inherited: &[OwnedFd]) -> io::Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // dup(2) leaves close-on-exec off.
        let theirs = rustix::io::dup(&theirs)?;
        debug_assert!(inherited.iter().all(|fd| fd.as_raw_fd() > 2));
        let said = File::from(rustix::fs::memfd_create("criu", MemfdFlags::CLOEXEC)?);
        let child = Command::new(program)
            // What an administrator wrote for another use is none of osier's: it says all that it wants.
            .args(["--no-default-config", "swrk"])
            .arg(theirs.as_raw_fd().to_string())
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said.try_clone()?)
            // A ^C on the terminal is for osier: CRIU has to be let go of at a place where it tidies up.
            .process_group(0)
            .spawn()?;
        Ok(Self { child, ended: None, socket, said, interception: None })
    }

    /// Its process ID.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Watches it from now on. The worker is to be waiting at a hook.
    ///
    /// # Errors
    /// As [`Interception::begin`].
    pub(super) fn intercept(&mut self, watch: Watch) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).map_err(|_| io::ErrorKind::InvalidData)?;
        self.interception = Some(Interception::begin(nix::unistd::Pid::from_raw(pid), watch)?);
        Ok(())
    }

    /// Sends a request.
    ///
    /// # Errors
    /// `EPIPE` when it has ended; `EMSGSIZE` for one beyond the socket's buffer.
    pub(super) fn send(&self, request: &Request) -> io::Result<()> {
        let packet = request.encode_to_vec();
        rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, &packet, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// Waits for something to read, on the socket or on one of `others`, for a tenth of a second at most. Says whether
    /// it is the socket.
    ///
    /// # Errors
    /// What poll(2) gives.
    pub(super) fn wait(&self, others: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        fds.extend(others.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::from(100_u8)) {
            Ok(_) => Ok(fds[0].any().unwrap_or(false)),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads an answer; `None` when the worker has ended.
    ///
    /// # Errors
    /// `InvalidData` for what is no answer.
    pub(super) fn receive(&self) -> io::Result<Option<Answer>> {
        let mut packet = vec![0; LONGEST];
        let received =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut packet, RecvFlags::empty()));
        match received {
            Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => Ok(None),
            Ok((length, _)) => Ok(Some(Answer::decode(&packet[..length])?)),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Asks for the version, and leaves the worker ready for the next request.
    ///
    /// # Errors
    /// `InvalidData` when it answers something else; `UnexpectedEof` when it ends.
    pub(super) fn ask_version(&self) -> io::Result<VersionAnswer> {
        let request = Request { kind: Type::Version.into(), keep_open: Some(true), ..Request::default() };
        self.send(&request)?;
        let answer = self.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        answer.version.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Closes the socket's other direction, waits for the end and gives how it ended.
    ///
    /// # Errors
    /// What waitpid(2) gives.
    pub(super) fn end(&mut self) -> io::Result<ExitStatus> {
        // It may be waiting for a further request.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        // It waits for the end too, and only one can have it.
        let heard = self.interception.take().and_then(Interception::end);
        let status = heard.map_or_else(|| self.child.wait(), Ok)?;
        self.ended = Some(status);
        Ok(status)
    }

    /// Kills it.
    pub(super) fn kill(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
        }
    }

    /// How it ended, as the end of "criu …".
    pub(super) fn obituary(&mut self, status: ExitStatus) -> String {
        let how = match (status.signal().map(Signal::try_from), status.code()) {
            (Some(Ok(signal)), _) => format!("was ended by {signal}"),
            (_, Some(code)) => format!("ended with status {code}"),
            _ => "ended".to_owned(),
        };
        match self.last_words() {
            Some(words) => format!("{how}: {words}"),
            None => how,
        }
    }

    /// The last line that it wrote to standard error: what CRIU says before it has its log, and what the loader says of a
    /// program that cannot be loaded.
    pub(super) fn last_words(&mut self) -> Option<String> {
        let mut text = Vec::new();
        self.said.seek(SeekFrom::Start(0)).ok()?;
        self.said.read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        Some(line.chars().filter(|char| !char.is_control()).collect())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
            let _ = self.end();
        }
    }
}
