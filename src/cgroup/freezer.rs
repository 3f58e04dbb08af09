//! Stopping everything in a subtree and letting it go on: cgroup v2's freezer, which needs no controller
//! (Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze). SIGKILL ends what is frozen.

use std::error::Error as _;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::FreezerState;
use cgroups_rs::fs::error::Error as ControllerError;
use cgroups_rs::fs::freezer::FreezerController;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What a subtree does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// Nothing: every process in it is stopped.
    Frozen,
    /// Its processes run.
    Running,
}

/// The freezer of one directory.
#[derive(Debug)]
pub struct Freezer {
    controller: FreezerController,
    events: PathBuf,
}

impl Freezer {
    /// That of the directory `cgroup`, absolute.
    pub fn of(cgroup: &Path) -> Self {
        Self {
            controller: FreezerController::new(cgroup.to_owned(), cgroup.to_owned(), true),
            events: cgroup.join("cgroup.events"),
        }
    }

    /// What was asked of this directory last; one above it can be frozen nevertheless.
    ///
    /// # Errors
    /// `ENOENT` when the directory is gone.
    pub fn asked(&self) -> io::Result<Motion> {
        match self.controller.state().map_err(plain)? {
            FreezerState::Frozen | FreezerState::Freezing => Ok(Motion::Frozen),
            FreezerState::Thawed => Ok(Motion::Running),
        }
    }

    /// Asks for it, and comes back at once.
    ///
    /// # Errors
    /// `ENOENT` when the directory is gone, `EACCES` without the right to write there.
    pub fn ask(&self, motion: Motion) -> io::Result<()> {
        match motion {
            Motion::Frozen => self.controller.freeze(),
            Motion::Running => self.controller.thaw(),
        }
        .map_err(plain)
    }

    /// Waits until it is so; `false` when it is not within `patience`.
    ///
    /// # Errors
    /// `ENOENT` when the directory is gone, `ENODEV` when it goes meanwhile.
    pub fn wait(&self, motion: Motion, patience: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + patience;
        let mut events = File::open(&self.events)?;
        loop {
            let mut text = String::new();
            events.rewind()?;
            events.read_to_string(&mut text)?;
            let frozen = text.lines().any(|line| line == "frozen 1");
            if frozen == (motion == Motion::Frozen) {
                return Ok(true);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return Ok(false) };
            // Ready when the file has changed since it was read.
            let mut fds = [PollFd::new(&events, PollFlags::PRI)];
            let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
            match poll(&mut fds, Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The errno that the crate's error was made of.
fn plain(error: ControllerError) -> io::Error {
    let errno = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
    errno.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}
