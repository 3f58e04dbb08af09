//! Removing what was made, without following anything.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::{Errno, Result};

use super::place::DIRECTORY;
use super::walk::MOST_LEVELS;

/// Removes `name` of `directory` with all that is below it. What it holds may be changed by others meanwhile, so that in the
/// end it may not be empty.
///
/// # Errors
/// What unlinkat(2) gives for the last step that could not be done.
pub(super) fn remove(directory: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    // The last level that the walk has made is the one that it refused to fill.
    remove_below(directory, name, MOST_LEVELS + 1)
}

fn remove_below(directory: BorrowedFd<'_>, name: &OsStr, levels: usize) -> Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        // POSIX has EPERM for a directory.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        done => return done,
    }
    let below = openat(directory, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    let levels = levels.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    for name in read_names(below.as_fd())? {
        remove_below(below.as_fd(), &name, levels)?;
    }
    unlinkat(directory, name, AtFlags::REMOVEDIR)
}

/// The names in a directory, but `.` and `..`. All at once, so that what is made or removed meanwhile does not matter.
///
/// # Errors
/// What open(2) and getdents64(2) give.
pub(super) fn read_names(directory: BorrowedFd<'_>) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in Dir::new(openat(directory, ".", flags, Mode::empty())?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}
