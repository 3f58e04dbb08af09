//! The hidden directory in which a checkpoint grows, or is unpacked, and its removal.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::cause::{At, Cause};
use crate::ids::MachineId;

/// What the names of all of them begin with.
const PREFIX: &str = ".osier-checkpoint-";

/// A directory that only this process uses: it holds an flock(2) on it. Removed when dropped, but not by a forked child.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    owner: u32,
    _lock: File,
}

impl Scratch {
    /// Makes one in `directory`, for its owner alone: what will be in it is a machine's memory. Removes what others left
    /// there that were killed.
    pub(super) fn make(directory: &Path) -> Result<Self, Cause> {
        remove_stale(directory).at(directory)?;
        for _ in 0..100 {
            let path = directory.join(format!("{PREFIX}{}", MachineId::random().at(directory)?));
            DirBuilder::new().mode(0o700).create(&path).at(&path)?;
            // Another one may take it for stale before it is locked. That one then removes it.
            match lock(&path) {
                Ok(Some(lock)) => return Ok(Self { path, owner: std::process::id(), _lock: lock }),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Cause::io(&path, error)),
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

/// Those that nobody has locked. What cannot be removed, as another user's, stays.
fn remove_stale(directory: &Path) -> io::Result<()> {
    let is_ours = |name: &OsString| name.as_bytes().starts_with(PREFIX.as_bytes());
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if is_ours(&entry.file_name())
            && entry.file_type()?.is_dir()
            && let Ok(Some(_lock)) = lock(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// `None` when somebody has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = File::open(path)?;
    match file.try_lock() {
        // It may have been removed between the two; a directory that is gone has no links.
        Ok(()) if file.metadata()?.nlink() == 0 => Err(io::ErrorKind::NotFound.into()),
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

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
