//! A mount point beneath a root that others write to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstat, openat};

use super::place::{ANYTHING, Made, Written, identity, is_directory};
use super::{Cause, Place};
use crate::image::Tree;

/// What to do where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// That is an error.
    Refuse,
    /// It is made, and the directories above it.
    Make,
}

/// A file or a directory that something can be mounted on.
#[derive(Debug)]
pub struct Point {
    target: OwnedFd,
    made: Made,
}

impl Point {
    /// Opens `path` beneath `tree` for mounting `source` there: a directory on a directory, anything else on a file.
    ///
    /// # Errors
    /// [`Cause`]; nothing that was made is left then.
    pub fn open(tree: &Tree, path: &Path, source: BorrowedFd<'_>, missing: Missing) -> Result<Self, Cause> {
        let is_source_directory = is_directory(&fstat(source)?);
        let mut made = Made::default();
        let opened = match tree.open_inside(path, OFlags::PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::Make => {
                let place = Place::Beneath(tree);
                if is_source_directory { made.reach(place, path) } else { make_file(&mut made, place, path) }
            }
            opened => opened,
        };
        let target = match opened {
            Ok(target) => target,
            Err(error) => {
                made.undo();
                return Err(Cause::Above(path.to_owned(), error));
            }
        };
        let stat = fstat(&target)?;
        match (is_source_directory, is_directory(&stat)) {
            (true, false) => Err(Cause::NotDirectory(path.to_owned())),
            (false, true) => Err(Cause::InTheWay(path.to_owned())),
            _ if identity(&stat) == identity(&fstat(tree)?) => Err(Cause::Root),
            _ => Ok(Self { target, made }),
        }
    }

    /// What to mount on.
    pub fn target(&self) -> BorrowedFd<'_> {
        self.target.as_fd()
    }

    /// Removes what was made for it.
    pub fn undo(self) {
        self.made.undo();
    }
}

fn make_file(made: &mut Made, place: Place<'_>, path: &Path) -> io::Result<OwnedFd> {
    let Written::Named { above, name } = Written::parse(path) else {
        return Err(io::ErrorKind::NotADirectory.into());
    };
    let directory = made.reach(place, &above)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(&directory, &name, flags, Mode::from_raw_mode(0o644))?;
    let file = openat(&directory, &name, ANYTHING, Mode::empty());
    made.add(directory, name);
    Ok(file?)
}
