//! Files that stand for something in use, locked as systemd and its programs lock them: by open file description locks
//! (`F_OFD_SETLK`, man 2 fcntl_locking) on the whole file; seen in systemd 252 and 257.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};

/// How much of something one needs for oneself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody else may use it: it is going to be written to.
    Exclusive,
    /// Others may read it as well.
    Shared,
}

/// A file that is held, locked as a whole. A forked child shares the lock for as long as it has the descriptor, which is
/// close-on-exec.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    file: File,
    access: Access,
}

impl LockFile {
    /// Makes the file where it is missing, and takes it; `None` when another process has it.
    ///
    /// # Errors
    /// What open(2) and fcntl(2) give.
    pub fn take(path: &Path, access: Access) -> io::Result<Option<Self>> {
        loop {
            let flags = libc::O_NOFOLLOW | libc::O_NOCTTY;
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
            let file = options.open(path)?;
            if !set_lock(&file, access)? {
                return Ok(None);
            }
            let taken = Self { path: path.to_owned(), file, access };
            match taken.file.metadata() {
                Ok(found) if found.nlink() > 0 => return Ok(Some(taken)),
                // Its last holder removed it between the open and the lock: this one excludes nobody.
                Ok(_) => {}
                Err(error) => {
                    let _ = taken.release();
                    return Err(error);
                }
            }
        }
    }

    /// Whether nobody has the file, which is there.
    ///
    /// # Errors
    /// What open(2) and fcntl(2) give.
    pub fn is_free(path: &Path) -> io::Result<bool> {
        // For the moment that this takes nobody else has it.
        set_lock(&File::options().read(true).write(true).open(path)?, Access::Exclusive)
    }

    /// Gives it back and removes it. Only who has the file alone may remove it, and while it does: another would otherwise
    /// hold a lock on a file that has no name any more, and a third one its successor.
    ///
    /// # Errors
    /// What fcntl(2) and unlink(2) give.
    pub fn release(self) -> io::Result<()> {
        if self.access == Access::Exclusive || set_lock(&self.file, Access::Exclusive)? {
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Locks the whole file, or says `false` when somebody else's lock forbids it.
fn set_lock(file: &File, access: Access) -> io::Result<bool> {
    let kind = match access {
        Access::Exclusive => libc::F_WRLCK,
        Access::Shared => libc::F_RDLCK,
    };
    let range = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(true),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
