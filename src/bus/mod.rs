//! The system bus: PID 1 for the scope that holds a machine, systemd-machined for its registration.
//!
//! The supervisor has one thread (it forks again for a reboot in place) and stays small, and zbus starts threads. So all
//! that a *supervisor* needs of the bus is done by the **registrar**, a process forked off it: [`Registrar`] is the
//! supervisor's end, `clerk` the process, `wire` what they say to each other. The registrar outlives a supervisor that
//! was killed, by the time it takes to unregister the machine and to remove its scope.
//!
//! Short-lived verbs talk to the bus in their own process, after everything that forks: [`machined`], [`systemd`].
//!
//! Refused here: any policy of what to do without a bus. [`BusError`] says which part is not there; the caller decides.

mod apart;
mod call;
mod clerk;
pub mod machined;
mod property;
mod registrar;
pub mod systemd;
pub mod units;
mod wire;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use apart::apart;
pub use property::{Property, PropertyError, Value};
pub use registrar::Registrar;

/// What the bus, PID 1 or machined refused, or that they are not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BusError {
    /// No connection to the system bus; the reason.
    NoBus(String),
    /// The bus is there; PID 1 is not on it, so there are no scopes.
    NoSystemd(String),
    /// The bus is there; systemd-machined is not on it and cannot be started.
    NoMachined(String),
    /// The name is in use; what holds it, such as `machine 'web'` or `unit machine-web.scope`.
    NameTaken(String),
    /// A method was answered with an error.
    Refused {
        /// The D-Bus method, such as `StartTransientUnit`.
        method: String,
        /// The name of the error, such as `org.freedesktop.DBus.Error.AccessDenied`; empty where it has none.
        name: String,
        /// What the peer says about it.
        text: String,
    },
    /// PID 1 took the job and could not do it.
    JobFailed {
        /// The unit.
        unit: String,
        /// The job's result, as systemd names it: `failed`, `timeout`, `canceled`, `dependency`…
        result: String,
    },
    /// No answer within the limit; what it was to do, as it stands after `to`.
    TimedOut(String),
    /// The registrar is gone.
    Lost,
    /// The socket to the registrar failed; the reason.
    Io(String),
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBus(reason) => write!(f, "cannot reach the system bus: {reason}"),
            Self::NoSystemd(reason) => write!(f, "systemd is not on the system bus: {reason}"),
            Self::NoMachined(reason) => write!(f, "systemd-machined is not on the system bus: {reason}"),
            Self::NameTaken(holder) => write!(f, "the name is in use by {holder}"),
            Self::Refused { method, name, text } if text.is_empty() => {
                write!(f, "{method} was refused: {name}")
            }
            Self::Refused { method, text, .. } => write!(f, "{method} was refused: {text}"),
            Self::JobFailed { unit, result } => write!(f, "the job for unit '{unit}' ended with '{result}'"),
            Self::TimedOut(what) => write!(f, "no answer in time to {what}"),
            Self::Lost => f.write_str("the process that talks to the bus is gone"),
            Self::Io(reason) => write!(f, "cannot talk to the process that talks to the bus: {reason}"),
        }
    }
}

impl std::error::Error for BusError {}

impl From<io::Error> for BusError {
    fn from(error: io::Error) -> Self {
        Self::Io(crate::error::reason(&error))
    }
}

/// A machine, as PID 1 and machined are told about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its name, a valid host name.
    pub name: String,
    /// Its machine ID.
    pub id: [u8; 16],
    /// Host pid of its leader; on the bus only beside or instead of the pidfd, where a peer is too old for that.
    pub leader: u32,
    /// Host pid of its supervisor; the unit to keep is the one that this process is in.
    pub supervisor: u32,
    /// The tree that it runs from, absolute.
    pub root: PathBuf,
    /// Indices of the host's network interfaces that lead to it.
    pub ifindices: Vec<i32>,
    /// Which unit holds it.
    pub unit: UnitWanted,
}

/// Which unit holds a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnitWanted {
    /// A scope of its own, `machine-NAME.scope`.
    Scope {
        /// The slice to put it in, such as `machine.slice`.
        slice: String,
        /// Further properties; they win over the defaults.
        properties: Vec<Property>,
    },
    /// The unit that the supervisor is in already (`--keep-unit`).
    Keep {
        /// Properties to be set for as long as the host runs.
        properties: Vec<Property>,
    },
}

/// The unit that holds a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Its name, such as `machine-web.scope`.
    pub name: String,
    /// Its cgroup, relative to the root of the hierarchy, with a leading `/`.
    pub control_group: String,
}

/// What the registrar says without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Somebody asks for the machine's end: PID 1 wants to stop the scope (`RequestStop`), or the registrar got SIGTERM.
    StopRequested,
    /// The bus is gone: stop requests come no more. A later request to the registrar opens it again.
    BusLost,
    /// The registrar is gone: no request can be made any more.
    Lost,
}

/// Where the system bus listens, where `DBUS_SYSTEM_BUS_ADDRESS` does not say otherwise (D-Bus Specification,
/// "Well-known Message Bus Instances"; `/var/run` is a link to `/run`).
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Whether a system bus is to be expected: its socket is there. Opens no connection.
///
/// `DBUS_SYSTEM_BUS_ADDRESS` is respected; an address that names no socket in the file system counts as there.
pub fn available() -> bool {
    match std::env::var("DBUS_SYSTEM_BUS_ADDRESS") {
        Ok(addresses) => addresses.split(';').any(|address| match address.strip_prefix("unix:path=") {
            Some(path) => Path::new(path.split(',').next().unwrap_or_default()).exists(),
            None => !address.is_empty(),
        }),
        Err(_) => Path::new(SYSTEM_BUS).exists(),
    }
}
