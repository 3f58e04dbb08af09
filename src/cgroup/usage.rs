//! What a machine's subtree uses and may use, how long it waits for it, and which processes are where in it.
//!
//! The controllers are cgroups-rs's, each constructed for the machine's own directory: the crate's own `Hierarchy`
//! expects cgroup2 at /sys/fs/cgroup, which a hybrid host has elsewhere. Each figure is asked for only when its file is
//! there, because the crate reads a controller that is off as zero.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Controller, MaxValue};
use serde::Serialize;

/// What a subtree uses; `None` where its controller is not enabled on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Usage {
    /// Memory now, bytes.
    pub memory: Option<u64>,
    /// The most memory that there was, bytes; since Linux 5.19.
    pub memory_peak: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// CPU time of all its processes, microseconds.
    pub cpu_usec: Option<u64>,
    /// Read from block devices, bytes.
    pub io_read: Option<u64>,
    /// Written to block devices, bytes.
    pub io_written: Option<u64>,
    /// How many processes the kernel has killed for want of memory.
    pub oom_kills: Option<u64>,
}

/// What a subtree may use; `None` where there is no limit, or no controller for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Limits {
    /// Memory, bytes: above it processes are killed.
    pub memory_max: Option<u64>,
    /// Memory, bytes: above it processes are slowed down.
    pub memory_high: Option<u64>,
    /// Processes and threads.
    pub tasks_max: Option<u64>,
    /// CPU time in each period of `cpu_period_usec`, microseconds.
    pub cpu_quota_usec: Option<u64>,
    /// The period of `cpu_quota_usec`, microseconds.
    pub cpu_period_usec: Option<u64>,
}

/// For what part of the last ten seconds some process of a subtree waited for a resource, percent
/// (Documentation/accounting/psi.rst); `None` where the kernel does not count it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Pressure {
    /// For how much of the last ten seconds some process waited for a CPU, percent.
    pub cpu: Option<f64>,
    /// For how much of the last ten seconds some process waited for memory, percent.
    pub memory: Option<f64>,
    /// For how much of the last ten seconds some process waited for block devices, percent.
    pub io: Option<f64>,
}

impl Usage {
    /// CPU time.
    pub fn cpu(&self) -> Option<Duration> {
        self.cpu_usec.map(Duration::from_micros)
    }
}

/// Reads what the subtree at `cgroup` uses.
pub fn read(cgroup: &Path) -> Usage {
    let has = |file: &str| cgroup.join(file).exists();
    let text = |file: &str| fs::read_to_string(cgroup.join(file)).ok();
    let io = text("io.stat");
    let root = || cgroup.to_owned();
    let memory = has("memory.current").then(|| MemController::new(root(), root(), true).memory_stat());
    let tasks = has("pids.current").then(|| PidController::new(root(), root(), true).get_pid_current());
    Usage {
        memory: memory.as_ref().map(|memory| memory.usage_in_bytes),
        memory_peak: memory.filter(|_| has("memory.peak")).map(|memory| memory.max_usage_in_bytes),
        tasks: tasks.and_then(Result::ok),
        cpu_usec: keyed(&CpuController::new(root(), root(), true).cpu().stat, "usage_usec"),
        io_read: io.as_deref().map(|io| nested(io, "rbytes")),
        io_written: io.as_deref().map(|io| nested(io, "wbytes")),
        oom_kills: text("memory.events").and_then(|events| keyed(&events, "oom_kill")),
    }
}

/// Reads what the subtree at `cgroup` may use. A limit of a directory above is not looked at.
pub fn read_limits(cgroup: &Path) -> Limits {
    let root = || cgroup.to_owned();
    let value = |value: Option<MaxValue>| match value {
        Some(MaxValue::Value(value)) => u64::try_from(value).ok(),
        Some(MaxValue::Max) | None => None,
    };
    let memory = MemController::new(root(), root(), true).get_mem().ok();
    let (memory_max, memory_high) = memory.map(|memory| (memory.max, memory.high)).unwrap_or_default();
    let tasks = PidController::new(root(), root(), true).get_pid_max().ok();
    let cpu = CpuController::new(root(), root(), true);
    // The crate gives no quota as the greatest or as a negative number.
    let quota = cpu.cfs_quota().ok().filter(|quota| (1..i64::MAX).contains(quota));
    Limits {
        memory_max: value(memory_max),
        memory_high: value(memory_high),
        tasks_max: value(tasks),
        cpu_quota_usec: quota.and_then(|quota| u64::try_from(quota).ok()),
        cpu_period_usec: quota.and_then(|_| cpu.cfs_period().ok()),
    }
}

/// Reads how long processes of the subtree at `cgroup` have waited.
pub fn read_pressure(cgroup: &Path) -> Pressure {
    let some = |file: &str| {
        let text = fs::read_to_string(cgroup.join(file)).ok()?;
        let fields = text.lines().find_map(|line| line.strip_prefix("some "))?;
        fields.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
    };
    Pressure { cpu: some("cpu.pressure"), memory: some("memory.pressure"), io: some("io.pressure") }
}

/// A value of a flat keyed file (Documentation/admin-guide/cgroup-v2.rst, Format).
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == key)?.1.parse().ok()
}

/// The sum of a key's values in a nested keyed file: one line for each device.
fn nested(text: &str, key: &str) -> u64 {
    let fields = text.split_whitespace().filter_map(|field| field.split_once('='));
    fields.filter(|(name, _)| *name == key).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

/// A directory of the subtree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Node {
    /// Its name; the subtree's own for the topmost.
    pub name: String,
    /// Host pids of the processes in it.
    pub processes: Vec<u64>,
    /// The directories below, by name.
    pub children: Vec<Node>,
}

impl Node {
    /// Whether there is a process in it or below.
    pub fn is_populated(&self) -> bool {
        !self.processes.is_empty() || self.children.iter().any(Self::is_populated)
    }
}

/// Reads which processes are where in the subtree at `cgroup`.
///
/// # Errors
/// `ENOENT` when it is not there; directories that vanish on the way are left out.
pub fn tree(cgroup: &Path) -> io::Result<Node> {
    let mut children = Vec::new();
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.extend(tree(&entry.path()).ok());
        }
    }
    children.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    // Any controller reads cgroup.procs; this one has no file of its own.
    let processes = CpuController::new(cgroup.to_owned(), cgroup.to_owned(), true).procs();
    let mut processes: Vec<_> = processes.into_iter().map(|process| process.pid).collect();
    processes.sort_unstable();
    let name = cgroup.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Node { name, processes, children })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(std::path::PathBuf);

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn fake(test: &str, files: &[(&str, &str)]) -> Directory {
        let root = std::env::temp_dir().join(format!("osier-usage-{test}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Directory(root)
    }

    #[test]
    fn a_controller_that_is_off_has_no_figure() {
        let bare = fake("bare", &[("cgroup.procs", ""), ("cpu.stat", "usage_usec 1500\nuser_usec 1000\n")]);
        let nothing = Usage {
            memory: None,
            memory_peak: None,
            tasks: None,
            cpu_usec: None,
            io_read: None,
            io_written: None,
            oom_kills: None,
        };
        let expected = Usage { cpu_usec: Some(1500), ..nothing.clone() };
        assert_eq!(read(&bare.0), expected);
        let full = fake(
            "full",
            &[
                ("cpu.stat", "usage_usec 7\n"),
                ("memory.current", "4096\n"),
                ("memory.events", "low 0\noom 3\noom_kill 2\n"),
                ("pids.current", "3\n"),
                ("io.stat", "8:16 rbytes=5 wbytes=7 rios=1\n8:0 rbytes=10 wbytes=0\n254:0 \n"),
            ],
        );
        let expected = Usage {
            memory: Some(4096),
            tasks: Some(3),
            cpu_usec: Some(7),
            io_read: Some(15),
            io_written: Some(7),
            oom_kills: Some(2),
            ..nothing
        };
        assert_eq!(read(&full.0), expected);
    }

    #[test]
    fn no_limit_and_no_controller_are_none() {
        let none = Limits {
            memory_max: None,
            memory_high: None,
            tasks_max: None,
            cpu_quota_usec: None,
            cpu_period_usec: None,
        };
        assert_eq!(read_limits(&fake("no-controller", &[("cgroup.procs", "")]).0), none);
        let unlimited = [
            ("memory.max", "max\n"),
            ("memory.high", "max\n"),
            ("memory.low", "0\n"),
            ("memory.min", "0\n"),
            ("pids.max", "max\n"),
            ("cpu.max", "max 100000\n"),
        ];
        assert_eq!(read_limits(&fake("unlimited", &unlimited).0), none);
        let limited = [
            ("memory.max", "2147483648\n"),
            ("memory.high", "1073741824\n"),
            ("memory.low", "0\n"),
            ("memory.min", "0\n"),
            ("pids.max", "500\n"),
            ("cpu.max", "150000 100000\n"),
        ];
        let expected = Limits {
            memory_max: Some(2 << 30),
            memory_high: Some(1 << 30),
            tasks_max: Some(500),
            cpu_quota_usec: Some(150_000),
            cpu_period_usec: Some(100_000),
        };
        assert_eq!(read_limits(&fake("limited", &limited).0), expected);
    }

    #[test]
    fn pressure_is_of_some_over_ten_seconds() {
        let text = "some avg10=1.53 avg60=0.87 avg300=0.20 total=1\nfull avg10=9.99 avg60=0.00 avg300=0.00 total=0\n";
        let made = fake("pressure", &[("memory.pressure", text)]);
        assert_eq!(read_pressure(&made.0), Pressure { cpu: None, memory: Some(1.53), io: None });
    }

    #[test]
    fn the_tree_is_in_order() {
        let made = fake(
            "tree",
            &[("b/cgroup.procs", "12\n7\n"), ("a/x/cgroup.procs", "9\n"), ("a/y/cgroup.procs", "")],
        );
        let tree = tree(&made.0).unwrap();
        assert_eq!(tree.children.iter().map(|child| &child.name).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(tree.children[1].processes, [7, 12]);
        assert_eq!(tree.children[0].children[0].processes, [9]);
        assert!(tree.is_populated() && !tree.children[0].children[1].is_populated());
    }
}
