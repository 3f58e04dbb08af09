//! The door of a running machine: its leader, held so that its number cannot become another process's, and its root.
//!
//! What goes through it is safe against root inside: paths are resolved beneath the root that was opened here
//! ([`Tree::open_inside`]), and a leader that ends takes nobody else's place.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::process::open_leader;
use super::record::{Record, Store};
use crate::caps;
use crate::error::{Context, Error, Kind, Result};
use crate::idmap;
use crate::idrange::IdRange;
use crate::image::Tree;

/// A running machine, held open.
#[derive(Debug)]
pub struct Door {
    name: String,
    leader: OwnedFd,
    /// The machine's root directory as its leader has it, with all that is mounted below. It stays usable, and the file
    /// systems stay mounted, after the machine's end: ask [`Door::check`] whether what was done there still counts.
    pub root: Tree,
    /// The host's IDs that are the machine's, of one with users of its own.
    pub ids: Option<IdRange>,
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
        let pidfd = open_leader(store, record).context(looked)?.ok_or_else(|| ended(name))?;
        let root = match Tree::open(&PathBuf::from(format!("/proc/{}/root", record.leader))) {
            // A zombie has no root any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ended(name)),
            root => root.context(looked)?,
        };
        let ids = idmap::read(record.leader).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(None),
            _ => Err(error),
        });
        let door = Self { name: name.clone(), leader: pidfd, root, ids: ids.context(looked)? };
        // Alive after the open: the number was its own all the time.
        door.check()?;
        Ok(door)
    }

    /// From now on what this process makes in the machine is its root's.
    ///
    /// # Errors
    /// What capset(2) gives.
    pub fn make_files_as_its_root(&self) -> Result<()> {
        self.ids.map_or(Ok(()), |ids| {
            caps::make_files_as(ids.first()).context(|| format!("cannot make files in '{}'", self.name))
        })
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
