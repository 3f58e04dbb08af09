//! The way into a machine that runs: its first process held by pidfd, its root held open, and what a process that enters
//! has to be given and denied.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::thread::ThreadNameSpaceType;

use crate::caps;
use crate::cgroup::PAYLOAD;
use crate::image::Tree;
use crate::namespace;
use crate::seccomp::Filter;
use crate::sys::pidfd_send_realtime;

/// See the [module's](self) page.
#[derive(Debug)]
pub struct Entry {
    pidfd: OwnedFd,
    root: Tree,
    namespaces: ThreadNameSpaceType,
    payload: Option<PathBuf>,
    confinement: Confinement,
}

/// What a machine's first process cannot do, and so nothing that enters may.
#[derive(Debug, Clone, Copy)]
pub(super) struct Confinement {
    pub(super) capabilities: caps::Set,
    pub(super) system_calls: Filter,
    pub(super) privileges: Privileges,
}

/// Whether execve(2) can give more than there is (`PR_SET_NO_NEW_PRIVS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Privileges {
    Gained,
    NeverGained,
}

impl Entry {
    /// Reads what it takes to enter the machine whose first process is `leader`, held by `pidfd`, and whose cgroup is
    /// `cgroup`.
    ///
    /// # Errors
    /// `ESRCH` or `ENOENT` when the process has ended; `EACCES` or `EPERM` when the caller may not look.
    pub fn read(leader: u32, pidfd: OwnedFd, cgroup: Option<&Path>) -> io::Result<Self> {
        let root = Tree::open(Path::new(&format!("/proc/{leader}/root")))?;
        let (ids, own) = (namespace::read_ids(leader)?, namespace::read_ids(std::process::id())?);
        let kinds = namespace::Kind::ALL.into_iter().filter(|kind| {
            let name = kind.proc_name();
            ids.get(name) != own.get(name)
        });
        let namespaces = kinds.fold(ThreadNameSpaceType::empty(), |all, kind| all | kind.thread_type());
        let confinement = Confinement::parse(&fs::read_to_string(format!("/proc/{leader}/status"))?);
        // The number was this process's while all that was read, if it lives still.
        pidfd_send_realtime(pidfd.as_fd(), 0)?;
        let payload = cgroup.map(|cgroup| cgroup.join(PAYLOAD));
        Ok(Self { pidfd, root, namespaces, payload, confinement })
    }

    /// With the filter that its first process was given: the kernel tells of one, not which.
    #[must_use]
    pub fn filtered(mut self, filter: Filter) -> Self {
        self.confinement.system_calls = filter;
        self
    }

    /// Its first process.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Its root: what is opened through it stays inside.
    pub fn root(&self) -> &Tree {
        &self.root
    }

    /// Its payload's cgroup directory, where it has a cgroup.
    pub fn payload(&self) -> Option<&Path> {
        self.payload.as_deref()
    }

    /// The namespaces that it does not share with this process.
    pub fn namespaces(&self) -> ThreadNameSpaceType {
        self.namespaces
    }

    pub(super) fn confinement(&self) -> Confinement {
        self.confinement
    }
}

impl Confinement {
    /// From proc_pid_status(5).
    fn parse(status: &str) -> Self {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let bounding = field("CapBnd:").and_then(|bits| u64::from_str_radix(bits, 16).ok());
        Self {
            capabilities: caps::Set::from_bits(bounding.unwrap_or_default()),
            system_calls: Filter::None,
            privileges: match field("NoNewPrivs:") {
                Some("1") => Privileges::NeverGained,
                _ => Privileges::Gained,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn what_the_first_process_may_not_do_is_read_from_the_kernel() {
        let status = "Name:\tinit\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\n";
        let confinement = Confinement::parse(status);
        assert_eq!(confinement.capabilities.bits(), 0xa804_25fb);
        assert_eq!(confinement.privileges, Privileges::NeverGained);
        assert_eq!(Confinement::parse("").capabilities.bits(), 0, "what cannot be read is not given");
    }

    #[test]
    fn what_is_shared_is_not_entered() {
        let own = rustix::process::getpid();
        let pidfd = || pidfd_open(own, PidfdFlags::empty()).unwrap();
        let entry = Entry::read(std::process::id(), pidfd(), None).unwrap();
        assert!(entry.namespaces().is_empty());
        assert!(entry.payload().is_none());
    }
}
