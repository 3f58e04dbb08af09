//! Directories that grow or are worked in, and are to go with whoever does: each is locked by flock(2) for as long as it is in use.
//! One that nobody has locked was left by somebody who was killed.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The lock on a directory. Children that are forked have it as well, until the last of them ends.
#[derive(Debug)]
pub struct Lease {
    _lock: File,
}

impl Lease {
    /// Makes the directory `path` for its owner alone and locks it. `None` when another one took it for left behind before it was
    /// locked: that one removes it.
    ///
    /// # Errors
    /// What mkdir(2) gives, `AlreadyExists` among it; what flock(2) gives.
    pub fn make(path: &Path) -> io::Result<Option<Self>> {
        DirBuilder::new().mode(0o700).create(path)?;
        match Self::take(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            taken => taken,
        }
    }

    /// Locks the directory `path`; `None` when somebody has it.
    ///
    /// # Errors
    /// `NotFound` for one that is not there, or was removed just now; what flock(2) gives.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let lock = File::open(path)?;
        match lock.try_lock() {
            // It may have been removed between the two; a directory that is gone has no links.
            Ok(()) if lock.metadata()?.nlink() == 0 => Err(io::ErrorKind::NotFound.into()),
            Ok(()) => Ok(Some(Self { _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The directories in `directory` whose names are `meant` and that nobody has locked, each with the lock, to be removed. What cannot
    /// be opened, as another user's, is not among them, and there are none in a directory that is not there.
    ///
    /// # Errors
    /// What reading `directory` gives.
    pub fn left(directory: &Path, meant: impl Fn(&OsStr) -> bool) -> io::Result<Vec<(PathBuf, Self)>> {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut left = Vec::new();
        for entry in entries {
            let entry = entry?;
            if meant(&entry.file_name())
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
                && let Ok(Some(lease)) = Self::take(&entry.path())
            {
                left.push((entry.path(), lease));
            }
        }
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_locked_was_left() {
        let dir = std::env::temp_dir().join(format!("osier-lease-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let used = Lease::make(&dir.join(".#used")).unwrap().unwrap();
        assert_eq!(fs::metadata(dir.join(".#used")).unwrap().mode() & 0o777, 0o700);
        assert_eq!(Lease::make(&dir.join(".#used")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::create_dir(dir.join(".#left")).unwrap();
        fs::create_dir(dir.join("another")).unwrap();
        fs::write(dir.join(".#file"), "").unwrap();
        let hidden = |name: &OsStr| name.as_encoded_bytes().starts_with(b".#");
        let left =
            || Lease::left(&dir, hidden).unwrap().into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(left(), [dir.join(".#left")]);
        fs::remove_dir(dir.join(".#left")).unwrap();
        drop(used);
        assert_eq!(left(), [dir.join(".#used")]);
        assert!(Lease::left(&dir.join("nowhere"), hidden).unwrap().is_empty());
        assert_eq!(Lease::take(&dir.join("nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::remove_dir_all(&dir).unwrap();
    }
}
