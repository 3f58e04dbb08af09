//! Who a machine is that goes on from where another was: one of several copies, which must not take themselves for one another.
//!
//! Given when all of its processes are there and none has run. What they have read before and keep in memory stays what it was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::unistd::{gethostname, sethostname};
use rustix::thread::{ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces};

use crate::error::{Context, Result};
use crate::ids::MachineId;
use crate::mount::live;
use crate::net;
use crate::plan::{LaunchPlan, NetworkPlan};

/// Makes the machine whose first process `leader` holds the one of `plan`: host name, machine ID, boot ID, the address of its
/// link; a random seed is nobody's any more.
///
/// # Errors
/// What setns(2), sethostname(2), rtnetlink(7) and writing in its tree give.
pub(super) fn give(plan: &LaunchPlan, leader: BorrowedFd<'_>) -> Result<()> {
    let before =
        within(leader, ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME, "/proc/self/ns/uts", || {
            let before = gethostname()?;
            sethostname(&plan.hostname)?;
            Ok(before)
        });
    let before = before.context(|| "cannot set the host name")?;
    if let NetworkPlan::Veth(veth) = &plan.network {
        let set = || net::set_address(&veth.peer);
        within(leader, ThreadNameSpaceType::NETWORK, "/proc/self/ns/net", set)
            .context(|| format!("cannot set the address of '{}'", veth.peer.name))?;
    }
    let boot = MachineId::random().context(|| "cannot make a boot ID")?;
    live::within(leader, Path::new("/run/host"), || {
        // /proc/sys/kernel/random/boot_id is this file.
        rewrite("boot-id", &format!("{}\n", boot.as_uuid()))?;
        rewrite("container-uuid", &format!("{}\n", plan.id.as_uuid()))
    })
    .context(|| "cannot write in its /run/host")?;
    let id = format!("{}\n", plan.id);
    live::within(leader, Path::new("/etc"), || {
        let named = fs::read_to_string("hostname").unwrap_or_default();
        if before.to_str().is_some_and(|before| named.trim() == before) {
            rewrite("hostname", &format!("{}\n", plan.hostname))?;
        }
        rewrite("machine-id", &id)
    })
    .context(|| "cannot write in its /etc")?;
    // What systemd mounts over /etc/machine-id where that cannot be written to.
    live::within(leader, Path::new("/run"), || rewrite("machine-id", &id))
        .context(|| "cannot write in its /run")?;
    let seed = live::within(leader, Path::new("/var/lib/systemd"), || fs::remove_file("random-seed"));
    absent_is_fine(seed).context(|| "cannot remove its random seed")
}

/// Does `work` in a namespace of the process that `leader` holds, and comes back to the one that `home` leads to.
fn within<T>(
    leader: BorrowedFd<'_>,
    kind: ThreadNameSpaceType,
    home: &str,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let home = File::open(home)?;
    move_into_thread_name_spaces(leader, kind)?;
    let result = work();
    move_into_link_name_space(home.as_fd(), None)?;
    result
}

/// Changes what a file holds, where there is one. It stays the same file: it may be mounted elsewhere. Through a link nothing is
/// written: it may lead out of the directory.
fn rewrite(name: &str, text: &str) -> io::Result<()> {
    match fs::symlink_metadata(name) {
        Ok(found) if found.is_file() => {
            OpenOptions::new().write(true).truncate(true).open(name)?.write_all(text.as_bytes())
        }
        Ok(_) => Ok(()),
        Err(error) => absent_is_fine(Err(error)),
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
