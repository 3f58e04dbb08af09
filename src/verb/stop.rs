//! The verbs that end machines: `terminate`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{machined_knows, unknown};
use crate::bus::machined;
use crate::cli::Terminate;
use crate::error::{Error, Kind, Result};
use crate::machine::record::{Record, Store};

/// How long a supervisor has to clean up after a machine's end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether it has.
const PACE: Duration = Duration::from_millis(5);

/// What a name stands for.
enum Target {
    /// A machine of osier's.
    Own(Box<Record>),
    /// One that only machined knows.
    Machined(String),
}

/// Ends machines at once: SIGKILL to each leader, with which the kernel kills all in its pid namespace, then waits until
/// nothing is left of them. All machines named have to be there, or none is ended. What osier did not boot, machined ends.
///
/// # Errors
/// When a machine is not there, cannot be killed, or its supervisor does not clean up in time.
pub fn terminate(options: &Terminate, store: &Store) -> Result<()> {
    let targets: Result<Vec<_>> = options.names.iter().map(|name| find(store, name)).collect();
    let targets = targets?;
    for target in &targets {
        match target {
            Target::Own(record) => kill(store, record)?,
            Target::Machined(name) => {
                machined::terminate(name).map_err(|error| failed(name).because(error))?
            }
        }
    }
    let deadline = Instant::now() + PATIENCE;
    targets.iter().try_for_each(|target| wait(store, target, deadline))
}

fn find(store: &Store, name: &str) -> Result<Target> {
    match store.read(name) {
        Some(record) => Ok(Target::Own(Box::new(record))),
        None if machined_knows(name) => Ok(Target::Machined(name.to_owned())),
        None => Err(unknown(store, name)),
    }
}

fn failed(name: &str) -> Error {
    Error::new(Kind::Failed, format!("cannot terminate '{name}'"))
}

fn kill(store: &Store, record: &Record) -> Result<()> {
    let refused = |errno: Errno| Error::io(format!("cannot terminate '{}'", record.name), &errno.into());
    let leader = i32::try_from(record.leader).ok().and_then(Pid::from_raw);
    let leader = leader.ok_or_else(|| refused(Errno::SRCH))?;
    let pidfd = match pidfd_open(leader, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        pidfd => pidfd.map_err(refused)?,
    };
    // The number may have been another process's by the time of the open. The supervisor is the leader's parent: while it
    // has the record it has not waited for the leader, and the number cannot have been given away.
    if !same(store.read(&record.name).as_ref(), record) || !is_in(record) {
        return Ok(());
    }
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Err(Errno::SRCH) => Ok(()),
        sent => sent.map_err(refused),
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

fn wait(store: &Store, target: &Target, deadline: Instant) -> Result<()> {
    let (name, who) = match target {
        Target::Own(record) => (&record.name, format!("its supervisor, process {},", record.supervisor)),
        Target::Machined(name) => (name, "systemd-machined".to_owned()),
    };
    while is_there(store, target) {
        if Instant::now() >= deadline {
            let cause = format!("{who} has not cleaned up within {} s", PATIENCE.as_secs());
            return Err(failed(name).because(cause));
        }
        thread::sleep(PACE);
    }
    Ok(())
}

fn is_there(store: &Store, target: &Target) -> bool {
    match target {
        Target::Own(record) => same(store.read(&record.name).as_ref(), record),
        Target::Machined(name) => machined_knows(name),
    }
}
