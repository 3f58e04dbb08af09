//! The hidden directory in which a checkpoint grows, or is unpacked, and its removal.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::cause::{At, Cause};
use crate::ids::MachineId;
use crate::lease::Lease;

/// What the names of all of them begin with.
const PREFIX: &str = ".osier-checkpoint-";

/// A directory that only this process uses. Removed when dropped, but not by a forked child.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    owner: u32,
    _lease: Lease,
}

impl Scratch {
    /// Makes one in `directory`, for its owner alone: what will be in it is a machine's memory. Removes what others left
    /// there that were killed.
    pub(super) fn make(directory: &Path) -> Result<Self, Cause> {
        remove_stale(directory).at(directory)?;
        for _ in 0..100 {
            let path = directory.join(format!("{PREFIX}{}", MachineId::random().at(directory)?));
            if let Some(lease) = Lease::make(&path).at(&path)? {
                return Ok(Self { path, owner: std::process::id(), _lease: lease });
            }
        }
        Err(Cause::io(directory, io::Error::from(io::ErrorKind::AlreadyExists)))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.owner == std::process::id() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes what was left in `directory` of checkpoints that were being made or unpacked there, or of restores, whose osier was killed.
/// Gives what was removed.
///
/// # Errors
/// What reading `directory` gives. What cannot be removed stays.
pub fn remove_stale(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let is_ours = |name: &OsStr| name.as_bytes().starts_with(PREFIX.as_bytes());
    let mut removed = Vec::new();
    for (path, _lease) in Lease::left(directory, is_ours)? {
        if fs::remove_dir_all(&path).is_ok() {
            removed.push(path);
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_stale_one_goes_and_one_in_use_stays() {
        let dir = TestDir::new("checkpoint-scratch");
        let used = Scratch::make(dir.path()).unwrap();
        let stale = dir.join(".osier-checkpoint-killed");
        fs::create_dir_all(stale.join("checkpoint/images")).unwrap();
        fs::write(dir.join(".osier-checkpoint-file"), "not a directory").unwrap();
        drop(Scratch::make(dir.path()).unwrap());
        assert!(used.path().is_dir() && !stale.exists());
        assert_eq!(fs::metadata(used.path()).unwrap().mode() & 0o777, 0o700);
        drop(used);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
