//! Extended attributes: which of them an archive holds, read from an object and set on one.

use std::ffi::{CStr, CString};

use rustix::buffer::spare_capacity;
use rustix::fs::{XattrFlags, getxattr, listxattr, listxattr_query, removexattr, setxattr};
use rustix::io::{Errno, Result};

/// The longest list of names, and the longest value (linux/limits.h: `XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const LONGEST: usize = 64 << 10;

/// Those that an archive holds of what is at `path`, a path of no symbolic link but the object's own (/proc/self/fd/N).
pub(super) fn read(path: &str) -> Result<Vec<(CString, Vec<u8>)>> {
    let mut names = Vec::new();
    let length = match listxattr_query(path) {
        Err(Errno::NOTSUP) => 0,
        length => length?,
    };
    if length == 0 {
        return Ok(Vec::new());
    }
    names.reserve(LONGEST);
    listxattr(path, spare_capacity(&mut names))?;
    let mut found = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if !is_kept(name.to_bytes()) {
            continue;
        }
        let mut value = Vec::with_capacity(LONGEST);
        match getxattr(path, name, spare_capacity(&mut value)) {
            // Removed meanwhile.
            Err(Errno::NODATA) => continue,
            got => got?,
        };
        value.shrink_to_fit();
        found.push((name.to_owned(), value));
    }
    Ok(found)
}

/// Removes those of what is at `path` that an archive would hold, but those that `stay` names: what a new file got from its
/// directory, or an old one had before.
pub(super) fn remove_others(path: &str, stay: &[(CString, Vec<u8>)]) -> Result<()> {
    for (name, _) in read(path)? {
        if stay.iter().any(|(stays, _)| *stays == name) {
            continue;
        }
        match removexattr(path, &*name) {
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            removed => removed?,
        }
    }
    Ok(())
}

/// Sets one; that the file system has no such attributes is no error.
pub(super) fn set(path: &str, name: &CStr, value: &[u8]) -> Result<()> {
    match setxattr(path, name, value, XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        set => set,
    }
}

/// Labels of security modules are what the policy of the place says, not what a file brings along.
pub(super) fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability" || !name.starts_with(b"security.")
}
