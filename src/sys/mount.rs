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
            std::ptr::from_ref(&attributes),
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
