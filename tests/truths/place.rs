//! Where in a machine a case runs: namespaces that a program inside makes for itself.

use std::fmt;
use std::fs::{self, File};
use std::os::fd::AsFd;

use nix::sys::wait::{WaitStatus, waitpid};
use osier::clock::Offsets;
use osier::sys::{Forked, fork, unshare_namespaces};
use rustix::thread::UnshareFlags;

use crate::here::DAY;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// As root of the machine, in its time namespace.
    Machine,
    /// In a user namespace that root of the machine has made, in the machine's time namespace.
    User,
    /// In a time namespace within that user namespace.
    Nested,
}

impl Place {
    pub(crate) const ALL: [Self; 3] = [Self::Machine, Self::User, Self::Nested];

    pub(crate) fn find(name: &str) -> Self {
        Self::ALL.into_iter().find(|place| place.to_string() == name).expect("a place")
    }

    /// Goes there. Of a nested time namespace the children are the members: this process becomes one, and its parent
    /// waits for it.
    pub(crate) fn enter(self) {
        if self == Self::Machine {
            return;
        }
        unshare_user();
        if self == Self::Nested {
            unshare_time(nested(Offsets::read(std::process::id()).unwrap()));
            in_child_alone();
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "machine",
            Self::User => "user",
            Self::Nested => "nested",
        })
    }
}

/// Makes a user namespace in which this process is root.
pub(crate) fn unshare_user() {
    unshare_namespaces(UnshareFlags::NEWUSER).expect("unshare(CLONE_NEWUSER)");
    for (file, text) in [("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")] {
        fs::write(format!("/proc/self/{file}"), text).expect(file);
    }
}

/// The offsets of a nested namespace; those of the initial one count, not the machine's.
pub(crate) fn nested(of_machine: Offsets) -> Offsets {
    let more = |offset: i64, days: i128| offset + i64::try_from(days * DAY).unwrap();
    Offsets { monotonic: more(of_machine.monotonic, 7), boottime: more(of_machine.boottime, 9) }
}

/// The file that takes the offsets of the time namespace of this process's children.
pub(crate) fn offsets_file() -> File {
    File::options().write(true).open("/proc/self/timens_offsets").unwrap()
}

/// Makes a time namespace for the children of this process.
pub(crate) fn unshare_time(offsets: Offsets) {
    unshare_namespaces(UnshareFlags::NEWTIME).expect("unshare(CLONE_NEWTIME)");
    offsets.write(offsets_file().as_fd()).expect("the offsets");
}

/// Runs something in a child, whose panic is this process's.
#[track_caller]
pub(crate) fn in_child(body: impl FnOnce()) {
    match fork().unwrap() {
        Forked::Parent(child) => assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0))),
        Forked::Child => {
            let body = std::panic::AssertUnwindSafe(body);
            osier::sys::exit_now(u8::from(std::panic::catch_unwind(body).is_err()));
        }
    }
}

/// Goes on as a child of this process, which ends as its child does.
fn in_child_alone() {
    if let Forked::Parent(child) = fork().unwrap() {
        let ended = waitpid(child, None) == Ok(WaitStatus::Exited(child, 0));
        osier::sys::exit_now(u8::from(!ended));
    }
}
