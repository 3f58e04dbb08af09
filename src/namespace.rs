//! Linux namespaces (man 7 namespaces): which ones a machine gets, and which ones a process is in.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

/// One kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Process IDs (man 7 pid_namespaces).
    Pid,
    /// Mounts (man 7 mount_namespaces).
    Mount,
    /// Host name (man 7 uts_namespaces).
    Uts,
    /// System V IPC, POSIX message queues (man 7 ipc_namespaces).
    Ipc,
    /// Network (man 7 network_namespaces).
    Net,
    /// The root of the cgroup hierarchy (man 7 cgroup_namespaces).
    Cgroup,
    /// Monotonic and boottime clocks (man 7 time_namespaces).
    Time,
    /// User and group IDs, capabilities (man 7 user_namespaces).
    User,
}

impl Kind {
    /// All eight, in the order in which osier prints them.
    pub const ALL: [Self; 8] =
        [Self::Pid, Self::Mount, Self::Uts, Self::Ipc, Self::Net, Self::Cgroup, Self::Time, Self::User];

    /// Its name in `/proc/PID/ns`.
    pub fn proc_name(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Mount => "mnt",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::Net => "net",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
            Self::User => "user",
        }
    }

    /// Its flag for clone3(2) and unshare(2).
    pub fn flag(self) -> UnshareFlags {
        match self {
            Self::Pid => UnshareFlags::NEWPID,
            Self::Mount => UnshareFlags::NEWNS,
            Self::Uts => UnshareFlags::NEWUTS,
            Self::Ipc => UnshareFlags::NEWIPC,
            Self::Net => UnshareFlags::NEWNET,
            Self::Cgroup => UnshareFlags::NEWCGROUP,
            Self::Time => UnshareFlags::NEWTIME,
            Self::User => UnshareFlags::NEWUSER,
        }
    }

    /// Its flag for setns(2) on a pidfd.
    pub fn thread_type(self) -> ThreadNameSpaceType {
        ThreadNameSpaceType::from_bits_retain(self.flag().bits())
    }
}

/// The kinds of namespace that a machine gets of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces(Vec<Kind>);

impl Namespaces {
    /// Every kind for which `wanted` says yes.
    pub fn of(wanted: impl Fn(Kind) -> bool) -> Self {
        Self(Kind::ALL.into_iter().filter(|kind| wanted(*kind)).collect())
    }

    /// Whether `kind` is among them.
    pub fn has(&self, kind: Kind) -> bool {
        self.0.contains(&kind)
    }

    /// The clone3(2) flags for the leader: all but mount, time and user, which the outer enters before, and cgroup, which the
    /// leader enters once it is where its root is to be.
    pub fn leader_flags(&self) -> u64 {
        self.0
            .iter()
            .filter(|kind| !matches!(kind, Kind::Mount | Kind::Time | Kind::User | Kind::Cgroup))
            .fold(UnshareFlags::empty(), |flags, kind| flags | kind.flag())
            .bits()
            .into()
    }
}

impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|kind| kind.proc_name()).collect();
        f.write_str(&names.join(" "))
    }
}

/// The inode number of each namespace of the process `pid`, by its name in `/proc/PID/ns`; two processes share a
/// namespace when the numbers are equal.
///
/// # Errors
/// `ENOENT` when there is no such process.
pub fn read_ids(pid: u32) -> io::Result<BTreeMap<String, u64>> {
    let mut ids = BTreeMap::new();
    for kind in Kind::ALL {
        match fs::metadata(format!("/proc/{pid}/ns/{}", kind.proc_name())) {
            Ok(namespace) => ids.insert(kind.proc_name().to_owned(), namespace.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !ids.is_empty() => None,
            Err(error) => return Err(error),
        };
    }
    Ok(ids)
}

/// Whether this kernel knows `kind`.
pub fn is_supported(kind: Kind) -> bool {
    fs::symlink_metadata(format!("/proc/self/ns/{}", kind.proc_name())).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_not_cloned_into_what_is_entered_elsewhere() {
        let flags = Namespaces::of(|_| true).leader_flags();
        let expected =
            UnshareFlags::NEWPID | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC | UnshareFlags::NEWNET;
        assert_eq!(flags, u64::from(expected.bits()));
    }

    #[test]
    fn a_process_is_in_one_namespace_of_each_kind() {
        let ids = read_ids(std::process::id()).unwrap();
        assert_eq!(ids.len(), Kind::ALL.iter().filter(|kind| is_supported(**kind)).count());
        assert!(read_ids(u32::MAX).is_err());
    }
}
