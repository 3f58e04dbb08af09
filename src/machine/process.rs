//! A machine's processes as its record names them, opened so that no other process can be meant.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::record::{Record, Store};

/// A pidfd of the leader; `None` when it has ended, or its machine is another by now.
///
/// # Errors
/// What pidfd_open(2) gives, such as `EMFILE`; `EACCES` for who may not ptrace(2) it.
pub fn open_leader(store: &Store, record: &Record) -> io::Result<Option<OwnedFd>> {
    let Some(pidfd) = open(record.leader)? else { return Ok(None) };
    // The number may have been another process's by the time of the open. The supervisor is the leader's parent: while it
    // has the record it has not waited for the leader, and the number cannot have been given away, save between two boots
    // of one machine; then it is in another pid namespace.
    Ok((is_current(store, record) && is_in(record)?).then_some(pidfd))
}

/// A pidfd of the supervisor; `None` when it has ended.
///
/// # Errors
/// As [`open_leader`].
pub fn open_supervisor(store: &Store, record: &Record) -> io::Result<Option<OwnedFd>> {
    let Some(pidfd) = open(record.supervisor)? else { return Ok(None) };
    // Its lock is on the record now, and was before: it lived all the while, and the number was its own.
    Ok(is_supervised(store, record).then_some(pidfd))
}

/// Whether the machine still runs in the boot that `record` tells of.
pub fn is_current(store: &Store, record: &Record) -> bool {
    store.read(&record.name).is_some_and(|found| found.boot() == record.boot())
}

/// Whether the machine still has the supervisor that `record` names, in this boot or a later one.
pub fn is_supervised(store: &Store, record: &Record) -> bool {
    store.read(&record.name).is_some_and(|found| found.supervisor == record.supervisor)
}

fn open(pid: u32) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => Ok(None),
        pidfd => Ok(Some(pidfd?)),
    }
}

/// Whether the leader's number is a process in the machine's pid namespace.
fn is_in(record: &Record) -> io::Result<bool> {
    let namespace = fs::metadata(format!("/proc/{}/ns/pid", record.leader)).map(|namespace| namespace.ino());
    match (namespace, record.namespaces.get("pid")) {
        (Ok(found), Some(known)) => Ok(found == *known),
        (Ok(_), None) => Ok(true),
        (Err(error), _) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // A zombie has no namespaces any more.
        (Err(_), _) => Ok(false),
    }
}
