//! Mount calls that neither nix nor rustix has.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Attributes for [`mount_setattr`]; each a mask of `MOUNT_ATTR_*` (man 2 mount_setattr).
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttributes {
    /// Set these.
    pub set: u64,
    /// Clear these.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or 0 to leave it.
    pub propagation: u64,
}

/// `mount_setattr(2)` with `MOUNT_ATTR_IDMAP` on `mount`, which is attached nowhere yet: who is 0, 1, … on it is seen there as who
/// those are in the user namespace `users` (man 2 mount_setattr, "ID-mapped mounts").
///
/// # Errors
/// `EINVAL` for a file system that cannot, or that is mapped already; `EPERM` without CAP_SYS_ADMIN over it.
pub fn map_mount(mount: BorrowedFd<'_>, depth: MountDepth, users: BorrowedFd<'_>) -> io::Result<()> {
    let users = u64::try_from(users.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd: users };
    set_attributes(mount, c"", depth, &attributes)
}

/// `mount_setattr(2)` on `path` beneath `dir`, or on `dir` itself when `path` is empty; `recursive` is `AT_RECURSIVE`.
///
/// # Errors
/// What mount_setattr(2) gives; `ENOSYS` before Linux 5.12.
pub fn mount_setattr(
    dir: BorrowedFd<'_>,
    path: &CStr,
    depth: MountDepth,
    attributes: MountAttributes,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    set_attributes(dir, path, depth, &attributes)
}

fn set_attributes(
    dir: BorrowedFd<'_>,
    path: &CStr,
    depth: MountDepth,
    attributes: &libc::mount_attr,
) -> io::Result<()> {
    let mut flags = libc::AT_SYMLINK_NOFOLLOW;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    if depth == MountDepth::Tree {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: path is NUL-terminated and attributes a live mount_attr of the size given; the kernel only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a call is about one mount or about all below it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountDepth {
    /// This mount only.
    One,
    /// This mount and all below it.
    Tree,
}
