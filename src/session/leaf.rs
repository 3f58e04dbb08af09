//! The cgroup of one session: a directory below the machine's `payload`, which may hold controllers and so no process
//! itself (Documentation/admin-guide/cgroup-v2.rst, No Internal Process Constraint).

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The directory, removed with this; what a session left running keeps it, until the machine's end.
#[derive(Debug)]
pub(super) struct Leaf {
    path: PathBuf,
    fd: OwnedFd,
    /// A forked child has a copy of this and must not remove the directory.
    owner: u32,
}

impl Leaf {
    /// Makes it below `payload`.
    ///
    /// # Errors
    /// What mkdir(2) and open(2) give.
    pub(super) fn make(payload: &Path) -> io::Result<Self> {
        let owner = std::process::id();
        let (path, fd) = make_first_free(payload, owner)?;
        Ok(Self { path, fd, owner })
    }
}

/// One process may have several sessions, and one that had its number may have left something running.
fn make_first_free(payload: &Path, owner: u32) -> io::Result<(PathBuf, OwnedFd)> {
    let mut number = 0u32;
    loop {
        let path = payload.join(format!("osier-{owner}.{number}"));
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            made => {
                made?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                return Ok((path.clone(), rustix::fs::open(&path, flags, Mode::empty())?));
            }
        }
    }
}

impl AsFd for Leaf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        if self.owner == std::process::id() {
            // EBUSY: something runs on in it. ENOENT: the machine has ended, and its cgroup with it.
            let _ = fs::remove_dir(&self.path);
        }
    }
}
