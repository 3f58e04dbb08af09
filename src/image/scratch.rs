//! The directory in which a tree grows, and its removal.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use libmount::mountinfo::Parser;
use nix::mount::{MntFlags, umount2};

/// A directory that only this build uses: it holds an flock(2) on it. Removed when closed or dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    _lock: File,
    free: u64,
}

impl Scratch {
    /// Makes one beside `target`, with the directories `tree` and `tmp` in it.
    pub(super) fn make(target: &Path) -> io::Result<Self> {
        for attempt in 0..100 {
            let mut name = prefix(target);
            name.push(format!("{}-{attempt}", std::process::id()));
            let path = target.with_file_name(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                done => done?,
            }
            // Another build may take it for stale before it is locked. That one then removes it.
            match lock(&path) {
                Ok(Some(lock)) => return Self::prepare(path, lock),
                Ok(None) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn prepare(path: PathBuf, lock: File) -> io::Result<Self> {
        let scratch = Self { free: free(&path)?, path, _lock: lock };
        DirBuilder::new().mode(0o755).create(scratch.tree())?;
        // apt runs its downloads as another user, who needs a place for temporary files.
        DirBuilder::new().mode(0o1777).create(scratch.temporary())?;
        Ok(scratch)
    }

    /// Removes what builds of `target` left that were killed: a scratch directory that nobody has locked.
    pub(super) fn remove_stale(target: &Path) -> io::Result<()> {
        let Some(parent) = target.parent() else { return Ok(()) };
        let prefix = prefix(target);
        for entry in fs::read_dir(parent)? {
            let entry = entry?;
            if !entry.file_name().as_bytes().starts_with(prefix.as_bytes()) || !entry.file_type()?.is_dir() {
                continue;
            }
            match lock(&entry.path()) {
                Ok(Some(_lock)) => remove(&entry.path())?,
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Where the tree grows.
    pub(super) fn tree(&self) -> PathBuf {
        self.path.join("tree")
    }

    /// Where the tools put temporary files.
    pub(super) fn temporary(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// By about how much the file system has grown, in bytes.
    pub(super) fn written(&self) -> u64 {
        free(&self.path).map_or(0, |free| self.free.saturating_sub(free))
    }

    /// How much space the tree's files take, in bytes.
    pub(super) fn size(&self) -> io::Result<u64> {
        size(&self.tree())
    }

    /// Removes it.
    ///
    /// # Errors
    /// What unlink(2) and umount(2) give.
    pub(super) fn close(self) -> io::Result<()> {
        remove(&self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove(&self.path);
    }
}

fn prefix(target: &Path) -> OsString {
    let mut prefix = OsString::from(".#");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(".osier-");
    prefix
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

fn free(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bfree * stat.f_frsize)
}

fn size(directory: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += metadata.blocks() * 512;
        if metadata.is_dir() {
            sum += size(&entry.path())?;
        }
    }
    Ok(sum)
}

/// Removes a directory with everything in it, and never what is mounted in it: the tools may have left a mount of the
/// host's /proc or /dev there.
fn remove(path: &Path) -> io::Result<()> {
    detach_below(path)?;
    for attempt in 0.. {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            // A process that is just being killed may still have made a file.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && attempt < 5 => {}
            done => return done,
        }
    }
    Ok(())
}

fn detach_below(path: &Path) -> io::Result<()> {
    // The last one mounted is on top.
    for point in mounts_from(path)?.iter().rev() {
        umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    Ok(())
}

/// Something that is mounted in the tree at `path` (absolute, canonical), which is none of the tree's; a tree may be a mount
/// itself.
///
/// # Errors
/// What reading /proc/self/mountinfo gives.
pub fn mounted_below(path: &Path) -> io::Result<Option<PathBuf>> {
    Ok(mounts_from(path)?.into_iter().find(|point| point != path))
}

/// What is mounted at `path` or below, in the order in which it was mounted.
fn mounts_from(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read("/proc/self/mountinfo")?;
    let mut below = Vec::new();
    for mount in Parser::new(&mounts) {
        let mount = mount.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let point = Path::new(&mount.mount_point);
        if point.starts_with(path) {
            below.push(point.to_owned());
        }
    }
    Ok(below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    fn entries(dir: &TestDir) -> usize {
        fs::read_dir(dir.path()).unwrap().count()
    }

    #[test]
    fn it_is_gone_when_dropped_and_a_stale_one_with_the_next_build() {
        let dir = TestDir::new("scratch");
        let target = dir.join("web");
        drop(Scratch::make(&target).unwrap());
        assert_eq!(entries(&dir), 0);

        // What a build leaves that was killed: the directory and no lock.
        fs::create_dir_all(dir.join(".#web.osier-1-0/tree/etc")).unwrap();
        fs::create_dir_all(dir.join(".#web2.osier-1-0/tree")).unwrap();
        let alive = Scratch::make(&target).unwrap();
        Scratch::remove_stale(&target).unwrap();
        assert!(!dir.join(".#web.osier-1-0").exists());
        assert!(alive.tree().exists(), "another build that is under way");
        assert!(dir.join(".#web2.osier-1-0").exists(), "another target's");
        let second = Scratch::make(&target).unwrap();
        assert_ne!(second.tree(), alive.tree());
    }
}
