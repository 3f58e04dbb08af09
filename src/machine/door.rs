//! The door of a running machine: its leader, held so that its number cannot become another process's, and its root.
//!
//! What goes through it is safe against root inside: paths are resolved beneath the root that was opened here
//! ([`Tree::open_inside`]), and a leader that ends takes nobody else's place.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::record::{Record, Store};
use crate::error::{Context, Error, Kind, Result};
use crate::image::Tree;

/// A running machine, held open.
#[derive(Debug)]
pub struct Door {
    name: String,
    leader: OwnedFd,
    /// The machine's root directory as its leader has it, with all that is mounted below. It stays usable, and the file
    /// systems stay mounted, after the machine's end: ask [`Door::check`] whether what was done there still counts.
    pub root: Tree,
}

impl Door {
    /// Opens the machine that `record` tells of.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when it has ended or is another one's by now; [`Kind::Permission`] for who may not ptrace(2) its
    /// leader.
    pub fn open(store: &Store, record: &Record) -> Result<Self> {
        let name = &record.name;
        let looked = || format!("cannot look into '{name}'");
        let leader = i32::try_from(record.leader).ok().and_then(Pid::from_raw).ok_or_else(|| ended(name))?;
        let pidfd = match pidfd_open(leader, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Err(ended(name)),
            pidfd => pidfd.context(looked)?,
        };
        // The number may have been another process's by the time of the open. The supervisor is the leader's parent: while
        // it has the record it has not waited for the leader, and the number cannot have been given away.
        if !is_same(store.read(name).as_ref(), record) || !is_inside(record) {
            return Err(ended(name));
        }
        let root = match Tree::open(&PathBuf::from(format!("/proc/{leader}/root"))) {
            // A zombie has no root any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ended(name)),
            root => root.context(looked)?,
        };
        let door = Self { name: name.clone(), leader: pidfd, root };
        // Alive after the open: the number was its own all the time.
        door.check()?;
        Ok(door)
    }

    /// The leader's pidfd.
    pub fn leader(&self) -> BorrowedFd<'_> {
        self.leader.as_fd()
    }

    /// Whether the machine still runs.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when its leader has ended.
    pub fn check(&self) -> Result<()> {
        // Readable from the end of the process on (man 2 pidfd_open).
        let mut end = [PollFd::new(self.leader.as_fd(), PollFlags::POLLIN)];
        match poll(&mut end, PollTimeout::ZERO) {
            Ok(1..) => Err(ended(&self.name)),
            _ => Ok(()),
        }
    }
}

fn ended(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("machine '{name}' has ended"))
}

fn is_same(found: Option<&Record>, record: &Record) -> bool {
    found.is_some_and(|found| (found.supervisor, found.leader) == (record.supervisor, record.leader))
}

/// Whether the leader's number is a process in the machine's pid namespace.
fn is_inside(record: &Record) -> bool {
    let namespace = fs::metadata(format!("/proc/{}/ns/pid", record.leader)).map(|namespace| namespace.ino());
    match (namespace, record.namespaces.get("pid")) {
        (Ok(found), Some(known)) => found == *known,
        (Err(_), Some(_)) => false,
        (found, None) => found.is_ok(),
    }
}
