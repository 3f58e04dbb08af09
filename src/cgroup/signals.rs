//! A signal for every process of a subtree.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::signal::Signal;
use crate::sys;

/// So often the subtree is looked through for processes that were not there the time before.
const ROUNDS: u32 = 100;

/// How many processes were reached, and whether those were all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All that there are; the count, where the kernel does not keep it to itself.
    All(Option<usize>),
    /// There were new ones in every round: something in there makes them faster than they can be signalled.
    Some(usize),
}

/// Sends `signal` to every process of the subtree at `cgroup`.
///
/// SIGKILL is the kernel's to send, to all at once and whatever they fork (`cgroup.kill`, since Linux 5.14). Any other is
/// sent one by one, again until there is nobody new; a process is reached once.
///
/// # Errors
/// `ENOENT` when the subtree is gone; `EPERM`.
pub fn send(cgroup: &Path, signal: Signal) -> io::Result<Reach> {
    if signal == Signal::KILL {
        match fs::write(cgroup.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound && cgroup.exists() => {}
            result => return result.map(|()| Reach::All(None)),
        }
    }
    let mut reached = BTreeSet::new();
    for _ in 0..ROUNDS {
        let new: Vec<_> = processes(cgroup)?.into_iter().filter(|pid| !reached.contains(pid)).collect();
        if new.is_empty() {
            return Ok(Reach::All(Some(reached.len())));
        }
        let opened: Vec<(i32, OwnedFd)> = new.into_iter().filter_map(|pid| Some((pid, open(pid)?))).collect();
        // A number may have gone to another process before it was opened. What is still listed now was in here when it
        // was opened, came in since, or has ended and given its number away: then nothing is sent.
        let listed: BTreeSet<i32> = processes(cgroup)?.into_iter().collect();
        for (pid, pidfd) in opened.into_iter().filter(|(pid, _)| listed.contains(pid)) {
            match sys::pidfd_send_realtime(pidfd.as_fd(), signal.number()) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
                _ => reached.insert(pid),
            };
        }
    }
    Ok(Reach::Some(reached.len()))
}

/// `None` for one that has ended.
fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// All processes of the subtree. Directories that go meanwhile have none.
fn processes(cgroup: &Path) -> io::Result<Vec<i32>> {
    let mut found = read(cgroup)?;
    let mut directories = vec![cgroup.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(read(&entry.path()).unwrap_or_default());
                directories.push(entry.path());
            }
        }
    }
    Ok(found)
}

fn read(directory: &Path) -> io::Result<Vec<i32>> {
    match fs::read_to_string(directory.join("cgroup.procs")) {
        // In a threaded directory; its processes are listed above (cgroup-v2.rst, Threads).
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        text => Ok(text?.lines().filter_map(|line| line.parse().ok()).collect()),
    }
}
