//! The root of a machine: its tree, or a throw-away layer over it, made `/` of the calling process's mount namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libmount::Overlay;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::op::Access;
use crate::sys::{MountAttributes, MountDepth, map_mount, mount_setattr, unshare_namespaces};

/// A tmpfs with `upper` and `work` for overlayfs in it: what a throw-away machine writes. It is the root, and all there
/// is, of a mount namespace that the descriptor stands for; it lives as long as somebody holds that or a mount of it, and
/// never shows in the host's file system.
///
/// In a namespace because a mount outside of any can be given to one machine, not to the next after a reboot: before Linux
/// 6.15 open_tree(2) clones only what is mounted.
///
/// # Errors
/// What unshare(2), fsopen(2) and fsmount(2) give.
pub fn open_scratch() -> io::Result<OwnedFd> {
    elsewhere(|| {
        unshare_namespaces(UnshareFlags::NEWNS)?;
        isolate()?;
        let namespace = own_namespace()?;
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "mode", "0755")?;
        fsconfig_create(&context)?;
        let scratch = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        for directory in ["upper", "work"] {
            rustix::fs::mkdirat(&scratch, directory, Mode::from_raw_mode(0o755))?;
        }
        // Any directory will do that is there for sure.
        move_mount(&scratch, "", rustix::fs::CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        enter(&scratch)?;
        Ok(namespace)
    })
}

/// A detached mount of the tmpfs of a scratch.
fn clone_scratch(scratch: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    elsewhere(|| {
        move_into_link_name_space(scratch, Some(LinkNameSpaceType::Mount))?;
        Ok(open_tree(
            rustix::fs::CWD,
            "/",
            OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE,
        )?)
    })
}

/// Does `work`, which changes the mount namespace, and comes back to this one, root and working directory too
/// (setns(2) resets both).
pub(super) fn elsewhere<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let home = own_namespace()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())?;
    let directory = rustix::fs::open(".", flags, Mode::empty())?;
    let result = work();
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))?;
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")?;
    rustix::process::fchdir(&directory)?;
    result
}

/// Does `work` in a mount namespace of its own, in which the machine's root is mounted at `tree`, as [`attach`] does it, and
/// is nobody's peer: what CRIU wants of the root of what it brings back.
///
/// # Errors
/// As [`attach`]; what unshare(2) gives, and `work`.
pub fn apart<T>(
    tree: &Path,
    scratch: Option<BorrowedFd<'_>>,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    elsewhere(|| {
        unshare_namespaces(UnshareFlags::NEWNS)?;
        isolate()?;
        let root = attach(tree, scratch, Owner::HOST)?;
        let private = MountAttributes { propagation: libc::MS_PRIVATE, ..MountAttributes::default() };
        mount_setattr(root.as_fd(), c"", MountDepth::Tree, private)?;
        work()
    })
}

fn own_namespace() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc/self/ns/mnt", flags, Mode::empty())?)
}

/// Cuts the calling process's mounts off from the host's: whatever is mounted here stays here, what the host mounts
/// still arrives (`MS_SLAVE`), so that the host can unmount what it wants.
///
/// # Errors
/// What mount(2) gives.
pub fn isolate() -> io::Result<()> {
    Ok(mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?)
}

/// Whose the root of a machine is.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The host's ID of the machine's root.
    pub root: u32,
    /// The user namespace by which the tree's files are mapped to the machine's IDs; nothing where they are those already.
    pub mapped: Option<BorrowedFd<'a>>,
}

impl Owner<'_> {
    /// Of a machine without IDs of its own.
    pub const HOST: Self = Self { root: 0, mapped: None };
}

/// Whether mounts of the file system that `tree` is on can be mapped: by trying it with the IDs of `users`.
///
/// # Errors
/// What open_tree(2) gives.
pub fn can_map(tree: &Path, users: BorrowedFd<'_>) -> io::Result<bool> {
    let clone = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
    let tried = open_tree(rustix::fs::CWD, tree, clone)?;
    Ok(map_mount(tried.as_fd(), MountDepth::One, users).is_ok())
}

/// Mounts the machine's root at `tree` and gives its descriptor: the tree itself with all that is mounted below it, or
/// an overlay of it when there is a `scratch` ([`open_scratch`]).
///
/// # Errors
/// What open_tree(2), move_mount(2) and mount(2) give; what [`map_mount`] gives.
pub fn attach(tree: &Path, scratch: Option<BorrowedFd<'_>>, owner: Owner<'_>) -> io::Result<OwnedFd> {
    let clone = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
    let on_tree = |mount: &OwnedFd| {
        move_mount(mount, "", rustix::fs::CWD, tree, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    };
    let Some(scratch) = scratch else {
        let root = open_tree(rustix::fs::CWD, tree, clone | OpenTreeFlags::AT_RECURSIVE)?;
        if let Some(users) = owner.mapped {
            // What is mounted below and cannot be mapped is nobody's.
            map_mount(root.as_fd(), MountDepth::Tree, users)
                .or_else(|_| map_mount(root.as_fd(), MountDepth::One, users))?;
        }
        on_tree(&root)?;
        return Ok(root);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lower = match owner.mapped {
        None => rustix::fs::open(tree, flags, Mode::empty())?,
        Some(users) => {
            let lower = open_tree(rustix::fs::CWD, tree, clone)?;
            map_mount(lower.as_fd(), MountDepth::One, users)?;
            on_tree(&lower)?;
            lower
        }
    };
    let layer = clone_scratch(scratch)?;
    if owner.root != 0 {
        let (user, group) = (rustix::fs::Uid::from_raw(owner.root), rustix::fs::Gid::from_raw(owner.root));
        rustix::fs::chownat(&layer, "upper", Some(user), Some(group), AtFlags::empty())?;
    }
    // overlayfs takes its layers from mounts of this namespace only (before Linux 6.15).
    on_tree(&layer)?;
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

/// What of the host's later mounts reaches a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromHost {
    /// What is mounted below what it was given.
    Mounts,
    /// Nothing.
    Nothing,
}

/// Ends the making of the root: read-only where asked (the root mount alone), and everything shared, so that what the
/// payload mounts reaches the namespaces that it makes (CONTAINER_INTERFACE; systemd expects `MS_SHARED`).
///
/// # Errors
/// What mount_setattr(2) gives.
pub fn finish(access: Access, host: FromHost) -> io::Result<()> {
    if access == Access::ReadOnly {
        let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        mount_setattr(rustix::fs::CWD, c"/", MountDepth::One, read_only)?;
    }
    if host == FromHost::Nothing {
        let private = MountAttributes { propagation: libc::MS_PRIVATE, ..MountAttributes::default() };
        mount_setattr(rustix::fs::CWD, c"/", MountDepth::Tree, private)?;
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
