//! What a CRIU that dies in the middle of a dump leaves in the tasks' surroundings, put back.
//!
//! The kernel lets go of the tasks (ptrace(2)), and CRIU's code in them, finding its socket closed, gives them their
//! registers back. What would stay is the lock on their network, a table of CRIU's own that drops every packet, and TCP sockets in
//! repair mode, on which every call fails; and CRIU's temporary mounts. All this has to be put back *before* the tasks are
//! let go of: a program that reads from such a socket takes the error for the end of its connection.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::netfilter;

/// CRIU's mount points outside its working directory: the beginning of their names, which six letters follow.
const ROOTS: &str = "/tmp/.criu.mntns.";

/// Where a dump takes place.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    /// The first task of the tree.
    pub(super) first: Pid,
    /// CRIU's log, in the directory that CRIU works in.
    pub(super) log: PathBuf,
}

impl Scene {
    /// Puts back all of it, for the tasks in the pid namespace of the first.
    ///
    /// # Errors
    /// The first failure; the rest is tried all the same.
    pub(super) fn clear(&self) -> io::Result<()> {
        let done = [unlock_network(self.first), end_repair(self.first), remove_mounts(&self.log)];
        done.into_iter().collect()
    }
}

/// In the tasks' network namespace: a netlink socket belongs to the one that it is opened in.
fn unlock_network(first: Pid) -> io::Result<()> {
    let own = File::open("/proc/thread-self/ns/net")?;
    setns(File::open(format!("/proc/{first}/ns/net"))?, CloneFlags::CLONE_NEWNET)?;
    let socket = netfilter::Socket::open();
    setns(own, CloneFlags::CLONE_NEWNET)?;
    let socket = socket?;
    let tables = socket.tables()?;
    tables.iter().filter(|table| table.name.starts_with("CRIU-")).try_for_each(|table| socket.delete(table))
}

fn end_repair(first: Pid) -> io::Result<()> {
    let namespace = fs::read_link(format!("/proc/{first}/ns/pid"))?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let is_inside = fs::read_link(entry.path().join("ns/pid")).is_ok_and(|found| found == namespace);
        let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|_| is_inside) else { continue };
        // Whoever ends meanwhile takes its sockets along.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        for fd in sockets(&entry.path()) {
            let Ok(socket) = pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()) else { continue };
            release(&socket)?;
        }
    }
    Ok(())
}

fn sockets(process: &Path) -> Vec<i32> {
    let fds = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let sockets = fds.filter(|fd| {
        fs::read_link(fd.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    });
    sockets.filter_map(|fd| fd.file_name().to_str()?.parse().ok()).collect()
}

fn release(socket: &OwnedFd) -> io::Result<()> {
    match getsockopt(socket, sockopt::TcpRepair) {
        Ok(1) => Ok(setsockopt(socket, sockopt::TcpRepair, &0)?),
        // Another protocol, or not in repair.
        _ => Ok(()),
    }
}

/// What CRIU mounts for itself: the cgroup hierarchies, below its working directory, and the roots that it makes, below /tmp, in
/// a mount namespace that is gone.
///
/// # Errors
/// What umount(2) and rmdir(2) give.
pub(super) fn remove_mounts(log: &Path) -> io::Result<()> {
    let work = log.parent().unwrap_or(Path::new("."));
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    if let Some(at) = text.find(ROOTS) {
        // It removes them itself where it can.
        let _ = text.get(at..at + ROOTS.len() + 6).map(fs::remove_dir);
    }
    for entry in fs::read_dir(work)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(".criu.cgyard.") {
            // Perhaps not mounted yet.
            let _ = umount2(&entry.path(), MntFlags::MNT_DETACH);
            fs::remove_dir(entry.path())?;
        }
    }
    Ok(())
}
