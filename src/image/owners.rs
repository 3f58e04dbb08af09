//! A tree that is made a range's: for machines with users of their own, where the mounts of its file system cannot be mapped.
//!
//! Of each ID the lower 16 bits stay, and the upper ones become the range's, as systemd-nspawn does it: so what was given to one range can
//! be given to another, and what was interrupted is simply begun again. Until all is done the tree's root belongs to nobody that is.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, XattrFlags, chmod, chownat, fstat,
    getxattr, openat2, setxattr,
};
use rustix::io::Errno;

use crate::idrange::{IdRange, WIDTH};
use crate::xattr::{CAPABILITY, LISTS, change_capabilities, change_list};

/// Whose the root of a tree is meanwhile: systemd-nspawn takes it for that, too.
const BUSY: u32 = 0xfffe_0000;
/// So deep may directories be nested: each level takes a descriptor and a stack frame.
const MOST_LEVELS: usize = 1000;
/// linux/limits.h, `XATTR_SIZE_MAX`.
const LONGEST: usize = 64 << 10;

/// Why a tree has not become a range's.
#[derive(Debug)]
pub enum OwnersError {
    /// The range does not begin at a multiple of 65536.
    Unaligned(IdRange),
    /// At this path.
    Io(PathBuf, io::Error),
    /// Whoever follows it wanted it to stop, for this reason.
    Stopped(String),
}

impl fmt::Display for OwnersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned(range) => write!(f, "the range {range} does not begin at a multiple of {WIDTH}"),
            Self::Io(path, error) => write!(f, "'{}': {}", path.display(), crate::error::reason(error)),
            Self::Stopped(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for OwnersError {}

/// Makes all that is in `tree` the range's, but what is mounted in it. `follow` is told how many objects have been looked at, and can have
/// it stopped.
///
/// # Errors
/// [`OwnersError`]. Begun again, it goes on.
pub fn give(
    tree: &Path,
    range: IdRange,
    follow: &mut dyn FnMut(u64) -> Result<(), String>,
) -> Result<(), OwnersError> {
    if !range.first().is_multiple_of(WIDTH) {
        return Err(OwnersError::Unaligned(range));
    }
    let mut walk = Walk { first: range.first(), seen: 0, path: tree.to_owned(), follow };
    walk.whole(tree)
}

struct Walk<'f> {
    first: u32,
    seen: u64,
    path: PathBuf,
    follow: &'f mut dyn FnMut(u64) -> Result<(), String>,
}

impl Walk<'_> {
    fn whole(&mut self, tree: &Path) -> Result<(), OwnersError> {
        let root = rustix::fs::open(tree, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = root.map_err(|errno| self.failed(errno))?;
        let stat = fstat(&root).map_err(|errno| self.failed(errno))?;
        let busy = Some(Uid::from_raw(BUSY));
        chownat(&root, "", busy, None, AtFlags::EMPTY_PATH).map_err(|errno| self.failed(errno))?;
        self.below(&root, 0)?;
        self.own(&root, &stat)
    }

    fn below(&mut self, directory: &OwnedFd, level: usize) -> Result<(), OwnersError> {
        if level == MOST_LEVELS {
            return Err(self.failed(Errno::NAMETOOLONG));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::openat(directory, ".", flags, Mode::empty());
        let entries = readable.and_then(Dir::new).map_err(|errno| self.failed(errno))?;
        for entry in entries {
            let entry = entry.map_err(|errno| self.failed(errno))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            self.path.push(name);
            self.one(directory.as_fd(), name, level)?;
            self.path.pop();
        }
        Ok(())
    }

    fn one(&mut self, above: BorrowedFd<'_>, name: &OsStr, level: usize) -> Result<(), OwnersError> {
        self.seen += 1;
        (self.follow)(self.seen).map_err(OwnersError::Stopped)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let object = match openat2(above, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
            // Something else is mounted there, or it is gone.
            Err(Errno::XDEV | Errno::NOENT) => return Ok(()),
            opened => opened.map_err(|errno| self.failed(errno))?,
        };
        let stat = fstat(&object).map_err(|errno| self.failed(errno))?;
        self.own(&object, &stat)?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() { self.below(&object, level + 1) } else { Ok(()) }
    }

    fn own(&self, object: &OwnedFd, stat: &Stat) -> Result<(), OwnersError> {
        let shifted = |id: u32| Ok::<_, Errno>(self.first | id & (WIDTH - 1));
        let own = || -> rustix::io::Result<()> {
            let (user, group) = (shifted(stat.st_uid)?, shifted(stat.st_gid)?);
            let now = fstat(object)?;
            // By another name of it.
            if (now.st_uid, now.st_gid) == (user, group) {
                return Ok(());
            }
            let path = format!("/proc/self/fd/{}", object.as_raw_fd());
            let is_link = FileType::from_raw_mode(stat.st_mode).is_symlink();
            let mut kept = Vec::new();
            for name in LISTS.into_iter().chain([CAPABILITY]).filter(|_| !is_link) {
                let Some(mut value) = read(&path, name)? else { continue };
                match name {
                    CAPABILITY => change_capabilities(&mut value, shifted)?,
                    _ => change_list(&mut value, shifted)?,
                }
                kept.push((name, value));
            }
            chownat(object, "", Some(Uid::from_raw(user)), Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
            if !is_link {
                // What chown(2) has taken away: set-ID bits, capabilities.
                chmod(&path, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
            }
            kept.iter().try_for_each(|(name, value)| setxattr(&path, *name, value, XattrFlags::empty()))
        };
        own().map_err(|errno| self.failed(errno))
    }

    fn failed(&self, errno: Errno) -> OwnersError {
        OwnersError::Io(self.path.clone(), errno.into())
    }
}

fn read(path: &str, name: &str) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut value = Vec::with_capacity(LONGEST);
    match getxattr(path, name, rustix::buffer::spare_capacity(&mut value)) {
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        read => read.map(|_| Some(value)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};

    use super::*;
    use crate::testdir::TestDir;

    fn go_on(_: u64) -> Result<(), String> {
        Ok(())
    }

    fn owner(path: &Path) -> (u32, u32) {
        let found = path.symlink_metadata().unwrap();
        (found.uid(), found.gid())
    }

    #[test]
    fn all_becomes_the_range_s_and_another_s_after_that() {
        let dir = TestDir::new("owners");
        let tree = dir.join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/program"), "").unwrap();
        fs::set_permissions(tree.join("a/program"), fs::Permissions::from_mode(0o4755)).unwrap();
        // CAP_NET_RAW.
        let capability = [&0x0200_0001_u32.to_le_bytes()[..], &0x2000_u32.to_le_bytes(), &[0; 12]].concat();
        setxattr(tree.join("a/program"), CAPABILITY, &capability, XattrFlags::empty()).unwrap();
        fs::hard_link(tree.join("a/program"), tree.join("again")).unwrap();
        chown(tree.join("a/b"), Some(1000), Some(65_535)).unwrap();
        symlink("/etc/passwd", tree.join("link")).unwrap();
        lchown(tree.join("link"), Some(7), Some(8)).unwrap();
        let passwd = owner(Path::new("/etc/passwd"));
        for first in [655_360, 720_896] {
            give(&tree, IdRange::new(first, WIDTH).unwrap(), &mut go_on).unwrap();
            assert_eq!(owner(&tree), (first, first));
            assert_eq!(owner(&tree.join("a/b")), (first + 1000, first + 65_535));
            assert_eq!(owner(&tree.join("again")), (first, first));
            assert_eq!(owner(&tree.join("link")), (first + 7, first + 8));
            assert_eq!(fs::metadata(tree.join("again")).unwrap().mode() & 0o7777, 0o4755);
            let found = read(tree.join("again").to_str().unwrap(), CAPABILITY).unwrap().unwrap();
            assert_eq!(found[20..], first.to_le_bytes());
        }
        assert_eq!(owner(Path::new("/etc/passwd")), passwd);
        give(&tree, IdRange::IDENTITY, &mut go_on).unwrap();
        assert_eq!(read(tree.join("again").to_str().unwrap(), CAPABILITY).unwrap().unwrap(), capability);
    }

    #[test]
    fn what_was_stopped_is_begun_again() {
        let dir = TestDir::new("owners-stopped");
        let tree = dir.join("tree");
        for name in ["a", "b", "c"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        let range = IdRange::new(655_360, WIDTH).unwrap();
        let mut stop = |seen| if seen == 2 { Err("enough".to_owned()) } else { Ok(()) };
        let stopped = give(&tree, range, &mut stop);
        assert!(matches!(&stopped, Err(OwnersError::Stopped(why)) if why == "enough"), "{stopped:?}");
        assert_eq!(owner(&tree).0, BUSY);
        give(&tree, range, &mut go_on).unwrap();
        for path in [tree.clone(), tree.join("a"), tree.join("b"), tree.join("c")] {
            assert_eq!(owner(&path), (655_360, 655_360));
        }
        let odd = IdRange::new(655_361, WIDTH).unwrap();
        assert!(matches!(give(&tree, odd, &mut go_on), Err(OwnersError::Unaligned(_))));
    }
}
