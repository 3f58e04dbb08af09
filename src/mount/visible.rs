//! A proc and a sysfs that nothing covers. Who has a user namespace of its own may mount these two only where such a one is to be seen
//! already (fs/namespace.c, mount_too_revealing): a machine with users of its own has them in its mounts until it has made its own.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsmount, fsopen, move_mount,
};

use super::op::INACCESSIBLE;

/// The two, of the caller's namespaces, mounted nowhere yet.
#[derive(Debug)]
pub struct Visible([OwnedFd; 2]);

impl Visible {
    /// Makes them.
    ///
    /// # Errors
    /// What fsopen(2) and fsmount(2) give.
    pub fn open() -> io::Result<Self> {
        Ok(Self([detached("proc")?, detached("sysfs")?]))
    }

    /// Mounts them in the machine, where they can be taken away again: not what is in a copy of mounts, which stays.
    ///
    /// # Errors
    /// What move_mount(2) gives.
    pub fn attach(self) -> io::Result<()> {
        self.0.iter().try_for_each(|mount| {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            Ok(move_mount(mount, "", rustix::fs::CWD, place(), flags)?)
        })
    }
}

/// Takes them away: they are the host's.
///
/// # Errors
/// What umount(2) gives.
pub fn remove() -> io::Result<()> {
    for _ in 0..2 {
        umount2(&place(), MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Any directory will do that is there for sure.
fn place() -> std::path::PathBuf {
    Path::new(INACCESSIBLE).join("dir")
}

fn detached(fstype: &str) -> io::Result<OwnedFd> {
    let context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
