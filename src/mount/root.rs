//! The root of a machine: its tree, or a throw-away layer over it, made `/` of the calling process's mount namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libmount::Overlay;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::op::Access;
use crate::sys::{MountAttributes, MountDepth, mount_setattr};

/// A tmpfs that is mounted nowhere, with `upper` and `work` for overlayfs in it: what a throw-away machine writes. It
/// lives as long as somebody holds the descriptor or a mount of it, and never shows in the host's file system.
///
/// # Errors
/// What fsopen(2) and fsmount(2) give.
pub fn open_scratch() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "0755")?;
    fsconfig_create(&context)?;
    let scratch = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    for directory in ["upper", "work"] {
        rustix::fs::mkdirat(&scratch, directory, Mode::from_raw_mode(0o755))?;
    }
    Ok(scratch)
}

/// Cuts the calling process's mounts off from the host's: whatever is mounted here stays here, what the host mounts
/// still arrives (`MS_SLAVE`), so that the host can unmount what it wants.
///
/// # Errors
/// What mount(2) gives.
pub fn isolate() -> io::Result<()> {
    Ok(mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?)
}

/// Mounts the machine's root at `tree` and gives its descriptor: the tree itself with all that is mounted below it, or
/// an overlay of it when there is a `scratch` ([`open_scratch`]).
///
/// # Errors
/// What open_tree(2), move_mount(2) and mount(2) give.
pub fn attach(tree: &Path, scratch: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let clone = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
    let Some(scratch) = scratch else {
        let root = open_tree(rustix::fs::CWD, tree, clone | OpenTreeFlags::AT_RECURSIVE)?;
        move_mount(&root, "", rustix::fs::CWD, tree, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        return Ok(root);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lower = rustix::fs::open(tree, flags, Mode::empty())?;
    // overlayfs takes its layers from mounts of this namespace only (before Linux 6.15).
    let layer = open_tree(scratch, "", clone | OpenTreeFlags::AT_EMPTY_PATH)?;
    move_mount(&layer, "", rustix::fs::CWD, tree, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let by_fd = |fd: &OwnedFd, name: &str| format!("/proc/self/fd/{}{name}", fd.as_raw_fd());
    let (lower, upper, work) = (by_fd(&lower, ""), by_fd(&layer, "/upper"), by_fd(&layer, "/work"));
    Overlay::writable([Path::new(&lower)].into_iter(), upper, work, tree)
        .bare_mount()
        .map_err(|_| io::Error::last_os_error())?;
    Ok(rustix::fs::open(tree, flags, Mode::empty())?)
}

/// Makes `root` the root of this mount namespace and lets go of the host's: from here on no path leads out.
///
/// # Errors
/// What pivot_root(2) and umount(2) give.
pub fn enter(root: &OwnedFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // The old root goes on top of the new one and is then taken away again: no directory is needed for it
    // (man 2 pivot_root, `pivot_root(".", ".")`).
    rustix::process::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")
}

/// Ends the making of the root: read-only where asked (the root mount alone), and everything shared, so that what the
/// payload mounts reaches the namespaces that it makes (CONTAINER_INTERFACE; systemd expects `MS_SHARED`).
///
/// # Errors
/// What mount_setattr(2) gives.
pub fn finish(access: Access) -> io::Result<()> {
    if access == Access::ReadOnly {
        let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        mount_setattr(rustix::fs::CWD, c"/", MountDepth::One, read_only)?;
    }
    let shared = MountAttributes { propagation: libc::MS_SHARED, ..MountAttributes::default() };
    mount_setattr(rustix::fs::CWD, c"/", MountDepth::Tree, shared)
}

/// Opens a directory for holding it, not for reading it.
///
/// # Errors
/// What open(2) gives; `ENOTDIR` for anything but a directory.
pub fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}
