//! A program on a terminal: what a person sees of it, and types.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use crate::machine::LIMIT;

/// The person's side of it.
pub(crate) struct Terminal {
    master: File,
    child: Child,
    /// All that was shown so far.
    shown: String,
    /// What of it was waited for already.
    seen: usize,
}

impl Terminal {
    /// Starts `command` on a terminal of its own.
    pub(crate) fn start(command: &mut Command) -> Self {
        let pty = nix::pty::openpty(None, None).expect("a pty");
        let slave = || pty.slave.try_clone().expect("the slave");
        let child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().expect("a program");
        Self { master: pty.master.into(), child, shown: String::new(), seen: 0 }
    }

    /// Waits until `text` is shown, after all that was waited for before.
    pub(crate) fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(at) = self.shown[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            assert!(Instant::now() < deadline, "not shown: '{text}'; shown: {}", self.shown);
            assert!(self.read(deadline), "ended before '{text}' was shown; shown: {}", self.shown);
        }
    }

    /// Types a line.
    pub(crate) fn type_line(&mut self, line: &str) {
        self.master.write_all(format!("{line}\r").as_bytes()).expect("typing");
    }

    /// Types bytes.
    pub(crate) fn type_bytes(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).expect("typing");
    }

    /// Waits for the program's end and gives its exit code.
    pub(crate) fn end(mut self) -> Option<i32> {
        let deadline = Instant::now() + LIMIT;
        loop {
            // Somebody has to read, or it could not end.
            self.read(Instant::now() + Duration::from_millis(50));
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "has not ended; shown: {}", self.shown);
        }
    }

    /// Reads what is there; false at the end.
    fn read(&mut self, deadline: Instant) -> bool {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        if poll(&mut fds, u16::try_from(left).unwrap_or(u16::MAX)).expect("poll") == 0 {
            return true;
        }
        let mut bytes = [0; 4096];
        match self.master.read(&mut bytes) {
            Ok(count) => {
                self.shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
                count > 0
            }
            // EIO: nobody has the slave open any more.
            Err(_) => false,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
