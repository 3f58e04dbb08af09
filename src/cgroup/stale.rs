//! What dead supervisors left in the cgroup tree, and telling osier's directories from others'.
//!
//! A directory that osier made bears its machine's name in an extended attribute, which nobody else sets and which goes
//! with the directory. What bears none is taken away only where osier's own part of it is known: `payload`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;

use super::{Cgroup, Origin};

/// Only CAP_SYS_ADMIN sees and sets it (man 7 xattr); cgroup2 has such attributes (man 7 cgroups, systemd's
/// `trusted.delegate`).
const SIGNATURE: &str = "trusted.osier.machine";

impl Cgroup {
    /// Signs the directory with its machine's name. Without it the next boot of the name cleans up as far as it is sure.
    ///
    /// # Errors
    /// `EPERM`, `EOPNOTSUPP`.
    pub fn sign(&self, machine: &str) -> io::Result<()> {
        Ok(setxattr(&self.path, SIGNATURE, machine.as_bytes(), XattrFlags::empty())?)
    }

    /// Removes what a dead supervisor left of a machine at `path` (from its record): all that osier made there, with every
    /// process that is still in it. Says whether there was anything.
    ///
    /// # Errors
    /// As [`Cgroup::close`].
    pub fn remove_stale(mount: &Path, path: &Path) -> io::Result<bool> {
        if !path.starts_with(mount) || path == mount || !path.exists() {
            return Ok(false);
        }
        let origin = if signature(path)?.is_some() { Origin::Made } else { Origin::Unit };
        let stale = Self { mount: mount.to_owned(), path: path.to_owned(), origin };
        let was_there = origin == Origin::Made || stale.payload().exists();
        stale.close()?;
        Ok(was_there)
    }
}

/// Removes `path`, which osier was about to make when it died, and may have made or not; then the slices above as far as they
/// are empty. Gives what it was that went.
///
/// # Errors
/// As [`Cgroup::close`].
pub fn remove_intended(mount: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    if !path.starts_with(mount) || path == mount {
        return Ok(None);
    }
    if path.exists() {
        Cgroup { mount: mount.to_owned(), path: path.to_owned(), origin: Origin::Made }.close()?;
        return Ok(Some(path.to_owned()));
    }
    let above = path.ancestors().skip(1).take_while(|above| *above != mount);
    Ok(above.take_while(|above| fs::remove_dir(above).is_ok()).last().map(Path::to_owned))
}

/// A machine's directory with no process in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Whose it was.
    pub machine: String,
    /// Absolute.
    pub path: PathBuf,
}

/// The directories that osier made for machines in slices below `mount` and in which there are no processes.
///
/// # Errors
/// What opendir(3) gives for the mount itself; what goes meanwhile is left out.
pub fn orphans(mount: &Path) -> io::Result<Vec<Orphan>> {
    let mut found = Vec::new();
    let mut slices: Vec<_> = directories(mount)?.into_iter().filter(|path| is_slice(path)).collect();
    while let Some(slice) = slices.pop() {
        for path in directories(&slice).unwrap_or_default() {
            if is_slice(&path) {
                slices.push(path);
            } else if let Ok(Some(machine)) = signature(&path)
                && is_empty(&path)
            {
                found.push(Orphan { machine, path });
            }
        }
    }
    Ok(found)
}

fn directories(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path)?.flatten();
    Ok(entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

fn is_slice(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "slice")
}

/// cgroup-v2.rst, cgroup.events.
fn is_empty(path: &Path) -> bool {
    let events = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 0")
}

fn signature(path: &Path) -> io::Result<Option<String>> {
    // The longest name of a machine is 64 bytes.
    let mut name = [0; 256];
    match getxattr(path, SIGNATURE, &mut name) {
        Ok(length) => Ok(name.get(..length).and_then(|name| String::from_utf8(name.to_vec()).ok())),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
