//! The record: the file under /run/osier/machines that tells other osier commands about a machine.
//!
//! `NAME.json` exists from the moment the leader runs until the machine is gone. Its supervisor holds an exclusive
//! flock(2) on it; a record without a lock belongs to a supervisor that is dead and describes what the next boot (or
//! `check`) has to clean up. Writers replace the file by rename(2); the new file is locked before it gets the name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything that other commands may know about a machine. Also what `osier show NAME --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The layout of this object; [`Record::VERSION`].
    pub version: u32,
    /// The machine's name.
    pub name: String,
    /// Its machine ID, 32 hexadecimal digits.
    pub id: String,
    /// `container`, as machined names it.
    pub class: String,
    /// `boot` or `run`.
    pub verb: String,
    /// Host pid of the leader (PID 1 inside).
    pub leader: u32,
    /// Host pid of the supervisor.
    pub supervisor: u32,
    /// The tree or image that it runs from, absolute.
    pub root: PathBuf,
    /// `PRETTY_NAME` of the tree's os-release, where it has one.
    pub os: Option<String>,
    /// The systemd unit that holds it, where systemd is PID 1 on the host.
    pub unit: Option<String>,
    /// Whether machined knows it.
    pub registered: bool,
    /// Absolute path of its cgroup (above `payload`), as mounted on the host.
    pub cgroup: Option<PathBuf>,
    /// Inode number of each namespace by its name in /proc/PID/ns.
    pub namespaces: BTreeMap<String, u64>,
    /// The offsets of its time namespace.
    pub clocks: Clocks,
    /// Host network interfaces that belong to it.
    pub links: Vec<String>,
    /// When its leader ran, microseconds of CLOCK_REALTIME since the epoch.
    pub started: u64,
}

/// Offsets of a time namespace against the host's initial one, in nanoseconds (man 7 time_namespaces).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// Added to CLOCK_MONOTONIC.
    pub monotonic_offset_ns: i64,
    /// Added to CLOCK_BOOTTIME.
    pub boottime_offset_ns: i64,
}

impl Record {
    /// The layout described here.
    pub const VERSION: u32 = 1;
}
