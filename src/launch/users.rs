//! How the outer of a machine with users of its own becomes one of them: it builds as the host's root, of files that are the machine's
//! root's, and then is that one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::error::{Error, Kind, Result};
use crate::idmap;
use crate::idrange::IdRange;
use crate::image::Tree;
use crate::mount::op::{Depth, Op, Owners};
use crate::plan::{IdMap, LaunchPlan};
use crate::spec::Ownership;
use crate::sys::{MountDepth, map_mount, unshare_namespaces};
use crate::user::User;

/// A user namespace with these IDs.
///
/// # Errors
/// [`Kind::Unsupported`] where none can be made, with what forbids it.
pub fn open(range: IdRange) -> Result<OwnedFd> {
    let what = "cannot make a user namespace";
    idmap::open(range).map_err(|error| match error.raw_os_error() {
        // man 7 user_namespaces, "/proc/sys/user/max_user_namespaces"; and 33 of them are in one another at most.
        Some(libc::ENOSPC | libc::EUSERS) => Error::new(Kind::Unsupported, what)
            .because("user.max_user_namespaces is reached, or too many are in one another")
            .hint("sysctl user.max_user_namespaces shows how many there may be"),
        _ => Error::io(what, &error),
    })
}

/// Enters `users` as its root, with a mount namespace that belongs to it: a copy, in which what is mounted cannot be taken away or made
/// writable.
///
/// # Errors
/// What setns(2), setresuid(2) and unshare(2) give.
pub(super) fn enter(users: BorrowedFd<'_>) -> io::Result<()> {
    move_into_link_name_space(users, Some(LinkNameSpaceType::User))?;
    User::become_root()?;
    // With its IDs a process loses its death signal (man 2 PR_SET_PDEATHSIG).
    set_parent_process_death_signal(Some(Signal::KILL))?;
    unshare_namespaces(UnshareFlags::NEWNS)
}

/// Maps `source`, which `op` is to mount, to the machine's IDs where that was asked for.
///
/// # Errors
/// What [`map_mount`] gives; what looking at the two ends of a bind gives.
pub(super) fn map(
    plan: &LaunchPlan,
    users: Option<BorrowedFd<'_>>,
    op: &Op,
    source: BorrowedFd<'_>,
) -> io::Result<()> {
    let (Op::Host { target, depth, owners, .. }, Some(users)) = (op, users) else { return Ok(()) };
    let root = plan.id_map.root();
    let found = rustix::fs::fstat(source)?;
    let one = match owners {
        Owners::AsTheyAre => return Ok(()),
        Owners::Mapped => None,
        Owners::Root => Some((root, root)),
        Owners::Target => Some(owner_of(plan, target)?),
    };
    let one =
        one.map(|(user, group)| idmap::open_one((found.st_uid, user), (found.st_gid, group))).transpose()?;
    let depth = if *depth == Depth::Recursive { MountDepth::Tree } else { MountDepth::One };
    map_mount(source, depth, one.as_ref().map_or(users, AsFd::as_fd))
}

/// Who owns what is at `target` in the machine, IDs of the host's; its root what is not there yet.
fn owner_of(plan: &LaunchPlan, target: &Path) -> io::Result<(u32, u32)> {
    let root = plan.id_map.root();
    let found = match Tree::open(&plan.root.tree)?.open_inside(target, OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((root, root)),
        found => rustix::fs::fstat(found?)?,
    };
    let IdMap::Private { range, tree: Ownership::Mapped } = plan.id_map else {
        return Ok((found.st_uid, found.st_gid));
    };
    let outside = |id| range.to_host(id).ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW));
    Ok((outside(found.st_uid)?, outside(found.st_gid)?))
}
