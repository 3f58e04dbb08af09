//! The directory in which a tree grows, and its removal.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use libmount::mountinfo::Parser;
use nix::mount::{MntFlags, umount2};

use crate::lease::Lease;

/// What stands between the image's name and what makes one directory differ from another.
const MARK: &[u8] = b".osier-";

/// A directory that only this build uses. Removed when closed or dropped, but not by a forked child.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    owner: u32,
    free: u64,
    _lease: Lease,
}

impl Scratch {
    /// Makes one beside `target`, with the directories `tree` and `tmp` in it.
    ///
    /// # Errors
    /// What mkdir(2) and flock(2) give.
    pub fn make(target: &Path) -> io::Result<Self> {
        for attempt in 0..100 {
            let mut name = prefix(target);
            name.push(format!("{}-{attempt}", std::process::id()));
            let path = target.with_file_name(name);
            match Lease::make(&path) {
                Ok(Some(lease)) => return Self::prepare(path, lease),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn prepare(path: PathBuf, lease: Lease) -> io::Result<Self> {
        let scratch = Self { free: free(&path)?, path, owner: std::process::id(), _lease: lease };
        DirBuilder::new().mode(0o755).create(scratch.tree())?;
        // apt runs its downloads as another user, who needs a place for temporary files.
        DirBuilder::new().mode(0o1777).create(scratch.temporary())?;
        Ok(scratch)
    }

    /// Removes what builds of `target` left that were killed: a scratch directory that nobody has locked.
    ///
    /// # Errors
    /// What reading the directory above, unlink(2) and umount(2) give.
    pub fn remove_stale(target: &Path) -> io::Result<()> {
        let Some(parent) = target.parent() else { return Ok(()) };
        let prefix = prefix(target);
        let is_its = |name: &OsStr| name.as_bytes().starts_with(prefix.as_bytes());
        Lease::left(parent, is_its)?.iter().try_for_each(|(path, _lease)| remove(path))
    }

    /// Removes what builds of all targets in `directory` left. Gives what was removed, each with the target's name.
    ///
    /// # Errors
    /// As [`Scratch::remove_stale`].
    pub fn remove_all_stale(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
        let mut removed = Vec::new();
        for (path, _lease) in Lease::left(directory, |name| target_of(name).is_some())? {
            remove(&path)?;
            let name = path.file_name().and_then(target_of).unwrap_or_default();
            removed.push((name.to_string_lossy().into_owned(), path));
        }
        Ok(removed)
    }

    /// Where the tree grows.
    pub fn tree(&self) -> PathBuf {
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
    pub fn close(self) -> io::Result<()> {
        remove(&self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.owner == std::process::id() {
            let _ = remove(&self.path);
        }
    }
}

fn prefix(target: &Path) -> OsString {
    let mut prefix = OsString::from(".#");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(OsStr::from_bytes(MARK));
    prefix
}

/// The name of the target whose scratch directory has this name; `None` for what is none.
fn target_of(name: &OsStr) -> Option<&OsStr> {
    let rest = name.as_bytes().strip_prefix(b".#")?;
    let at = rest.windows(MARK.len()).rposition(|window| window == MARK)?;
    let (target, number) = rest.split_at(at);
    let is_number = |byte: &u8| byte.is_ascii_digit() || *byte == b'-';
    number[MARK.len()..].iter().all(is_number).then(|| OsStr::from_bytes(target))
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

        for other in [".#web.osier-clocks", ".#web.lck", "web.osier-1-0"] {
            fs::create_dir(dir.join(other)).unwrap();
        }
        let removed = Scratch::remove_all_stale(dir.path()).unwrap();
        assert_eq!(removed, [("web2".to_owned(), dir.join(".#web2.osier-1-0"))]);
        assert_eq!(entries(&dir), 5);
    }
}
