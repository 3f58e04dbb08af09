//! What a machine may use at most: each limit as a value, with its file in cgroup v2
//! (Documentation/admin-guide/cgroup-v2.rst) and its property of a unit (man 5 systemd.resource-control).
//!
//! A limit is said in one of three ways, and [`Key`] tells which: as a file of the cgroup (`memory.max=2G`), as a property of
//! a unit (`MemoryMax=2G`), as an option (`--cpus=1.5`). [`write`] puts them into files; where systemd owns the cgroup,
//! [`Limit::setting`] says them in its words.

mod device;
mod held;
mod key;
mod parse;
mod write;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::size;

pub use device::Device;
pub use held::{await_held, changed, held};
pub use key::{KEYS, Key};
pub use parse::parse;
pub use write::{Refused, write};

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limit {
    /// `memory.max`: where it cannot be kept the OOM killer comes.
    MemoryMax(Amount),
    /// `memory.high`: above it, processes are slowed down and made to give memory back.
    MemoryHigh(Amount),
    /// `memory.swap.max`.
    MemorySwapMax(Amount),
    /// `cpu.max`, the share: microseconds of CPU time in each second; `None` is no limit.
    CpuShare(Option<u64>),
    /// `cpu.max`, the period in which it is measured, microseconds.
    CpuPeriod(u64),
    /// `cpu.weight`, 1 to 10000.
    CpuWeight(u64),
    /// `pids.max`: processes and threads; `None` is no limit.
    PidsMax(Option<u64>),
    /// One of the rates of `io.max`; `None` is no limit.
    Io(Device, Rate, Option<u64>),
    /// `io.weight`, 1 to 10000.
    IoWeight(u64),
    /// `cpuset.cpus`: a list such as `0-1,4`; empty is all.
    Cpus(String),
    /// `cpuset.mems`: a list of memory nodes; empty is all.
    Mems(String),
}

/// An amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// No limit.
    Unlimited,
    /// Bytes.
    Bytes(u64),
    /// Percent of the host's memory.
    Percent(u64),
}

/// What of a block device is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rate {
    /// Bytes read a second.
    ReadBytes,
    /// Bytes written a second.
    WriteBytes,
    /// Reads a second.
    ReadOperations,
    /// Writes a second.
    WriteOperations,
}

impl Rate {
    /// All, in the kernel's order.
    pub const ALL: [Self; 4] =
        [Self::ReadBytes, Self::WriteBytes, Self::ReadOperations, Self::WriteOperations];

    /// Its key in io.max.
    pub fn key(self) -> &'static str {
        match self {
            Self::ReadBytes => "rbps",
            Self::WriteBytes => "wbps",
            Self::ReadOperations => "riops",
            Self::WriteOperations => "wiops",
        }
    }

    fn property(self) -> &'static str {
        match self {
            Self::ReadBytes => "IOReadBandwidthMax",
            Self::WriteBytes => "IOWriteBandwidthMax",
            Self::ReadOperations => "IOReadIOPSMax",
            Self::WriteOperations => "IOWriteIOPSMax",
        }
    }

    fn is_bytes(self) -> bool {
        matches!(self, Self::ReadBytes | Self::WriteBytes)
    }
}

impl Limit {
    /// Its file in the machine's cgroup.
    pub fn file(&self) -> &'static str {
        match self {
            Self::MemoryMax(_) => "memory.max",
            Self::MemoryHigh(_) => "memory.high",
            Self::MemorySwapMax(_) => "memory.swap.max",
            Self::CpuShare(_) | Self::CpuPeriod(_) => "cpu.max",
            Self::CpuWeight(_) => "cpu.weight",
            Self::PidsMax(_) => "pids.max",
            Self::Io(..) => "io.max",
            Self::IoWeight(_) => "io.weight",
            Self::Cpus(_) => "cpuset.cpus",
            Self::Mems(_) => "cpuset.mems",
        }
    }

    /// The controller that it belongs to: what stands before the dot of its file.
    pub fn controller(&self) -> &'static str {
        self.file().split_once('.').map_or("", |(controller, _)| controller)
    }

    /// Its property of a unit, and the value as unit files have it.
    pub fn setting(&self) -> (&'static str, String) {
        let count = |limit: &Option<u64>| limit.map_or_else(infinity, |limit| limit.to_string());
        match self {
            Self::MemoryMax(amount) => ("MemoryMax", amount.to_string()),
            Self::MemoryHigh(amount) => ("MemoryHigh", amount.to_string()),
            Self::MemorySwapMax(amount) => ("MemorySwapMax", amount.to_string()),
            // No limit is the empty value there.
            Self::CpuShare(share) => ("CPUQuota", share.map(percent).unwrap_or_default()),
            Self::CpuPeriod(period) => ("CPUQuotaPeriodSec", format!("{period}us")),
            Self::CpuWeight(weight) => ("CPUWeight", weight.to_string()),
            Self::PidsMax(limit) => ("TasksMax", count(limit)),
            Self::Io(device, rate, limit) => {
                let limit = limit.map_or_else(infinity, |limit| rate_text(*rate, limit));
                (rate.property(), format!("{} {limit}", device.path()))
            }
            Self::IoWeight(weight) => ("IOWeight", weight.to_string()),
            Self::Cpus(list) => ("AllowedCPUs", list.clone()),
            Self::Mems(list) => ("AllowedMemoryNodes", list.clone()),
        }
    }

    /// Whether it says something else about the very thing that `other` is about.
    fn replaces(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Io(device, rate, _), Self::Io(other, another, _)) => {
                device.numbers() == other.numbers() && rate == another
            }
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// Adds `more` to `limits`; of two about the same thing the later one holds.
pub fn add(limits: &mut Vec<Limit>, more: impl IntoIterator<Item = Limit>) {
    for limit in more {
        limits.retain(|before| !limit.replaces(before));
        limits.push(limit);
    }
}

fn infinity() -> String {
    "infinity".to_owned()
}

fn rate_text(rate: Rate, limit: u64) -> String {
    if rate.is_bytes() { size::format(limit) } else { limit.to_string() }
}

/// Microseconds a second as percent of one CPU: ten thousand are one percent.
fn percent(share: u64) -> String {
    match share % 10_000 {
        0 => format!("{}%", share / 10_000),
        rest => format!("{}.{}%", share / 10_000, format!("{rest:04}").trim_end_matches('0')),
    }
}

impl Amount {
    /// Bytes, on a host with this much memory; `None` is no limit.
    pub fn bytes(self, memory: u64) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::Bytes(bytes) => Some(bytes),
            Self::Percent(percent) => Some(memory / 100 * percent),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("infinity"),
            Self::Bytes(bytes) => f.write_str(&size::format(*bytes)),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// As a file of the cgroup and what it is to say: `memory.max=2G`, `io.max=/dev/vda rbps=1M`.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file();
        match self {
            Self::CpuPeriod(period) => write!(f, "{file}=each {period} us"),
            Self::Io(device, rate, limit) => {
                let limit = limit.map_or_else(|| "max".to_owned(), |limit| rate_text(*rate, limit));
                write!(f, "{file}={} {}={limit}", device.path(), rate.key())
            }
            Self::Cpus(list) | Self::Mems(list) if list.is_empty() => write!(f, "{file}=all"),
            _ => {
                let (_, value) = self.setting();
                let unlimited = value.is_empty() || value == "infinity";
                write!(f, "{file}={}", if unlimited { "max" } else { &value })
            }
        }
    }
}

#[cfg(test)]
mod tests;
