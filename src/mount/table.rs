//! The mounts of a process: mountinfo(5).

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libmount::mountinfo::Parser;

/// Where a file system of type `fstype` is mounted, the whole of it (its root, not a part that is bound somewhere): of
/// several, the first. `mountinfo` is the text of `/proc/PID/mountinfo`.
///
/// # Errors
/// `InvalidData` when a line is not as proc_pid_mountinfo(5) says.
pub fn find_whole(mountinfo: &[u8], fstype: &str) -> io::Result<Option<PathBuf>> {
    for mount in Parser::new(mountinfo) {
        let mount = mount.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        if mount.fstype == OsStr::new(fstype) && mount.root == OsStr::from_bytes(b"/") {
            return Ok(Some(PathBuf::from(mount.mount_point.into_owned())));
        }
    }
    Ok(None)
}

/// The text of this process's mountinfo.
///
/// # Errors
/// What reading `/proc/self/mountinfo` gives.
pub fn read() -> io::Result<Vec<u8>> {
    fs::read(Path::new("/proc/self/mountinfo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_has_cgroup2_beside_the_controllers() {
        let text = b"31 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            32 31 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            33 31 0:29 /part /mnt/bound rw - cgroup2 cgroup2 rw\n\
            34 31 0:29 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_whole(text, "cgroup2").unwrap(), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_whole(text, "erofs").unwrap(), None);
    }
}
