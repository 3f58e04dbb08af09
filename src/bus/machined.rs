//! systemd-machined: the directory of machines that machinectl shows (man 5 org.freedesktop.machine1).
//!
//! The public functions are for short-lived verbs: each opens the bus for itself, in this process, and zbus starts threads.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use zbus::blocking::Connection;
use zbus::zvariant::{Fd, OwnedObjectPath, OwnedValue, Value};

use super::call::{Failure, Object, arguments, call, call_authorized, open, read_property};
use super::{BusError, Registration};

const DESTINATION: &str = "org.freedesktop.machine1";
/// The manager object.
const MANAGER: Object<'static> = Object {
    destination: DESTINATION,
    path: "/org/freedesktop/machine1",
    interface: "org.freedesktop.machine1.Manager",
};
/// Who registers: what machinectl shows as SERVICE.
const SERVICE: &str = "osier";
/// What it registers.
const CLASS: &str = "container";

/// A machine as machined knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name; `.host` is the host itself.
    pub name: String,
    /// `container`, `vm` or `host`.
    pub class: String,
    /// Who registered it: `osier`, `systemd-nspawn`, `libvirt-lxc`…
    pub service: String,
    /// Host pid of its leader.
    pub leader: u32,
    /// The unit that holds it.
    pub unit: String,
    /// The tree that it runs from, where it was told.
    pub root: Option<PathBuf>,
    /// Its machine ID, 32 hexadecimal digits; empty where it was not told.
    pub id: String,
    /// `opening`, `running` or `closing`.
    pub state: String,
    /// When it was registered, microseconds of CLOCK_REALTIME since the epoch.
    pub started: u64,
    /// The same moment, microseconds of CLOCK_MONOTONIC.
    pub started_monotonic: u64,
    /// Indices of the host's network interfaces that lead to it.
    pub ifindices: Vec<i32>,
    /// Its address for AF_VSOCK; none for what is no virtual machine, and where machined does not tell.
    pub vsock_cid: Option<u32>,
    /// Where its SSH server listens; empty where it was not told.
    pub ssh_address: String,
    /// The key for that; empty where it was not told.
    pub ssh_key: String,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// The leader alone.
    Leader,
    /// All of the machine.
    All,
}

fn no_machined(failure: Failure) -> BusError {
    if failure.is_absent() { BusError::NoMachined(failure.text()) } else { failure.into() }
}

fn find(bus: &Connection, name: &str) -> Result<Option<OwnedObjectPath>, BusError> {
    match call(bus, MANAGER, "GetMachine", &name).and_then(|answer| arguments(&answer, "GetMachine")) {
        Ok(path) => Ok(Some(path)),
        Err(failure) if failure.is(&["NoSuchMachine"]) => Ok(None),
        Err(failure) => Err(no_machined(failure)),
    }
}

/// Fails with [`BusError::NameTaken`] when machined knows the name.
pub(super) fn claim(bus: &Connection, name: &str) -> Result<(), BusError> {
    match find(bus, name)? {
        None => Ok(()),
        Some(_) => Err(BusError::NameTaken(format!("machine '{name}'"))),
    }
}

/// Registers a machine, by `RegisterMachineEx` where machined knows it (seen: 262; not 257), which takes the pidfd.
pub(super) fn register(
    bus: &Connection,
    machine: &Registration,
    leader: BorrowedFd<'_>,
) -> Result<(), BusError> {
    let root = machine.root.to_str().unwrap_or_default();
    let properties = vec![
        ("Id", Value::from(machine.id.to_vec())),
        ("Service", Value::from(SERVICE)),
        ("Class", Value::from(CLASS)),
        ("LeaderPIDFD", Value::from(Fd::from(leader))),
        ("RootDirectory", Value::from(root)),
        ("NetworkInterfaces", Value::from(machine.ifindices.clone())),
    ];
    let registered =
        call(bus, MANAGER, "RegisterMachineEx", &(&machine.name, properties)).or_else(|failure| {
            if !failure.is(&["UnknownMethod"]) {
                return Err(failure);
            }
            let arguments = (
                &machine.name,
                machine.id.as_slice(),
                SERVICE,
                CLASS,
                machine.leader,
                root,
                machine.ifindices.as_slice(),
            );
            call(bus, MANAGER, "RegisterMachineWithNetwork", &arguments)
        });
    match registered {
        Ok(_) => Ok(()),
        Err(failure) if failure.is(&["MachineExists"]) => {
            Err(BusError::NameTaken(format!("machine '{}'", machine.name)))
        }
        Err(failure) => Err(no_machined(failure)),
    }
}

/// Makes machined forget the machine with this leader; not to know it is success. Another one that has the name by now
/// stays: a registrar whose supervisor was killed may come late.
pub(super) fn unregister(bus: &Connection, name: &str, leader: u32) -> Result<(), BusError> {
    let path = match find(bus, name) {
        Ok(Some(path)) => path,
        // machined is started by the bus; without one there is no registration either.
        Ok(None) | Err(BusError::NoMachined(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let machine = Object { path: path.as_str(), interface: "org.freedesktop.machine1.Machine", ..MANAGER };
    let gone = |failure: &Failure| failure.is(&["NoSuchMachine", "UnknownObject"]) || failure.is_absent();
    let unregistered = match read_property::<u32>(bus, machine, "Leader") {
        Ok(other) if other != leader => return Ok(()),
        Ok(_) => call(bus, MANAGER, "UnregisterMachine", &name).map(drop),
        Err(failure) => Err(failure),
    };
    match unregistered {
        Err(failure) if !gone(&failure) => Err(failure.into()),
        _ => Ok(()),
    }
}

/// Where machined keeps a file for each machine.
const FILES: &str = "/run/systemd/machines";

/// The names of all machines but the host's own, `.host`, in order and without a question on the bus: as
/// sd_get_machine_names(3) finds them. None where machined has never run.
pub fn names() -> Vec<String> {
    names_in(Path::new(FILES))
}

fn names_in(directory: &Path) -> Vec<String> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = files.filter_map(|file| file.file_name().into_string().ok());
    // Links beside the files name machines by their units, `unit:…`.
    let mut names: Vec<_> = files.filter(|name| !name.starts_with('.') && !name.contains(':')).collect();
    names.sort_unstable();
    names
}

/// All machines whose names are `wanted`; `.host` is among what is asked for. Each that is wanted costs a question of its
/// own.
///
/// # Errors
/// [`BusError::NoBus`], [`BusError::NoMachined`], and what machined says.
pub fn list(wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Machine>, BusError> {
    let bus = open()?;
    let answer = call(&bus, MANAGER, "ListMachines", &()).map_err(no_machined)?;
    let entries: Vec<(String, String, String, OwnedObjectPath)> = arguments(&answer, "ListMachines")?;
    let mut machines = Vec::new();
    for (_, _, _, path) in entries.into_iter().filter(|(name, ..)| wanted(name)) {
        // One that ended since the list was made is left out.
        machines.extend(read(&bus, &path)?);
    }
    machines.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(machines)
}

/// One machine; `None` when machined does not know the name.
///
/// # Errors
/// As [`list`].
pub fn get(name: &str) -> Result<Option<Machine>, BusError> {
    let bus = open()?;
    match find(&bus, name)? {
        Some(path) => read(&bus, &path),
        None => Ok(None),
    }
}

fn read(bus: &Connection, path: &OwnedObjectPath) -> Result<Option<Machine>, BusError> {
    let object = Object {
        destination: DESTINATION,
        path: path.as_str(),
        interface: "org.freedesktop.DBus.Properties",
    };
    let answer = match call(bus, object, "GetAll", &"org.freedesktop.machine1.Machine") {
        Ok(answer) => answer,
        Err(failure) if failure.is(&["NoSuchMachine", "UnknownObject"]) => return Ok(None),
        Err(failure) => return Err(no_machined(failure)),
    };
    let mut properties: Properties = arguments(&answer, "GetAll")?;
    let id: Vec<u8> = take(&mut properties, "Id").unwrap_or_default();
    let mut text = |name: &str| take::<String>(&mut properties, name).unwrap_or_default();
    let machine = Machine {
        name: text("Name"),
        class: text("Class"),
        service: text("Service"),
        unit: text("Unit"),
        root: Some(text("RootDirectory")).filter(|root| !root.is_empty()).map(PathBuf::from),
        state: text("State"),
        ssh_address: text("SSHAddress"),
        ssh_key: text("SSHPrivateKeyPath"),
        id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
        leader: take(&mut properties, "Leader").unwrap_or_default(),
        started: take(&mut properties, "Timestamp").unwrap_or_default(),
        started_monotonic: take(&mut properties, "TimestampMonotonic").unwrap_or_default(),
        ifindices: take(&mut properties, "NetworkInterfaces").unwrap_or_default(),
        vsock_cid: take(&mut properties, "VSockCID").filter(|cid| *cid != u32::MAX),
    };
    Ok(Some(machine))
}

type Properties = HashMap<String, OwnedValue>;

/// A property; none where this machined does not have it.
fn take<T: TryFrom<OwnedValue>>(properties: &mut Properties, name: &str) -> Option<T> {
    properties.remove(name).and_then(|value| T::try_from(value).ok())
}

/// Ends a machine at once: machined stops its unit. Of who is not root it asks polkit, as all that follows.
///
/// # Errors
/// As [`list`]; [`BusError::Refused`] with `NoSuchMachine` for a name that machined does not know.
pub fn terminate(name: &str) -> Result<(), BusError> {
    call_authorized(MANAGER, "TerminateMachine", &name, no_machined)
}

/// Opens a terminal at which the machine's systemd shows a login prompt (`container-getty@.service`); its master.
///
/// # Errors
/// As [`terminate`]; [`BusError::Refused`] for a machine without systemd and a bus, and for who may not (polkit,
/// `org.freedesktop.machine1.login`).
pub fn open_login(name: &str) -> Result<OwnedFd, BusError> {
    let answer = call(&open()?, MANAGER, "OpenMachineLogin", &name).map_err(no_machined)?;
    let (master, _): (zbus::zvariant::OwnedFd, String) = arguments(&answer, "OpenMachineLogin")?;
    Ok(master.into())
}

/// What [`open_shell`] opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell<'a> {
    /// The user inside, by name.
    pub user: &'a str,
    /// The program, absolute; empty for the user's login shell.
    pub program: &'a str,
    /// Its arguments, its name first; empty for the name alone.
    pub arguments: &'a [String],
    /// `NAME=VALUE`, beside what PAM's stack for login sets.
    pub environment: &'a [String],
}

/// Opens a terminal on which the machine's systemd runs a shell in a PAM session; its master.
///
/// # Errors
/// As [`open_login`] (polkit, `org.freedesktop.machine1.shell`).
pub fn open_shell(name: &str, shell: &Shell<'_>) -> Result<OwnedFd, BusError> {
    let Shell { user, program, arguments: argv, environment } = shell;
    let body = (name, user, program, argv, environment);
    let answer = call(&open()?, MANAGER, "OpenMachineShell", &body).map_err(no_machined)?;
    let (master, _): (zbus::zvariant::OwnedFd, String) = arguments(&answer, "OpenMachineShell")?;
    Ok(master.into())
}

/// Sends a signal.
///
/// # Errors
/// As [`terminate`].
pub fn kill(name: &str, whom: Whom, signal: i32) -> Result<(), BusError> {
    let whom = match whom {
        Whom::Leader => "leader",
        Whom::All => "all",
    };
    call_authorized(MANAGER, "KillMachine", &(name, whom, signal), no_machined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_names_and_nothing_else_there_is() {
        let directory = std::env::temp_dir().join(format!("osier-machined-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        for file in ["others", "a-machine", ".host", "unit:machine-others.scope"] {
            fs::write(directory.join(file), "").unwrap();
        }
        let found = names_in(&directory);
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(found, ["a-machine", "others"]);
        assert_eq!(names_in(&directory), [""; 0], "machined has never run");
    }
}
