//! The machine's subtree of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst; systemd's CGROUP_DELEGATION).
//!
//! `…/machine-NAME.scope/payload` holds the machine: the payload's cgroup namespace has its root there, so that it can do
//! what it likes below, while the directory above stays with the host. Where systemd owns the tree the directory above
//! is a scope's or a service's; elsewhere osier makes and removes it.

pub mod freezer;
pub mod limits;
pub mod signals;
pub mod stale;
pub mod tree;
pub mod usage;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, chown};
use rustix::fs::{Mode, OFlags};

/// The part of a machine's subtree that belongs to the payload.
pub const PAYLOAD: &str = "payload";

/// A machine's subtree.
#[derive(Debug)]
pub struct Cgroup {
    /// Where cgroup2 is mounted.
    mount: PathBuf,
    /// The machine's directory, absolute.
    path: PathBuf,
    origin: Origin,
}

/// Who made a machine's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// osier, and removes it.
    Made,
    /// systemd, as a unit's.
    Unit,
    /// It is closed: there is nothing to do any more.
    Closed,
}

/// So long what is left in a cgroup may take to end when it is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.remove(PATIENCE);
    }
}

impl Cgroup {
    /// Makes `relative` (such as `machine.slice/machine-web.scope`) below the cgroup2 mount, its `payload`, and enables
    /// every controller that there is on the way down.
    ///
    /// # Errors
    /// `EEXIST` when the machine's directory is there with processes in it; what mkdir(2) gives otherwise.
    pub fn make(mount: &Path, relative: &Path) -> io::Result<Self> {
        let path = mount.join(relative);
        if is_populated(&path) {
            // Not ours to kill at the end.
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        for _ in 0..3 {
            match make_directories(mount, &path) {
                // The end of another machine removed the empty slice above just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => {
                    result?;
                    break;
                }
            }
        }
        let made = Self { mount: mount.to_owned(), path, origin: Origin::Made };
        made.make_payload()?;
        made.enable_controllers();
        Ok(made)
    }

    /// Takes the directory that systemd made for a unit: `control_group` as its property says, absolute below the mount.
    ///
    /// No controller is enabled yet: cpu and pids could be while processes are in the directory, which makes it the root of
    /// threaded cgroups, and no process could enter `payload` any more (`EOPNOTSUPP`; cgroup-v2.rst, Threads).
    ///
    /// # Errors
    /// What mkdir(2) of `payload` gives.
    pub fn adopt(mount: &Path, control_group: &Path) -> io::Result<Self> {
        let path = mount.join(control_group.strip_prefix("/").unwrap_or(control_group));
        let adopted = Self { mount: mount.to_owned(), path, origin: Origin::Unit };
        adopted.make_payload()?;
        Ok(adopted)
    }

    fn make_payload(&self) -> io::Result<()> {
        let payload = self.payload();
        match fs::create_dir(&payload) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Every cgroup has one writer (CGROUP_DELEGATION, "Two Key Design Rules"): above a unit's directory that is systemd.
    fn enable_controllers(&self) {
        let from = if self.origin == Origin::Unit { &self.path } else { &self.mount };
        enable_controllers(from, &self.path);
    }

    /// The machine's directory, absolute on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The payload's directory, absolute on the host.
    pub fn payload(&self) -> PathBuf {
        self.path.join(PAYLOAD)
    }

    /// A descriptor of the payload's directory, for `CLONE_INTO_CGROUP`.
    ///
    /// # Errors
    /// What open(2) gives.
    pub fn open_payload(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(rustix::fs::open(self.payload(), flags, Mode::empty())?)
    }

    /// Moves the process `pid` from the machine's own directory into the payload's, and enables the controllers that its
    /// being there forbade.
    ///
    /// # Errors
    /// What writing cgroup.procs gives.
    pub fn place(&self, pid: u32) -> io::Result<()> {
        fs::write(self.payload().join("cgroup.procs"), pid.to_string())?;
        self.enable_controllers();
        Ok(())
    }

    /// Moves the processes of the machine's own directory, this one and what it forked, into `supervisor` beside
    /// `payload`: with any of them in it no controller could be enabled for what is below (the no internal process
    /// constraint).
    ///
    /// # Errors
    /// What mkdir(2) and writing cgroup.procs give.
    pub fn place_supervisor(&self) -> io::Result<()> {
        let processes = fs::read_to_string(self.path.join("cgroup.procs"))?;
        let own = self.path.join("supervisor");
        match fs::create_dir(&own) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for process in processes.lines() {
            match fs::write(own.join("cgroup.procs"), process) {
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                result => result?,
            }
        }
        self.enable_controllers();
        Ok(())
    }

    /// Removes what [`Cgroup::place_supervisor`] made, of a unit that has nobody in there any more.
    ///
    /// # Errors
    /// What rmdir(2) gives: `EBUSY` while somebody is.
    pub fn remove_supervisors(&self) -> io::Result<()> {
        fs::remove_dir(self.path.join("supervisor"))
    }

    /// Gives the payload's directory to `uid`, `gid`: the directory and the files that the kernel lists in
    /// /sys/kernel/cgroup/delegate (Documentation/admin-guide/cgroup-v2.rst, Delegation).
    ///
    /// # Errors
    /// What chown(2) gives for a file that is there.
    pub fn delegate(&self, uid: Uid, gid: Gid) -> io::Result<()> {
        let payload = self.payload();
        chown(&payload, Some(uid), Some(gid))?;
        let listed = fs::read_to_string("/sys/kernel/cgroup/delegate")
            .unwrap_or_else(|_| "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n".to_owned());
        for file in listed.lines() {
            match chown(&payload.join(file), Some(uid), Some(gid)) {
                Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Kills what is left in the subtree and removes it; of a unit's directory only what osier put there, of one that
    /// osier made also the slices above as far as they are empty.
    ///
    /// # Errors
    /// `EBUSY` when processes are still there after ten seconds.
    pub fn close(mut self) -> io::Result<()> {
        self.remove(PATIENCE)
    }

    fn remove(&mut self, patience: Duration) -> io::Result<()> {
        let removed = match self.origin {
            Origin::Closed => return Ok(()),
            Origin::Made => remove_tree(&self.path, patience),
            Origin::Unit => remove_tree(&self.payload(), patience),
        };
        // What is busy now is busy when this is dropped; anything else is worth another try then.
        if removed.as_ref().is_err_and(|error| error.raw_os_error() != Some(libc::EBUSY)) {
            return removed;
        }
        let origin = std::mem::replace(&mut self.origin, Origin::Closed);
        removed?;
        if origin == Origin::Made {
            for above in self.path.ancestors().skip(1).take_while(|above| *above != self.mount) {
                if fs::remove_dir(above).is_err() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Whether there are processes in it or below; not where it is not there (cgroup-v2.rst, cgroup.events).
fn is_populated(path: &Path) -> bool {
    let events = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}

fn make_directories(mount: &Path, path: &Path) -> io::Result<()> {
    let mut missing: Vec<_> = path.ancestors().take_while(|above| *above != mount).collect();
    while let Some(directory) = missing.pop() {
        match fs::create_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
    }
    Ok(())
}

/// Enables in each directory from `top` down to `path` the controllers that it has for the directories below. A
/// controller that cannot be enabled is one that the machine does not have: its `cgroup.controllers` tells it.
fn enable_controllers(top: &Path, path: &Path) {
    let mut down: Vec<_> = path.ancestors().take_while(|above| *above != top).collect();
    down.push(top);
    while let Some(directory) = down.pop() {
        let has = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
        let enabled = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
        for controller in has.split_whitespace() {
            if !enabled.split_whitespace().any(|name| name == controller) {
                // One at a time: one that cannot be had must not take the others with it.
                let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
    }
}

fn remove_tree(path: &Path, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match remove_directories(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                // cgroup.kill is not there before Linux 5.14; then the leader's end has killed its pid namespace.
                let _ = fs::write(path.join("cgroup.kill"), "1");
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => return result,
        }
    }
}

fn remove_directories(path: &Path) -> io::Result<()> {
    // An empty directory, the usual case for `run`, goes in one call.
    match fs::remove_dir(path) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        result => return result,
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            match remove_directories(&entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plain directory is enough of a cgroup file system for making and removing directories.
    #[test]
    fn what_is_made_is_removed_with_the_empty_slice_above() {
        let mount = std::env::temp_dir().join(format!("osier-cgroup-{}", std::process::id()));
        fs::create_dir(&mount).unwrap();
        let web = Cgroup::make(&mount, Path::new("machine.slice/machine-web.scope")).unwrap();
        let mail = Cgroup::make(&mount, Path::new("machine.slice/machine-mail.scope")).unwrap();
        assert!(web.payload().is_dir());
        for machine in [web, mail] {
            assert!(mount.join("machine.slice").is_dir());
            fs::remove_dir(machine.payload()).unwrap();
            machine.close().unwrap();
        }
        assert_eq!(fs::read_dir(&mount).unwrap().count(), 0);
        fs::remove_dir(&mount).unwrap();
    }
}
