//! A process of the operator's in a machine that runs: in all of its namespaces, its root, its cgroup, with what its own
//! first process may do and not more. No bus and no init of a certain kind is needed for it.
//!
//! ```text
//! osier            decides everything from outside: user, environment, program ([`Command`])
//!   └ entrant      born in a cgroup below `payload`: enters the namespaces (setns(2) wants one thread), makes the pty, clones, ends
//!   └ the process  osier's own child by CLONE_PARENT, born in the machine's pid namespace
//! ```
//!
//! The process ends with the machine: it is in its pid namespace. When osier dies before, it gets SIGHUP.
//!
//! Refused here: serving a terminal (the console's), looking for the machine (the record's).

mod capture;
mod entry;
mod environment;
mod inside;
mod leaf;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

pub use capture::{Captured, capture};
pub use entry::Entry;
pub use environment::environment;

use crate::console::Streams;
use crate::error::failure::Failure;
use crate::error::{Context, Error, Kind, Result};
use crate::exit::Ended;
use crate::sys::{Cloned, clone_child, pidfd_send_realtime};
use crate::user::User;
use crate::wire::Wire;
use leaf::Leaf;

/// What is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program, looked up in the environment's PATH when it has no `/`.
    pub program: OsString,
    /// Its arguments, its name first.
    pub argv: Vec<OsString>,
    /// Its environment, whole.
    pub environment: Vec<(String, OsString)>,
    /// As whom.
    pub user: User,
    /// Where.
    pub directory: Directory,
}

/// A working directory inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directory {
    /// This one, or it is an error.
    Exactly(PathBuf),
    /// The user's home; `/` when that cannot be entered, as login(1) has it.
    Home,
}

impl Command {
    /// A command of root's in `/`, with the environment that a login of root's would have.
    pub fn of_root(entry: &Entry, argv: Vec<OsString>) -> Self {
        let user = User::root();
        let environment = environment(entry.root(), &user, None);
        let program = argv.first().cloned().unwrap_or_default();
        Self { program, argv, environment, user, directory: Directory::Exactly("/".into()) }
    }
}

/// What the process's standard streams are.
#[derive(Debug, Clone, Copy)]
pub enum Standard<'a> {
    /// A new pty of the machine's, its controlling terminal.
    Pty,
    /// These.
    Streams(&'a Streams),
}

/// A process in a machine: a child of this one.
#[derive(Debug)]
pub struct Session {
    pidfd: OwnedFd,
    console: Option<OwnedFd>,
    ended: Option<Ended>,
    /// Removed when this is dropped.
    _leaf: Option<Leaf>,
}

/// From the entrant, and from the process until it executes; the end of file says that it has.
#[derive(Debug, Serialize, Deserialize)]
enum FromInside {
    /// The process is there; its pidfd comes along, and the master of its pty where it has one.
    Born,
    /// A step failed; nothing comes after it.
    Failed(Failure),
}

impl Session {
    /// Starts `command` behind `entry`, and returns when it is executed.
    ///
    /// # Errors
    /// The step that failed, inside or outside; [`Kind::CommandNotFound`] and [`Kind::CannotExecute`] for the command.
    pub fn start(entry: &Entry, command: &Command, standard: Standard<'_>) -> Result<Self> {
        let leaf = entry.payload().map(Leaf::make).transpose().context(|| "cannot make a cgroup for it")?;
        let (wire, inside) = Wire::pair().context(|| "cannot make a socket")?;
        // Born where the process is to be: who is root in the machine alone cannot clone into what is the host's.
        let entrant = clone_child(0, leaf.as_ref().map(AsFd::as_fd));
        let entrant = match entrant.context(|| "cannot fork")? {
            Cloned::New => {
                drop(wire);
                inside::enter(entry, command, standard, inside)
            }
            Cloned::Caller { pid, .. } => Entrant(pid),
        };
        drop(inside);
        let Heard { born, failure } = hear_out(&wire);
        drop(entrant);
        let session = born.map(|(pidfd, console)| Self { pidfd, console, ended: None, _leaf: leaf });
        match (session, failure) {
            (Some(session), None) => Ok(session),
            (Some(mut session), Some(failure)) => {
                // It ends by itself; its cgroup can go only then.
                let _ = session.signal(libc::SIGKILL);
                let _ = session.wait();
                Err(failure.into())
            }
            (None, Some(failure)) => Err(failure.into()),
            (None, None) => Err(Error::new(Kind::Failed, "cannot enter the machine")
                .because("the process that entered it died")),
        }
    }

    /// Readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it has ended, waited for or not.
    pub fn has_ended(&self) -> bool {
        let mut end = [PollFd::new(&self.pidfd, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut end, Some(&Timespec::default()))).is_ok_and(|ready| ready > 0)
    }

    /// The master of its pty; once.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// Sends it a signal; one that has ended needs none.
    ///
    /// # Errors
    /// What pidfd_send_signal(2) gives.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        match pidfd_send_realtime(self.pidfd.as_fd(), number) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            sent => sent,
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What waitid(2) gives.
    pub fn wait(&mut self) -> io::Result<Ended> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        let status =
            rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED))?;
        let status = status.ok_or(io::ErrorKind::WouldBlock)?;
        let ended = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended::Exited(code),
            (None, signal) => Ended::Killed(signal.unwrap_or(libc::SIGKILL)),
        };
        self.ended = Some(ended);
        Ok(ended)
    }
}

/// The entrant, waited for when this is dropped: it ends by itself as soon as the process is there or cannot be.
struct Entrant(Pid);

impl Drop for Entrant {
    fn drop(&mut self) {
        while waitpid(self.0, None) == Err(nix::errno::Errno::EINTR) {}
    }
}

/// What came from inside.
#[derive(Default)]
struct Heard {
    /// The process's pidfd, and the master of its pty.
    born: Option<(OwnedFd, Option<OwnedFd>)>,
    failure: Option<Failure>,
}

/// All that comes until the process has executed or ended. A failure of its may overtake the news of its birth.
fn hear_out(wire: &Wire) -> Heard {
    let mut heard = Heard::default();
    loop {
        let (message, fds) = match wire.receive::<FromInside>() {
            Ok(Some(said)) => said,
            Ok(None) => return heard,
            Err(error) => {
                let failure = Failure::set_up("hear the process in the machine", &error);
                heard.failure = heard.failure.or(Some(failure));
                return heard;
            }
        };
        let mut fds = fds.into_iter();
        match message {
            FromInside::Born => heard.born = fds.next().map(|pidfd| (pidfd, fds.next())),
            FromInside::Failed(failure) => heard.failure = heard.failure.or(Some(failure)),
        }
    }
}
