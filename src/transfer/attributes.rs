//! Owner, mode, extended attributes and times: read from one descriptor, set on another.
//!
//! Both are `O_PATH` descriptors, for which most calls by descriptor are refused; /proc/self/fd/N is as good, for it leads to
//! the object itself, a symbolic link included, and by no name that could mean another one by now.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, getxattr,
    listxattr, removexattr, setxattr, utimensat,
};
use rustix::io::{Errno, Result};

use super::{Policy, Translation};
use crate::xattr::{CAPABILITY, LISTS, change_capabilities, change_list};

/// Who is to own a copy, as the programs of its place say it; whoever owns the source where it is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// User ID.
    pub uid: Option<u32>,
    /// Group ID.
    pub gid: Option<u32>,
}

/// The longest list of names, and the longest value (linux/limits.h: `XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const LONGEST: usize = 64 << 10;

/// Gives `to` the owner, mode, extended attributes and times of `from`.
///
/// Where the owner changes, set-ID bits and file capabilities do not come along, as with chown(2): they were meant for
/// another owner's program.
///
/// # Errors
/// What the kernel says; that the file system of `to` has no such extended attributes is none.
pub(super) fn copy(from: BorrowedFd<'_>, stat: &Stat, to: BorrowedFd<'_>, policy: Policy) -> Result<()> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let Policy { owner, ids, .. } = policy;
    let before = (ids.seen(stat.st_uid), ids.seen(stat.st_gid));
    let after = (owner.uid.unwrap_or(before.0), owner.gid.unwrap_or(before.1));
    let (user, group) = (Uid::from_raw(ids.told(after.0)?), Gid::from_raw(ids.told(after.1)?));
    chownat(to, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?;
    let path = by_descriptor(to);
    if kind != FileType::Symlink {
        remove_inherited(&path, kind)?;
        chmod(&path, Mode::from_raw_mode(mode(stat, kind, before, after)))?;
    }
    copy_extended(&by_descriptor(from), &path, (before != after, ids))?;
    utimensat(CWD, &path, &times(stat), AtFlags::empty())
}

pub(super) fn by_descriptor(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

fn mode(stat: &Stat, kind: FileType, before: (u32, u32), after: (u32, u32)) -> u32 {
    let mut mode = stat.st_mode & 0o7777;
    if before.0 != after.0 && !kind.is_dir() {
        mode &= !0o4000;
    }
    if before.1 != after.1 && !kind.is_dir() {
        mode &= !0o2000;
    }
    mode
}

#[expect(clippy::cast_possible_wrap, reason = "the same 64 bits under the other sign, as statx(2) has them")]
fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as i64 };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn remove_inherited(path: &str, kind: FileType) -> Result<()> {
    // A new file may have got one from its directory.
    let [access, default] = LISTS;
    let lists = [Some(access), kind.is_dir().then_some(default)];
    lists.into_iter().flatten().try_for_each(|list| match removexattr(path, list) {
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
        removed => removed,
    })
}

fn copy_extended(from: &str, to: &str, (foreign, ids): (bool, Translation)) -> Result<()> {
    let mut names = Vec::with_capacity(LONGEST);
    match listxattr(from, rustix::buffer::spare_capacity(&mut names)) {
        Err(Errno::NOTSUP) => return Ok(()),
        listed => listed?,
    };
    let mut value = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = std::ffi::CStr::from_bytes_with_nul(name) else { continue };
        if !is_copied(name.to_bytes(), foreign) {
            continue;
        }
        value.clear();
        value.reserve(LONGEST);
        match getxattr(from, name, rustix::buffer::spare_capacity(&mut value)) {
            // Removed meanwhile.
            Err(Errno::NODATA) => continue,
            got => got?,
        };
        if ids != Translation::None {
            match name.to_str() {
                Ok(CAPABILITY) => change_capabilities(&mut value, |id| ids.translate(id))?,
                Ok(name) if LISTS.contains(&name) => change_list(&mut value, |id| ids.translate(id))?,
                _ => {}
            }
        }
        match setxattr(to, name, &value, XattrFlags::empty()) {
            Err(Errno::NOTSUP) => {}
            set => set?,
        }
    }
    Ok(())
}

/// Security labels are what the policy of the place says, not what the file brings along.
fn is_copied(name: &[u8], foreign: bool) -> bool {
    if name == CAPABILITY.as_bytes() { !foreign } else { !name.starts_with(b"security.") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stay_and_capabilities_go_with_their_owner() {
        assert!(is_copied(b"user.note", true) && is_copied(b"system.posix_acl_access", true));
        assert!(is_copied(CAPABILITY.as_bytes(), false) && !is_copied(CAPABILITY.as_bytes(), true));
        assert!(!is_copied(b"security.selinux", false));
    }
}
