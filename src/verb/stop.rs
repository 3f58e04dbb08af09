//! The verbs that end machines: `terminate`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::running;
use crate::cli::Terminate;
use crate::error::{Error, Kind, Result};
use crate::machine::record::{Record, Store};

/// How long a supervisor has to clean up after a machine's end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether it has.
const PACE: Duration = Duration::from_millis(5);

/// Ends machines at once: SIGKILL to each leader, with which the kernel kills all in its pid namespace, then waits until
/// nothing is left of them. All machines named have to be there, or none is ended.
///
/// # Errors
/// When a machine is not there, cannot be killed, or its supervisor does not clean up in time.
pub fn terminate(options: &Terminate, store: &Store) -> Result<()> {
    let records = running(store, &options.names)?;
    for record in &records {
        kill(store, record)?;
    }
    let deadline = Instant::now() + PATIENCE;
    records.iter().try_for_each(|record| wait(store, record, deadline))
}

fn kill(store: &Store, record: &Record) -> Result<()> {
    let failed = |errno: Errno| Error::io(format!("cannot terminate '{}'", record.name), &errno.into());
    let leader = i32::try_from(record.leader).ok().and_then(Pid::from_raw);
    let leader = leader.ok_or_else(|| failed(Errno::SRCH))?;
    let pidfd = match pidfd_open(leader, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        pidfd => pidfd.map_err(failed)?,
    };
    // The number may have been another process's by the time of the open. The supervisor is the leader's parent: while it
    // has the record it has not waited for the leader, and the number cannot have been given away.
    if !same(store.read(&record.name).as_ref(), record) || !is_in(record) {
        return Ok(());
    }
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Err(Errno::SRCH) => Ok(()),
        sent => sent.map_err(failed),
    }
}

/// Whether the leader's number is a process in the machine's pid namespace.
fn is_in(record: &Record) -> bool {
    let namespace = fs::metadata(format!("/proc/{}/ns/pid", record.leader)).map(|namespace| namespace.ino());
    match (namespace, record.namespaces.get("pid")) {
        (Ok(found), Some(known)) => found == *known,
        // A zombie has no namespaces any more: nothing to kill.
        (Err(_), _) => false,
        (Ok(_), None) => true,
    }
}

fn same(found: Option<&Record>, record: &Record) -> bool {
    found.is_some_and(|found| (found.supervisor, found.leader) == (record.supervisor, record.leader))
}

fn wait(store: &Store, record: &Record, deadline: Instant) -> Result<()> {
    while same(store.read(&record.name).as_ref(), record) {
        if Instant::now() >= deadline {
            let what = format!("cannot terminate '{}'", record.name);
            let cause = format!("its supervisor has not cleaned up within {} s", PATIENCE.as_secs());
            let hint = format!("its supervisor is process {}", record.supervisor);
            return Err(Error::new(Kind::Failed, what).because(cause).hint(hint));
        }
        thread::sleep(PACE);
    }
    Ok(())
}
