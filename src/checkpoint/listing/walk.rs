//! The walk through a tree: no name is followed, no mount is entered.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxAttributes, StatxFlags, lgetxattr, llistxattr,
    openat, readlinkat, statx,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::{Depth, Entry, Kind, ListingError};
use crate::checkpoint::Watch;
use crate::checkpoint::cause::Cause;
use crate::checkpoint::draft::copy;
use crate::checkpoint::member::Summing;

/// So deep may directories be nested; a path of twice as many could not be said (`PATH_MAX`).
const MOST_LEVELS: usize = 1000;
/// The longest list of names, and the longest value (linux/limits.h: `XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const LONGEST: usize = 64 << 10;
/// The one security attribute that is no label (man 7 capabilities).
const CAPABILITY: &[u8] = b"security.capability";

struct Walk<'a> {
    depth: Depth,
    watch: &'a mut dyn Watch,
    entries: Vec<Entry>,
    /// The path of the object that is looked at.
    path: Vec<u8>,
    /// The first names of what has several.
    names: HashMap<(u32, u32, u64), Vec<u8>>,
    /// The attributes of one object.
    buffer: Vec<u8>,
    levels: usize,
}

pub(super) fn read(root: &Path, depth: Depth, watch: &mut dyn Watch) -> Result<Vec<Entry>, ListingError> {
    let fail = |error: Errno| ListingError::Io(root.to_owned(), error.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, root, flags, Mode::empty()).map_err(fail)?;
    let found = statx(&directory, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(fail)?;
    let mut walk = Walk {
        depth,
        watch,
        entries: Vec::new(),
        path: Vec::new(),
        names: HashMap::new(),
        buffer: Vec::with_capacity(LONGEST),
        levels: 0,
    };
    walk.add((directory.as_fd(), c"."), &found)?;
    walk.descend(directory)?;
    Ok(walk.entries)
}

impl Walk<'_> {
    fn fail(&self, error: impl Into<io::Error>) -> ListingError {
        ListingError::Io(PathBuf::from(OsStr::from_bytes(&self.path)), error.into())
    }

    fn descend(&mut self, directory: OwnedFd) -> Result<(), ListingError> {
        self.levels += 1;
        if self.levels > MOST_LEVELS {
            return Err(ListingError::TooDeep(PathBuf::from(OsStr::from_bytes(&self.path))));
        }
        self.watch.check().map_err(ListingError::Stopped)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).map_err(|error| self.fail(error))? {
            let entry = entry.map_err(|error| self.fail(error))?;
            if ![c".", c".."].contains(&entry.file_name()) && entry.file_type() != FileType::Socket {
                names.push(entry.file_name().to_owned());
            }
        }
        // Directory by directory, that is the order of the whole.
        names.sort_unstable();
        let length = self.path.len();
        for name in names {
            if length > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            self.visit(directory.as_fd(), &name)?;
            self.path.truncate(length);
        }
        self.levels -= 1;
        Ok(())
    }

    fn visit(&mut self, directory: BorrowedFd<'_>, name: &CString) -> Result<(), ListingError> {
        let found = statx(directory, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
            .map_err(|error| self.fail(error))?;
        let kind = FileType::from_raw_mode(found.stx_mode.into());
        // Not every file system says what it is in the directory.
        if kind == FileType::Socket {
            return Ok(());
        }
        self.add((directory, name), &found)?;
        if kind == FileType::Directory && !found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = openat(directory, name.as_c_str(), flags, Mode::empty());
            self.descend(opened.map_err(|error| self.fail(error))?)?;
        }
        Ok(())
    }

    fn add(&mut self, at: (BorrowedFd<'_>, &CStr), found: &Statx) -> Result<(), ListingError> {
        let kind = self.kind(at, found)?;
        let first = match kind {
            Kind::Directory => None,
            _ if found.stx_nlink < 2 => None,
            _ => {
                let identity = (found.stx_dev_major, found.stx_dev_minor, found.stx_ino);
                let first = self.names.entry(identity).or_insert_with(|| self.path.clone());
                (*first != self.path).then(|| first.clone())
            }
        };
        let attributes = self.attributes(at).map_err(|error| self.fail(error))?;
        self.entries.push(Entry {
            path: self.path.clone(),
            kind,
            mode: u32::from(found.stx_mode) & 0o7777,
            uid: found.stx_uid,
            gid: found.stx_gid,
            modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
            attributes,
            first,
        });
        Ok(())
    }

    fn kind(
        &mut self,
        (directory, name): (BorrowedFd<'_>, &CStr),
        found: &Statx,
    ) -> Result<Kind, ListingError> {
        let device = (found.stx_rdev_major, found.stx_rdev_minor);
        Ok(match FileType::from_raw_mode(found.stx_mode.into()) {
            FileType::RegularFile => {
                let content = match self.depth {
                    Depth::Quick => None,
                    Depth::Content => Some(self.content(directory, name)?),
                };
                Kind::File { size: found.stx_size, content }
            }
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new()).map_err(|error| self.fail(error))?;
                Kind::Link(target.into_bytes())
            }
            FileType::CharacterDevice => Kind::Character(device.0, device.1),
            FileType::BlockDevice => Kind::Block(device.0, device.1),
            FileType::Fifo => Kind::Fifo,
            _ => Kind::Directory,
        })
    }

    fn content(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<super::Sum, ListingError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(directory, name, flags, Mode::empty()).map_err(|error| self.fail(error))?;
        let mut content = Summing::new(File::from(file));
        match copy(&mut content, &mut io::sink(), self.watch) {
            Ok(copied) => copied.map_err(|error| self.fail(error))?,
            Err(Cause::Stopped(why)) => return Err(ListingError::Stopped(why)),
            Err(_) => return Err(self.fail(io::ErrorKind::Other)),
        }
        Ok(content.finish().0)
    }

    /// By way of /proc, which leads to the directory by no name that could mean another one.
    fn attributes(&mut self, (directory, name): (BorrowedFd<'_>, &CStr)) -> Result<Option<[u8; 16]>, Errno> {
        let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        self.buffer.clear();
        match llistxattr(path.as_slice(), rustix::buffer::spare_capacity(&mut self.buffer)) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(None),
            listed => listed?,
        };
        let names = self.buffer.split(|byte| *byte == 0).filter(|name| is_kept(name));
        let mut names: Vec<_> = names.map(<[u8]>::to_vec).collect();
        if names.is_empty() {
            return Ok(None);
        }
        names.sort_unstable();
        let mut state = Sha256::new();
        for name in names {
            self.buffer.clear();
            match lgetxattr(
                path.as_slice(),
                name.as_slice(),
                rustix::buffer::spare_capacity(&mut self.buffer),
            ) {
                Err(Errno::NODATA) => continue,
                got => got?,
            };
            // No two lists give the same bytes: a name has no zero, and a value its length before it.
            state.update(&name);
            state.update([0]);
            state.update((self.buffer.len() as u64).to_le_bytes());
            state.update(&self.buffer);
        }
        let sum: [u8; 32] = state.finalize().into();
        Ok(sum.first_chunk().copied())
    }
}

/// As in archives of trees: security labels are what the policy of the place says.
fn is_kept(name: &[u8]) -> bool {
    !name.is_empty() && (name == CAPABILITY || !name.starts_with(b"security."))
}
