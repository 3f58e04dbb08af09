//! What runs in a machine and cannot be saved, found before anything is stopped.
//!
//! CRIU finds most of this by itself, after it has stopped everything, and says it in its log by numbers. Some of it it does
//! not find at all and loses. Here each is named with the process that has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use libmount::mountinfo::Parser;
use rustix::net::AddressFamily;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::namespace::Kind;

/// Namespaces that CRIU saves once for a whole tree of processes. Nested mount and network namespaces it can save.
const ONCE: [Kind; 6] = [Kind::Pid, Kind::User, Kind::Ipc, Kind::Uts, Kind::Cgroup, Kind::Time];

/// Files of the kernel's without a place in the file system (proc_pid_fd(5)) that CRIU cannot save: how their link begins,
/// and what they are.
const ANONYMOUS: [(&str, &str); 8] = [
    ("anon_inode:[io_uring]", "an io_uring"),
    ("anon_inode:[userfaultfd]", "a userfaultfd"),
    ("anon_inode:[perf_event]", "a perf event"),
    ("anon_inode:[fanotify]", "a fanotify group"),
    ("anon_inode:[fscontext]", "a file system that is being mounted"),
    ("anon_inode:bpf", "a BPF object"),
    ("anon_inode:kvm", "a KVM object"),
    ("/secretmem", "secret memory (memfd_secret)"),
];

/// Mappings that CRIU cannot save.
const MAPPED: [(&str, &str); 3] = [
    ("/anon_hugepage", "huge pages (hugetlbfs)"),
    ("/secretmem", "secret memory (memfd_secret)"),
    ("[io_uring]", "an io_uring"),
];

/// File systems that CRIU can save beside the root's (criu/filesystems.c).
const MOUNTS: [&str; 18] = [
    "aufs",
    "autofs",
    "binfmt_misc",
    "btrfs",
    "cgroup",
    "cgroup2",
    "debugfs",
    "devpts",
    "devtmpfs",
    "fusectl",
    "mqueue",
    "overlay",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// Families of sockets that CRIU can save.
const SOCKETS: [AddressFamily; 5] = [
    AddressFamily::UNIX,
    AddressFamily::INET,
    AddressFamily::INET6,
    AddressFamily::PACKET,
    AddressFamily::NETLINK,
];

/// `PIDFD_THREAD`, which is `O_EXCL`, as /proc/PID/fdinfo shows it, in octal (man 2 pidfd_open).
const PIDFD_THREAD: u32 = 0o200;

/// A process that cannot be saved, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Culprit {
    /// Its name (`comm`).
    pub name: String,
    /// Its pid inside the machine.
    pub pid: u32,
    /// What is in the way.
    pub flaw: Flaw,
}

/// What is in the way of saving a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// It is in a namespace of its own, by the name in /proc/PID/ns.
    Namespace(&'static str),
    /// It has this open.
    Open(String),
    /// It has this mapped.
    Mapped(&'static str),
    /// A terminal has stopped it, by this signal.
    Stopped(&'static str),
    /// It sees a file system of this type at this path.
    Mount(String, String),
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, pid, flaw } = self;
        write!(f, "'{name}' (PID {pid} inside) ")?;
        match flaw {
            Flaw::Namespace(kind) => {
                write!(f, "is in a {kind} namespace of its own, as in a nested container")
            }
            Flaw::Open(what) => write!(f, "has {what} open"),
            Flaw::Mapped(what) => write!(f, "has {what} in its memory"),
            Flaw::Mount(kind, path) => write!(f, "has a file system of the type {kind} at {path}"),
            Flaw::Stopped(signal) => write!(f, "was stopped by its terminal ({signal})"),
        }
    }
}

/// What was found in a machine.
#[derive(Debug, Default)]
pub struct Survey {
    /// What cannot be saved.
    pub culprits: Vec<Culprit>,
    /// Who came in from outside, as `osier shell` does: no children of the machine's, they are left out. Name, and pid inside.
    pub visitors: Vec<(String, u32)>,
}

/// Looks at every process in the cgroup `payload` of the machine whose leader is `leader`.
///
/// A process that ends meanwhile is none any more.
///
/// # Errors
/// What reading the cgroup and the leader's namespaces gives.
pub fn look(payload: &Path, leader: u32) -> io::Result<Survey> {
    let pids = pids(payload)?;
    let own = namespaces(leader)?;
    let parents: BTreeMap<u32, u32> =
        pids.iter().filter_map(|pid| Some((*pid, Status::read(*pid)?.parent))).collect();
    let mut survey = Survey::default();
    let mut seen = BTreeSet::new();
    for pid in pids {
        let Some(status) = Status::read(pid) else { continue };
        if !descends(pid, leader, &parents) {
            survey.visitors.push((status.name, status.inside));
            continue;
        }
        let namespace = fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|namespace| namespace.ino()).ok();
        let mounts =
            if namespace.is_some_and(|namespace| seen.insert(namespace)) { mounts(pid) } else { Vec::new() };
        for flaw in flaws(pid, &own).into_iter().chain(mounts) {
            survey.culprits.push(Culprit { name: status.name.clone(), pid: status.inside, flaw });
        }
    }
    survey.culprits.sort();
    survey.culprits.dedup();
    Ok(survey)
}

/// The processes in the cgroup `payload` and below.
///
/// # Errors
/// What reading the cgroup gives.
pub fn pids(payload: &Path) -> io::Result<BTreeSet<u32>> {
    let mut pids = BTreeSet::new();
    collect(payload, &mut pids)?;
    Ok(pids)
}

/// The number that a process has inside: in the innermost pid namespace that it is in. `None` when it is gone.
pub fn inside(pid: u32) -> Option<u32> {
    Status::read(pid).map(|status| status.inside)
}

fn collect(cgroup: &Path, pids: &mut BTreeSet<u32>) -> io::Result<()> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            match collect(&entry.path(), pids) {
                // Removed just now: nobody is in it.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

/// Whether the chain of parents leads to the machine's first process.
fn descends(pid: u32, leader: u32, parents: &BTreeMap<u32, u32>) -> bool {
    let mut at = pid;
    // No chain is longer than there are processes; a pid that is used again could make it a circle.
    for _ in 0..=parents.len() {
        if at == leader {
            return true;
        }
        match parents.get(&at) {
            Some(parent) => at = *parent,
            None => return false,
        }
    }
    false
}

/// Of /proc/PID/status.
struct Status {
    name: String,
    parent: u32,
    inside: u32,
}

impl Status {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |key| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        Some(Self {
            name: field("Name:")?.to_owned(),
            parent: field("PPid:")?.parse().ok()?,
            // The last one is what it is in the innermost namespace.
            inside: field("NSpid:")?.split_whitespace().last()?.parse().ok()?,
        })
    }
}

fn namespaces(pid: u32) -> io::Result<Vec<(Kind, u64)>> {
    ONCE.into_iter()
        .map(|kind| Ok((kind, fs::metadata(format!("/proc/{pid}/ns/{}", kind.proc_name()))?.ino())))
        .collect()
}

fn flaws(pid: u32, own: &[(Kind, u64)]) -> Vec<Flaw> {
    let mut found = Vec::new();
    if let Ok(others) = namespaces(pid) {
        let nested = others.iter().zip(own).filter(|(other, own)| other.1 != own.1);
        found.extend(nested.map(|(other, _)| Flaw::Namespace(other.0.proc_name())));
    }
    found.extend(stopped(pid));
    found.extend(mapped(pid));
    found.extend(open(pid));
    found
}

/// The file systems that it sees and that CRIU does not know. One on the device of its root is a part of that.
fn mounts(pid: u32) -> Vec<Flaw> {
    let Ok(text) = fs::read(format!("/proc/{pid}/mountinfo")) else { return Vec::new() };
    let mounts: Vec<_> = Parser::new(&text).filter_map(std::result::Result::ok).collect();
    let root = mounts.iter().find(|mount| *mount.mount_point == *"/").map(|root| (root.major, root.minor));
    let unknown = mounts.iter().filter(|mount| {
        let fstype = mount.fstype.to_string_lossy();
        Some((mount.major, mount.minor)) != root && !MOUNTS.contains(&fstype.as_ref())
    });
    let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    unknown.map(|mount| Flaw::Mount(text(&mount.fstype), text(&mount.mount_point))).collect()
}

/// The signal is in the field that is a zombie's exit code otherwise (proc_pid_stat(5), exit_code).
fn stopped(pid: u32) -> Option<Flaw> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    if fields.next() != Some("T") {
        return None;
    }
    let signal: i32 = fields.last()?.parse().ok()?;
    match signal & 0x7f {
        libc::SIGTTIN => Some(Flaw::Stopped("SIGTTIN")),
        libc::SIGTTOU => Some(Flaw::Stopped("SIGTTOU")),
        _ => None,
    }
}

fn mapped(pid: u32) -> Option<Flaw> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let shows = |what: &str| text.lines().any(|line| line.contains(what));
    MAPPED.into_iter().find(|(link, _)| shows(link)).map(|(_, what)| Flaw::Mapped(what))
}

fn open(pid: u32) -> Vec<Flaw> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let pidfd = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pidfd = pidfd.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let link = link.to_string_lossy();
        let number = entry.file_name().to_string_lossy().into_owned();
        if let Some((_, what)) = ANONYMOUS.into_iter().find(|(begin, _)| link.starts_with(begin)) {
            found.push(Flaw::Open(what.to_owned()));
        } else if link.starts_with("anon_inode:[pidfd]") || link.starts_with("pidfd:") {
            found.extend(thread_pidfd(pid, &number));
        } else if link.starts_with("socket:") {
            found.extend(pidfd.as_ref().and_then(|pidfd| socket(pidfd.as_fd(), &number)));
        } else if link.starts_with('/') {
            found.extend(device(&entry.path(), &link));
        }
    }
    found
}

fn thread_pidfd(pid: u32, number: &str) -> Option<Flaw> {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
    (flags & PIDFD_THREAD != 0).then(|| Flaw::Open("a pidfd of a thread".to_owned()))
}

fn socket(process: BorrowedFd<'_>, number: &str) -> Option<Flaw> {
    let copy = pidfd_getfd(process, number.parse().ok()?, PidfdGetfdFlags::empty()).ok()?;
    let family = rustix::net::sockopt::socket_domain(&copy).ok()?;
    if SOCKETS.contains(&family) {
        return None;
    }
    Some(Flaw::Open(match i32::from(family.as_raw()) {
        libc::AF_VSOCK => "a socket to a hypervisor (AF_VSOCK)".to_owned(),
        libc::AF_ALG => "a socket to the kernel's cryptography (AF_ALG)".to_owned(),
        other => format!("a socket of address family {other}"),
    }))
}

/// Of devices CRIU saves memory's (null, zero, random …), terminals but by the name /dev/tty, and /dev/net/tun.
fn device(path: &Path, link: &str) -> Option<Flaw> {
    let found = fs::metadata(path).ok()?;
    if !found.file_type().is_char_device() && !found.file_type().is_block_device() {
        return None;
    }
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    let known = found.file_type().is_char_device()
        && matches!((major, minor), (1 | 4 | 136..=143, _) | (5, 1..) | (10, 200));
    (!known).then(|| Flaw::Open(format!("the device {link}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_in_from_outside_descends_from_nobody_inside() {
        let parents = BTreeMap::from([(10, 1), (11, 10), (12, 11), (20, 7), (21, 20), (30, 31), (31, 30)]);
        let inside: Vec<_> = parents.keys().filter(|pid| descends(**pid, 10, &parents)).collect();
        assert_eq!(inside, [&10, &11, &12]);
    }

    #[test]
    fn what_this_process_has_open_is_named() {
        let own = namespaces(std::process::id()).unwrap();
        assert_eq!(flaws(std::process::id(), &own), []);
        let memory = nix::sys::memfd::memfd_create(c"plain", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
        assert_eq!(flaws(std::process::id(), &own), []);
        drop(memory);
        let vsock = rustix::net::socket(
            AddressFamily::from_raw(u16::try_from(libc::AF_VSOCK).unwrap()),
            rustix::net::SocketType::STREAM,
            None,
        );
        if let Ok(vsock) = vsock {
            let found = flaws(std::process::id(), &own);
            assert!(matches!(&found[..], [Flaw::Open(what)] if what.contains("AF_VSOCK")), "{found:?}");
            drop(vsock);
        }
    }

    #[test]
    fn a_culprit_is_a_sentence() {
        let culprit = Culprit { name: "podman".to_owned(), pid: 77, flaw: Flaw::Namespace("pid") };
        assert_eq!(
            culprit.to_string(),
            "'podman' (PID 77 inside) is in a pid namespace of its own, as in a nested container"
        );
    }
}
