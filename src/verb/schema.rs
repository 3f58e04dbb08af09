//! What `--json` prints: every object, in one place. osier-json(5) lists their keys; the tests below write that list from
//! here and hold the page to it, and refuse a key that was renamed, removed or given another type.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

use crate::cgroup::usage::{Limits, Node, Pressure, Usage};
use crate::machine::record::{Clocks, Record};

/// The version of all objects: the record's, which `show` prints whole.
pub(super) const VERSION: u32 = Record::VERSION;

/// `osier list --json` prints an array of these.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Listed {
    /// The version of these keys: 1.
    pub(super) version: u32,
    /// The machine's name.
    pub(super) name: String,
    /// `container`, `vm` or `host`, as machined names it.
    pub(super) class: String,
    /// What registered it, as machined names it: `osier`, `systemd-nspawn`…
    pub(super) service: String,
    /// Where it is in its life, as `osier show` has it.
    pub(super) state: String,
    /// What its os-release says that it is.
    pub(super) os: Option<String>,
    /// When it began to run, microseconds of CLOCK_REALTIME since the epoch.
    pub(super) started: u64,
    /// Host pid of the leader (PID 1 inside).
    pub(super) leader: u32,
    /// Its addresses but the loopback's: IPv4 first, link-local ones last; none when it shares the host's network.
    pub(super) addresses: Vec<IpAddr>,
}

/// What `osier show --json` prints.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Shown {
    /// A machine of osier's.
    Own(Box<Own>),
    /// One that machined knows and osier did not boot.
    Others(Box<Others>),
}

/// A machine of osier's: its record, and what changes by the moment.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Own {
    /// The record.
    #[serde(flatten)]
    pub(super) record: Record,
    /// `osier`, as machined shows it.
    pub(super) service: String,
    /// The clocks.
    #[serde(flatten)]
    pub(super) moment: Moment,
}

/// A machine that osier did not boot, as far as machined tells. The keys are the record's.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Others {
    /// The version of these keys: 1.
    pub(super) version: u32,
    /// The machine's name.
    pub(super) name: String,
    /// Its machine ID, 32 hexadecimal digits.
    pub(super) id: Option<String>,
    /// `container`, `vm` or `host`.
    pub(super) class: String,
    /// What registered it: `systemd-nspawn`, `libvirt-lxc`…
    pub(super) service: String,
    /// `opening`, `running` or `closing`.
    pub(super) state: String,
    /// Host pid of the leader.
    pub(super) leader: u32,
    /// The tree that it runs from.
    pub(super) root: Option<PathBuf>,
    /// What the os-release of that tree says that it is.
    pub(super) os: Option<String>,
    /// The systemd unit that holds it.
    pub(super) unit: Option<String>,
    /// Absolute path of that unit's cgroup.
    pub(super) cgroup: Option<PathBuf>,
    /// Host network interfaces that belong to it.
    pub(super) links: Vec<String>,
    /// When it was registered, microseconds of CLOCK_REALTIME since the epoch.
    pub(super) started: u64,
    /// The moment of `started`, microseconds of the host's CLOCK_MONOTONIC.
    pub(super) started_monotonic: u64,
    /// The offsets of its time namespace.
    pub(super) clocks: Option<Clocks>,
    /// The clocks.
    #[serde(flatten)]
    pub(super) moment: Moment,
}

/// What time it is for a machine.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Moment {
    /// How long it has run, as the host sees it, microseconds.
    pub(super) uptime_usec: u64,
    /// What its own clocks show now.
    pub(super) clocks_now: Option<ClocksNow>,
}

/// A machine's own clocks.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct ClocksNow {
    /// CLOCK_MONOTONIC inside, nanoseconds.
    pub(super) monotonic_ns: i64,
    /// CLOCK_BOOTTIME inside, nanoseconds: what uptime(1) shows there.
    pub(super) boottime_ns: i64,
}

/// What `osier status --json` prints: what `show` does, and these.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    /// The machine.
    #[serde(flatten)]
    pub(super) machine: Shown,
    /// How it is.
    #[serde(flatten)]
    pub(super) live: Live,
}

/// How a machine is at the moment.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Live {
    /// Its addresses but the loopback's: IPv4 first, link-local ones last; none when it shares the host's network.
    pub(super) addresses: Vec<IpAddr>,
    /// What it may use; each is null where there is no limit.
    pub(super) limits: Option<Limits>,
    /// What it uses; each is null where the host has no controller for it.
    pub(super) usage: Option<Usage>,
    /// How much it waits.
    pub(super) pressure: Option<Pressure>,
    /// Whether its processes are stopped, by `osier freeze` or by who else can.
    pub(super) frozen: bool,
    /// Its cgroup with the processes in it.
    pub(super) processes: Option<Node>,
    /// The last lines of its journal, or of its console's log: as many as `--lines` says, ten by default.
    pub(super) log: Vec<String>,
}

/// What a machine uses; `osier top --json` prints an array of these for each snapshot.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Busy {
    /// The version of these keys: 1.
    pub(super) version: u32,
    /// The machine's name.
    pub(super) name: String,
    /// What registered it, as machined names it: `osier`, `systemd-nspawn`…
    pub(super) service: String,
    /// Where it is in its life, as `osier show` has it.
    pub(super) state: String,
    /// CPU time since the last snapshot, percent of one processor.
    pub(super) cpu_percent: Option<f64>,
    /// Memory now, bytes.
    pub(super) memory: Option<u64>,
    /// The limit of that, bytes.
    pub(super) memory_max: Option<u64>,
    /// Processes and threads.
    pub(super) tasks: Option<u64>,
    /// The limit of those.
    pub(super) tasks_max: Option<u64>,
    /// Read from block devices since the last snapshot, bytes in a second.
    pub(super) io_read_rate: Option<u64>,
    /// Written to block devices since the last snapshot, bytes in a second.
    pub(super) io_write_rate: Option<u64>,
    /// How long it has run, as the host sees it, microseconds.
    pub(super) uptime_usec: u64,
}

/// What the clocks show at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Reading {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub(super) monotonic_ns: i64,
    /// CLOCK_BOOTTIME, nanoseconds.
    pub(super) boottime_ns: i64,
    /// CLOCK_REALTIME, nanoseconds since the epoch.
    pub(super) realtime_ns: i64,
    /// What uptime(1) shows, nanoseconds; /proc/uptime has it in hundredths of a second.
    pub(super) uptime_ns: i64,
    /// When it was booted by `btime` of /proc/stat, seconds since the epoch.
    pub(super) btime_sec: i64,
}

/// What `osier clock --json` prints.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Clocked {
    /// The version of these keys: 1.
    pub(super) version: u32,
    /// The machine's name.
    pub(super) name: String,
    /// Whether its clocks were read inside; without the right to, they are reckoned from the host's and its offsets.
    pub(super) read_inside: bool,
    /// The host's clocks: those of where osier runs.
    pub(super) host: Reading,
    /// The machine's.
    pub(super) machine: Reading,
    /// The machine's less the host's.
    pub(super) offset: Reading,
    /// The offsets of its time namespace, which are against the kernel's own clocks, wherever osier runs.
    pub(super) clocks: Clocks,
}

/// What `osier clock --compare --json` prints.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Compared {
    /// The version of these keys: 1.
    pub(super) version: u32,
    /// The names as they were given.
    pub(super) names: [String; 2],
    /// Whether the clocks of machines among them were read inside, as `osier clock` has it.
    pub(super) read_inside: bool,
    /// The clocks of the first.
    pub(super) first: Reading,
    /// Of the second.
    pub(super) second: Reading,
    /// The second's less the first's.
    pub(super) difference: Reading,
}

/// One thing that a host can have; `osier check --json` prints an array of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Finding {
    /// The version of these keys: 1.
    pub(super) version: u32,
    /// What it is.
    pub(super) what: String,
    /// Whether it is there.
    pub(super) present: bool,
    /// Whether machines cannot run without it.
    pub(super) required: bool,
    /// Where it is, or why it is missing and what to do.
    pub(super) note: String,
}

/// Something that a dead run left; `osier check --clean --json` prints an array of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Cleaned {
    /// The version of these keys: 1.
    pub(super) version: u32,
    /// Whose it was; empty where that cannot be told.
    pub(super) machine: String,
    /// `cgroup`, `link`, `lock`, `socket`, `directory` or `record`.
    pub(super) what: String,
    /// Its path, or the link's name.
    pub(super) object: String,
}

#[cfg(test)]
mod tests;
