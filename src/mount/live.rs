//! Mounting into a machine that runs: a part of the host's file systems, cloned here, attached in there. It ends with the
//! machine's mount namespace.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::op::Access;
use super::root::elsewhere;
use crate::sys::{MountAttributes, MountDepth, mount_setattr};

/// A clone of what `source` leads to, with all that is mounted below it, attached nowhere yet. What the host mounts and
/// unmounts there from now on reaches it; what is mounted in it stays in it, and reaches who takes mounts from it.
///
/// # Errors
/// What open_tree(2) and mount_setattr(2) give.
pub fn clone(source: &Path, access: Access) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
    let tree = open_tree(rustix::fs::CWD, source, flags | OpenTreeFlags::AT_RECURSIVE)?;
    let change = |attributes| mount_setattr(tree.as_fd(), c"", MountDepth::Tree, attributes);
    // As those that a machine is booted with: a clone is its original's peer until it is made a slave.
    for propagation in [libc::MS_SLAVE, libc::MS_SHARED] {
        change(MountAttributes { propagation, ..MountAttributes::default() })?;
    }
    if access == Access::ReadOnly {
        change(MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() })?;
    }
    Ok(tree)
}

/// Attaches `tree` on `target`, which was opened in the mount namespace of the process that `pidfd` holds: only who is in
/// there may.
///
/// # Errors
/// What setns(2) and move_mount(2) give; `ESRCH` when the process has ended.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>, pidfd: BorrowedFd<'_>) -> io::Result<()> {
    elsewhere(|| {
        move_into_thread_name_spaces(pidfd, ThreadNameSpaceType::MOUNT)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(tree, "", target, "", flags)?)
    })
}

/// Does `work` with `directory` of the mount namespace of the process that `pidfd` holds as working directory, writable even
/// where it is mounted read-only there. Of paths only those below it mean the machine's.
///
/// # Errors
/// What setns(2), open_tree(2) and mount_setattr(2) give, and `work`.
pub fn within<T>(
    pidfd: BorrowedFd<'_>,
    directory: &Path,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    elsewhere(|| {
        move_into_thread_name_spaces(pidfd, ThreadNameSpaceType::MOUNT)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
        let view = open_tree(rustix::fs::CWD, directory, flags)?;
        let clear = MountAttributes { clear: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        mount_setattr(view.as_fd(), c"", MountDepth::One, clear)?;
        rustix::process::fchdir(&view)?;
        work()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use nix::mount::{MsFlags, mount};
    use rustix::process::{PidfdFlags, getpid, pidfd_open};
    use rustix::thread::UnshareFlags;

    use super::*;
    use crate::sys::testing::in_child;
    use crate::sys::unshare_namespaces;
    use crate::testdir::TestDir;

    #[test]
    fn what_is_sealed_can_be_written_to_by_who_sealed_it() {
        let directory = TestDir::new("sealed");
        let path = directory.path().to_owned();
        in_child(|| {
            unshare_namespaces(UnshareFlags::NEWNS).unwrap();
            crate::mount::root::isolate().unwrap();
            let none: Option<&str> = None;
            mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::MS_NODEV, none).unwrap();
            let sealed = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
            let opened = std::fs::File::open(&path).unwrap();
            mount_setattr(opened.as_fd(), c"", MountDepth::One, sealed).unwrap();
            let socket = path.join("socket");
            assert_eq!(UnixDatagram::bind(&socket).unwrap_err().raw_os_error(), Some(libc::EROFS));
            let before = std::env::current_dir().unwrap();
            let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
            let bound = within(pidfd.as_fd(), &path, || UnixDatagram::bind("socket")).unwrap();
            assert_eq!(std::env::current_dir().unwrap(), before);
            UnixDatagram::unbound().unwrap().send_to(b"here", &socket).unwrap();
            let mut heard = [0; 8];
            assert_eq!(bound.recv(&mut heard).unwrap(), 4);
            assert_eq!(std::fs::write(path.join("file"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
            String::new()
        });
    }
}
