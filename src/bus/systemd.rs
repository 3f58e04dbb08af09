//! PID 1: transient scopes, jobs, where a unit's cgroup is (man 5 org.freedesktop.systemd1).

use std::fmt::Write as _;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use zbus::blocking::Connection;
use zbus::zvariant::{Fd, OwnedObjectPath, Value};

use super::call::{Failure, LIMIT, Object, arguments, call, read_property};
use super::{BusError, Property, Registration, Unit};

const DESTINATION: &str = "org.freedesktop.systemd1";
/// The manager object.
pub(super) const MANAGER: Object<'static> = Object {
    destination: DESTINATION,
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};

/// The bus itself.
const BUS: Object<'static> = Object {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};
/// The ends of jobs. PID 1 sends them to all when anybody waits for one, so the rule stands only while we do.
const JOBS: &str = "type='signal',sender='org.freedesktop.systemd1',\
                    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// How many tasks a machine's unit may have where nobody says otherwise: what machined and systemd-nspawn@.service give a machine
/// instead of a unit's default, 15 % of all. units/osier@.service has the same.
pub const TASKS: u64 = 16384;

/// How long a machine's end may take to be noticed before the scope is told to stop.
const GRACE: Duration = Duration::from_secs(2);

/// How long PID 1 gets to notice that a scope is empty before what is in it is killed.
const NOTICE: Duration = Duration::from_millis(300);

/// Whether systemd is the host's PID 1 (man 3 sd_booted).
pub fn is_running() -> bool {
    std::fs::symlink_metadata("/run/systemd/system").is_ok_and(|metadata| metadata.is_dir())
}

/// The name of a machine's scope, the same that machined gives it: the name escaped as man 5 systemd.unit says.
pub fn scope_name(machine: &str) -> String {
    format!("machine-{}.scope", escape(machine))
}

/// `systemd-escape`: everything but ASCII letters, digits, `:`, `_` and `.` becomes `\xNN`, and a dot in front too.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'/' => escaped.push('-'),
            b'.' if at == 0 => escaped.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => escaped.push(char::from(byte)),
            _ => {
                let _ = write!(escaped, "\\x{byte:02x}");
            }
        }
    }
    escaped
}

/// The end of a job: its object path and its result.
#[derive(Debug, Clone)]
pub(super) struct JobRemoved {
    pub(super) job: OwnedObjectPath,
    pub(super) result: String,
}

pub(super) fn no_systemd(failure: Failure) -> BusError {
    if failure.is_absent() { BusError::NoSystemd(failure.text()) } else { failure.into() }
}

/// The object of a unit, if it is loaded.
fn find_unit(bus: &Connection, unit: &str) -> Result<Option<OwnedObjectPath>, BusError> {
    match call(bus, MANAGER, "GetUnit", &unit).and_then(|answer| arguments(&answer, "GetUnit")) {
        Ok(path) => Ok(Some(path)),
        Err(failure) if failure.is(&["NoSuchUnit"]) => Ok(None),
        Err(failure) => Err(no_systemd(failure)),
    }
}

fn active_state(bus: &Connection, path: &OwnedObjectPath) -> Result<String, Failure> {
    let unit =
        Object { destination: DESTINATION, path: path.as_str(), interface: "org.freedesktop.systemd1.Unit" };
    read_property(bus, unit, "ActiveState")
}

/// Fails with [`BusError::NameTaken`] while a scope of this machine's name is alive; a dead one is cleared away.
///
/// One that is on its way down (its supervisor was killed just now) gets [`GRACE`] to be gone.
pub(super) fn claim_scope(bus: &Connection, machine: &str) -> Result<(), BusError> {
    let unit = scope_name(machine);
    let deadline = Instant::now() + GRACE;
    loop {
        let Some(path) = find_unit(bus, &unit)? else { return Ok(()) };
        // An error here: it was unloaded in between.
        match active_state(bus, &path).as_deref() {
            Ok("inactive") | Err(_) => return Ok(()),
            Ok("failed") => {
                let _ = call(bus, MANAGER, "ResetFailedUnit", &unit);
                return Ok(());
            }
            Ok("deactivating") if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Ok(_) => return Err(BusError::NameTaken(format!("unit {unit}"))),
        }
    }
}

/// How a process is named to PID 1.
enum Leader<'a> {
    /// By pidfd: no other process can have got its pid in between.
    PidFd(BorrowedFd<'a>),
    /// For a PID 1 that has no `PIDFDs` (seen: 252; not 257).
    Pid(u32),
}

/// A scope that PID 1 has taken the job for.
#[derive(Debug)]
pub(super) struct Started {
    /// Its name.
    pub(super) name: String,
    job: OwnedObjectPath,
}

/// Starts the scope of a machine with its leader in it. When this gives an error there is no scope.
pub(super) fn open_scope(
    bus: &Connection,
    machine: &Registration,
    wanted: (&str, &[Property]),
    leader: BorrowedFd<'_>,
) -> Result<Started, BusError> {
    let name = scope_name(&machine.name);
    // Before the job is made, or its end could be missed.
    call(bus, BUS, "AddMatch", &JOBS)?;
    let started = start_scope(bus, machine, wanted, &Leader::PidFd(leader)).or_else(|failure| {
        // Without PIDFDs (252) it is PropertyReadOnly; the word has changed over time. The same words are used for a property
        // of the user's that does not fit, which fails the second time as well.
        match failure.is(&["PropertyReadOnly", "UnknownProperty", "InvalidArgs"]) {
            true => start_scope(bus, machine, wanted, &Leader::Pid(machine.leader)),
            false => Err(failure),
        }
    });
    let failure = match started {
        Ok(job) => return Ok(Started { name, job }),
        Err(failure) => failure,
    };
    let _ = call(bus, BUS, "RemoveMatch", &JOBS);
    match failure.is(&["UnitExists"]) {
        true => Err(BusError::NameTaken(format!("unit {name}"))),
        false => Err(no_systemd(failure)),
    }
}

/// Waits until the scope is there. `jobs` carries the ends of jobs.
pub(super) fn await_scope(
    bus: &Connection,
    jobs: &Receiver<JobRemoved>,
    started: &Started,
) -> Result<Unit, BusError> {
    let Started { name, job } = started;
    let result = wait_for_job(jobs, job);
    let _ = call(bus, BUS, "RemoveMatch", &JOBS);
    let result = result.ok_or_else(|| BusError::TimedOut(format!("make {name}")))?;
    let failed = |result| BusError::JobFailed { unit: name.clone(), result };
    if result != "done" {
        return Err(failed(result));
    }
    let path = find_unit(bus, name)?.ok_or_else(|| failed("gone".to_owned()))?;
    Ok(Unit { name: name.clone(), control_group: control_group(bus, &path, name)? })
}

fn start_scope(
    bus: &Connection,
    machine: &Registration,
    (slice, wanted): (&str, &[Property]),
    leader: &Leader<'_>,
) -> Result<OwnedObjectPath, Failure> {
    // PID 1 sends RequestStop to the controller, which is this connection.
    let controller = bus.unique_name().map(|name| name.as_str()).unwrap_or_default();
    let mut properties: Vec<(&str, Value<'_>)> = vec![
        match leader {
            Leader::PidFd(fd) => ("PIDFDs", Value::from(vec![Fd::from(*fd)])),
            Leader::Pid(pid) => ("PIDs", Value::from(vec![*pid])),
        },
        ("Description", Value::from(format!("Machine {}", machine.name))),
        ("Delegate", Value::from(true)),
        ("Slice", Value::from(slice)),
        ("CollectMode", Value::from("inactive-or-failed")),
        ("Controller", Value::from(controller)),
        ("TasksMax", Value::from(TASKS)),
    ];
    properties.extend(wanted.iter().map(|property| (property.name(), property.value().to_variant())));
    let auxiliary: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
    let name = scope_name(&machine.name);
    let answer = call(bus, MANAGER, "StartTransientUnit", &(name, "fail", properties, auxiliary))?;
    arguments(&answer, "StartTransientUnit")
}

fn wait_for_job(jobs: &Receiver<JobRemoved>, job: &OwnedObjectPath) -> Option<String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let removed = jobs.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
        if removed.job == *job {
            return Some(removed.result);
        }
    }
}

/// The unit that a process is in.
pub(super) fn unit_of(bus: &Connection, pid: u32) -> Result<Unit, BusError> {
    let answer = call(bus, MANAGER, "GetUnitByPID", &pid).map_err(no_systemd)?;
    let path: OwnedObjectPath = arguments(&answer, "GetUnitByPID")?;
    let unit =
        Object { destination: DESTINATION, path: path.as_str(), interface: "org.freedesktop.systemd1.Unit" };
    let name: String = read_property(bus, unit, "Id")?;
    let control_group = control_group(bus, &path, &name)?;
    Ok(Unit { name, control_group })
}

/// The property is that of the unit's type, not of units as such.
fn control_group(bus: &Connection, path: &OwnedObjectPath, name: &str) -> Result<String, BusError> {
    let interface = match name.rsplit('.').next() {
        Some("scope") => "org.freedesktop.systemd1.Scope",
        Some("slice") => "org.freedesktop.systemd1.Slice",
        _ => "org.freedesktop.systemd1.Service",
    };
    let unit = Object { destination: DESTINATION, path: path.as_str(), interface };
    Ok(read_property(bus, unit, "ControlGroup")?)
}

/// A scope that was made here.
#[derive(Debug)]
pub(super) struct Scope {
    /// Its name, which another one may have after it.
    pub(super) name: String,
    /// Which of that name it is; `None` when it was gone before it could be asked.
    pub(super) invocation: Option<Vec<u8>>,
}

/// What tells one start of a unit from the next of the same name (man 5 org.freedesktop.systemd1, `InvocationID`).
pub(super) fn read_invocation(bus: &Connection, unit: &str) -> Option<Vec<u8>> {
    invocation_at(bus, &find_unit(bus, unit).ok()??).ok()
}

fn invocation_at(bus: &Connection, path: &OwnedObjectPath) -> Result<Vec<u8>, Failure> {
    let unit =
        Object { destination: DESTINATION, path: path.as_str(), interface: "org.freedesktop.systemd1.Unit" };
    read_property(bus, unit, "InvocationID")
}

/// Removes a scope of ours: waits until PID 1 has forgotten it, and kills what keeps it.
///
/// Not by a stop job at first: that one asks the controller, which is us, and waits for its answer. Nor by a kill: with the
/// last process PID 1 lets it go by itself, and calls go by name. The next machine of the name may have it already when
/// the supervisor here was killed.
pub(super) fn remove_scope(bus: &Connection, scope: &Scope) -> Result<(), BusError> {
    let unit = &scope.name;
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    let mut stopped = false;
    while let Some(path) = find_unit(bus, unit)? {
        match (&scope.invocation, invocation_at(bus, &path)) {
            (Some(ours), Ok(found)) if *ours != found => return Ok(()),
            _ => {}
        }
        // Each may fail because the unit is gone by now: the next look tells.
        if active_state(bus, &path).is_ok_and(|state| state == "failed") {
            let _ = call(bus, MANAGER, "ResetFailedUnit", &unit);
        } else if start.elapsed() > NOTICE && !stopped {
            let _ = call(bus, MANAGER, "KillUnit", &(unit, "all", libc::SIGKILL));
        }
        if start.elapsed() > GRACE && !stopped {
            let _ = call(bus, MANAGER, "AbandonScope", &unit);
            let _ = call(bus, MANAGER, "StopUnit", &(unit, "replace"));
            stopped = true;
        }
        if start.elapsed() > LIMIT {
            return Err(BusError::TimedOut(format!("remove {unit}")));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(())
}

/// Whether `sender` is PID 1. Anybody on the bus may send anybody a signal.
pub(super) fn is_sender(bus: &Connection, sender: &str) -> bool {
    call(bus, BUS, "GetNameOwner", &DESTINATION)
        .and_then(|answer| arguments::<String>(&answer, "GetNameOwner"))
        .is_ok_and(|owner| owner == sender)
}

/// Sets properties of a unit that is loaded, until the host goes down: all of them or none, PID 1 looks at each before it
/// takes the first.
pub(super) fn set_unit_properties(
    bus: &Connection,
    unit: &str,
    properties: &[Property],
) -> Result<(), BusError> {
    if properties.is_empty() {
        return Ok(());
    }
    let properties: Vec<_> =
        properties.iter().map(|property| (property.name(), property.value().to_variant())).collect();
    call(bus, MANAGER, "SetUnitProperties", &(unit, true, properties)).map(drop).map_err(no_systemd)
}

/// As `systemctl set-property --runtime`; for verbs.
///
/// # Errors
/// [`BusError::NoBus`], [`BusError::NoSystemd`], and what PID 1 says of the unit or a property; then none is set.
pub fn set_properties(unit: &str, properties: &[Property]) -> Result<(), BusError> {
    set_unit_properties(&super::call::open()?, unit, properties)
}

/// How a service ended (man 5 systemd.exec, `$SERVICE_RESULT`).
pub(super) fn service_result(bus: &Connection, unit: &str) -> Option<String> {
    let path = find_unit(bus, unit).ok()??;
    read_property(bus, service(&path), "Result").ok()
}

/// The pid of a service's main process; `None` where there is no such service, 0 where it has none.
pub(super) fn main_process(bus: &Connection, unit: &str) -> Result<Option<u32>, BusError> {
    let Some(path) = find_unit(bus, unit)? else { return Ok(None) };
    Ok(Some(read_property(bus, service(&path), "MainPID")?))
}

fn service(path: &OwnedObjectPath) -> Object<'_> {
    Object { destination: DESTINATION, path: path.as_str(), interface: "org.freedesktop.systemd1.Service" }
}

/// Whether PID 1 has a unit of this name loaded; for verbs.
///
/// # Errors
/// [`BusError::NoBus`], [`BusError::NoSystemd`], and what PID 1 says.
pub fn has_unit(unit: &str) -> Result<bool, BusError> {
    Ok(find_unit(&super::call::open()?, unit)?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_has_the_name_that_machined_gives_it() {
        assert_eq!(scope_name("web"), "machine-web.scope");
        assert_eq!(scope_name("my-web.2"), "machine-my\\x2dweb.2.scope");
        assert_eq!(scope_name(".x y"), "machine-\\x2ex\\x20y.scope");
    }
}
