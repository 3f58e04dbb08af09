//! The names of limits.

use serde::{Deserialize, Serialize};

use super::Rate;

/// A name for a limit, and with it the way that its value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the variants are the names in KEYS")]
pub enum Key {
    MemoryMax,
    MemoryHigh,
    MemorySwapMax,
    /// `cpu.max`: a percentage of one CPU, or `QUOTA PERIOD` in microseconds as the kernel has it.
    CpuMax,
    /// `CPUQuota`: a percentage of one CPU.
    CpuShare,
    /// `--cpus`: a number of CPUs, such as 1.5, or a percentage of one.
    Cpus,
    CpuPeriod,
    CpuWeight,
    PidsMax,
    /// `io.max`: a device and `rbps=`, `wbps=`, `riops=`, `wiops=`.
    IoMax,
    /// `IOReadBandwidthMax` and the like: a device and one rate.
    Io(Rate),
    IoWeight,
    CpusetCpus,
    CpusetMems,
}

/// The files of a cgroup, and the properties of a unit, by which limits are named.
pub const KEYS: &[(&str, Key)] = &[
    ("memory.max", Key::MemoryMax),
    ("memory.high", Key::MemoryHigh),
    ("memory.swap.max", Key::MemorySwapMax),
    ("cpu.max", Key::CpuMax),
    ("cpu.weight", Key::CpuWeight),
    ("pids.max", Key::PidsMax),
    ("io.max", Key::IoMax),
    ("io.weight", Key::IoWeight),
    ("cpuset.cpus", Key::CpusetCpus),
    ("cpuset.mems", Key::CpusetMems),
    ("MemoryMax", Key::MemoryMax),
    ("MemoryHigh", Key::MemoryHigh),
    ("MemorySwapMax", Key::MemorySwapMax),
    ("CPUQuota", Key::CpuShare),
    ("CPUQuotaPeriodSec", Key::CpuPeriod),
    ("CPUWeight", Key::CpuWeight),
    ("TasksMax", Key::PidsMax),
    ("IOReadBandwidthMax", Key::Io(Rate::ReadBytes)),
    ("IOWriteBandwidthMax", Key::Io(Rate::WriteBytes)),
    ("IOReadIOPSMax", Key::Io(Rate::ReadOperations)),
    ("IOWriteIOPSMax", Key::Io(Rate::WriteOperations)),
    ("IOWeight", Key::IoWeight),
    ("AllowedCPUs", Key::CpusetCpus),
    ("AllowedMemoryNodes", Key::CpusetMems),
];

impl Key {
    /// The limit that a file of the cgroup is for, by the file's name.
    pub fn of_file(name: &str) -> Option<Self> {
        Self::files().find(|(known, _)| *known == name).map(|(_, key)| key)
    }

    /// The limit that a property of a unit is for, by its name in unit files.
    pub fn of_property(name: &str) -> Option<Self> {
        Self::properties().find(|(known, _)| *known == name).map(|(_, key)| key)
    }

    /// Those of [`KEYS`] that are files.
    pub fn files() -> impl Iterator<Item = (&'static str, Self)> {
        KEYS.iter().copied().filter(|(name, _)| name.contains('.'))
    }

    /// Those of [`KEYS`] that are properties.
    pub fn properties() -> impl Iterator<Item = (&'static str, Self)> {
        KEYS.iter().copied().filter(|(name, _)| !name.contains('.'))
    }
}
