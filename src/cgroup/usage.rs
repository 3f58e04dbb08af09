//! What a machine's subtree uses, and which processes are where in it: for `osier status`.
//!
//! The controllers are cgroups-rs's, each constructed for the machine's own directory: the crate's own `Hierarchy`
//! expects cgroup2 at /sys/fs/cgroup, which a hybrid host has elsewhere. Each figure is asked for only when its file is
//! there, because the crate reads a controller that is off as zero.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use cgroups_rs::fs::Controller;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use serde::Serialize;

/// What a subtree uses; `None` where its controller is not enabled on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Memory now, bytes.
    pub memory: Option<u64>,
    /// The most memory that there was, bytes; since Linux 5.19.
    pub memory_peak: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// CPU time of all its processes, microseconds.
    pub cpu_usec: Option<u64>,
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
    let root = || cgroup.to_owned();
    let memory = has("memory.current").then(|| MemController::new(root(), root(), true).memory_stat());
    let tasks = has("pids.current").then(|| PidController::new(root(), root(), true).get_pid_current());
    Usage {
        memory: memory.as_ref().map(|memory| memory.usage_in_bytes),
        memory_peak: memory.filter(|_| has("memory.peak")).map(|memory| memory.max_usage_in_bytes),
        tasks: tasks.and_then(Result::ok),
        cpu_usec: keyed(&CpuController::new(root(), root(), true).cpu().stat, "usage_usec"),
    }
}

/// A value of a flat keyed file (Documentation/admin-guide/cgroup-v2.rst, Format).
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == key)?.1.parse().ok()
}

/// A directory of the subtree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
        let expected = Usage { memory: None, memory_peak: None, tasks: None, cpu_usec: Some(1500) };
        assert_eq!(read(&bare.0), expected);
        let full = fake(
            "full",
            &[("cpu.stat", "usage_usec 7\n"), ("memory.current", "4096\n"), ("pids.current", "3\n")],
        );
        let expected = Usage { memory: Some(4096), memory_peak: None, tasks: Some(3), cpu_usec: Some(7) };
        assert_eq!(read(&full.0), expected);
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
