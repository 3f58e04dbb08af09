//! How a machine's user and group IDs map to the host's: the user namespace that has the map (man 7 user_namespaces).
//!
//! The namespace is made before the machine and stands for the map: mounts are mapped by it (man 2 mount_setattr,
//! `MOUNT_ATTR_IDMAP`), and the machine's first processes enter it. Whose ranges are whose is [`pick`]'s matter.

pub mod pick;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::UnshareFlags;

use crate::idrange::IdRange;
use crate::sys::{Cloned, clone_child, exit_now};

/// A user namespace in which IDs are those of `range`. Nobody is in it.
///
/// # Errors
/// `ENOSPC` where user.max_user_namespaces forbids it, `EINVAL` on a kernel without user namespaces, `EPERM` without CAP_SETUID
/// and CAP_SETGID.
pub fn open(range: IdRange) -> io::Result<OwnedFd> {
    let line = Line { inside: 0, outside: range.first(), count: range.count() };
    open_lines(line, line)
}

/// A user namespace in which one user and one group have another ID than outside.
///
/// # Errors
/// As [`open`].
pub fn open_one(user: (u32, u32), group: (u32, u32)) -> io::Result<OwnedFd> {
    let line = |(inside, outside)| Line { inside, outside, count: 1 };
    open_lines(line(user), line(group))
}

/// A line of /proc/PID/uid_map.
#[derive(Clone, Copy)]
struct Line {
    inside: u32,
    outside: u32,
    count: u32,
}

impl Line {
    fn write(self, pid: Pid, map: &str) -> io::Result<()> {
        let Self { inside, outside, count } = self;
        fs::write(format!("/proc/{pid}/{map}"), format!("{inside} {outside} {count}"))
    }
}

fn open_lines(user: Line, group: Line) -> io::Result<OwnedFd> {
    // The process that makes it ends with whoever wants it.
    let (waits, holds) = pipe_with(PipeFlags::CLOEXEC)?;
    match clone_child(UnshareFlags::NEWUSER.bits().into(), None)? {
        Cloned::New => {
            drop(holds);
            let _ = retry_on_intr(|| rustix::io::read(&waits, &mut [0; 1]));
            exit_now(0)
        }
        Cloned::Caller { pid, .. } => {
            let written = user.write(pid, "uid_map").and_then(|()| group.write(pid, "gid_map"));
            let opened = written.and_then(|()| File::open(format!("/proc/{pid}/ns/user")));
            drop(holds);
            while waitpid(pid, None) == Err(nix::Error::EINTR) {}
            Ok(opened?.into())
        }
    }
}

/// The range of the process `pid`; `None` of one that has the caller's IDs, or a map of several parts.
///
/// # Errors
/// `ENOENT` when there is no such process.
pub fn read(pid: u32) -> io::Result<Option<IdRange>> {
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
    let fields: Vec<u32> = map.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    Ok(match fields[..] {
        [0, 0, u32::MAX] => None,
        [0, first, count] => IdRange::new(first, count).ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_namespace_has_the_map_and_nobody_in_it() {
        let wanted = IdRange::new(700_000, 5000).unwrap();
        let namespace = crate::sys::testing::in_child(|| {
            let namespace = open(wanted).unwrap();
            rustix::thread::move_into_link_name_space(
                namespace.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::User),
            )
            .unwrap();
            let map = |name: &str| {
                let text = fs::read_to_string(format!("/proc/self/{name}")).unwrap();
                text.split_whitespace().collect::<Vec<_>>().join(" ")
            };
            assert_eq!(map("uid_map"), map("gid_map"));
            assert_eq!(waitpid(None::<Pid>, None), Err(nix::Error::ECHILD));
            map("uid_map")
        });
        // As seen from inside of it.
        assert_eq!(namespace, "0 700000 5000");
    }
}
