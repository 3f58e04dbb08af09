//! A command that runs in the machine for its supervisor, which does not wait for it: in a machine whose disk hangs it does
//! not come back, and the supervisor has to hear the next request all the same.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, Signal as DeathSignal, pidfd_open, set_parent_process_death_signal};

use super::record::Checkpointable;
use super::running::Running;
use crate::console::Streams;
use crate::error::{Context, Kind, Result};
use crate::exec;
use crate::exit;
use crate::session::{Command, Entry, Session, Standard};
use crate::sys::{Forked, close_range, exit_now, fork};

/// The child of the supervisor that runs it; killed when this is dropped.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    reaped: bool,
}

impl Child {
    /// Starts `argv`, as root; the program is looked up inside.
    ///
    /// # Errors
    /// What fork(2) and pidfd_open(2) give.
    pub(super) fn start(argv: &[&str], running: &Running) -> Result<Self> {
        let what = || format!("cannot run '{}' in the machine", argv.join(" "));
        let cgroup = running.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
        match fork().context(what)? {
            Forked::Child => run(argv, running, cgroup.as_deref()),
            Forked::Parent(pid) => {
                // Not waited for yet: the number is the child's.
                let number = rustix::process::Pid::from_raw(pid.as_raw());
                let opened = number
                    .ok_or(Errno::ESRCH.into())
                    .and_then(|number| pidfd_open(number, PidfdFlags::empty()).map_err(io::Error::from));
                Ok(Self { pid, pidfd: opened.context(what)?, reaped: false })
            }
        }
    }

    /// Readable when it has ended.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The exit code that a shell would see of the command, once it has ended; [`exit::OWN_FAILURE`] when it could not be
    /// started.
    pub(super) fn code(&mut self) -> Option<u8> {
        let code = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => return None,
            Ok(WaitStatus::Exited(_, status)) => u8::try_from(status).unwrap_or(exit::OWN_FAILURE),
            _ => exit::OWN_FAILURE,
        };
        self.reaped = true;
        Some(code)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill(self.pid, Signal::SIGKILL);
            while waitpid(self.pid, None) == Err(Errno::EINTR) {}
        }
    }
}

/// The child's life.
fn run(argv: &[&str], running: &Running, cgroup: Option<&Path>) -> ! {
    let code = match start(argv, running, cgroup) {
        Ok(mut session) => session.wait().map_or(exit::OWN_FAILURE, |ended| ended.code()),
        Err(error) if error.kind() == Kind::CommandNotFound => exit::NOT_FOUND,
        Err(error) if error.kind() == Kind::CannotExecute => exit::CANNOT_EXECUTE,
        Err(_) => exit::OWN_FAILURE,
    };
    exit_now(code)
}

fn start(argv: &[&str], running: &Running, cgroup: Option<&Path>) -> Result<Session> {
    let what = || "cannot prepare to enter the machine";
    // Before anything is closed: a signal would write into what is another descriptor by then.
    exec::reset_signals().context(what)?;
    set_parent_process_death_signal(Some(DeathSignal::KILL)).context(what)?;
    let leader = &running.leader;
    let pidfd = leader.pidfd().as_raw_fd();
    // Above all the record's lock, which the supervisor's end has to release.
    if pidfd > 3 {
        close_range(3, pidfd - 1).context(what)?;
    }
    close_range(pidfd + 1, i32::MAX).context(what)?;
    let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    let streams = || io::Result::Ok(Streams { stdin: null()?, stdout: null()?, stderr: null()? });
    let streams = streams().context(what)?;
    let pidfd = leader.pidfd().try_clone_to_owned().context(what)?;
    let entry = Entry::read(leader.pid(), pidfd, cgroup).context(what)?;
    let entry = entry.filtered(Checkpointable::filter(running.checkpointable));
    let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
    Session::start(&entry, &Command::of_root(&entry, argv), Standard::Streams(&streams))
}
