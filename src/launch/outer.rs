//! The outer: the short-lived child that builds the root, sets the clocks and clones the leader.
//!
//! In this order for the kernel's reasons: what comes from the host is opened while the host's root is still there; once
//! the machine's root is `/`, no path can lead out of it; the offsets of a time namespace can be written only before a
//! process enters it, and the first fork enters it (man 7 time_namespaces).

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

use super::handshake::Inside;
use super::{leader, users};
use crate::caps;
use crate::error::failure::{Failure, step};
use crate::mount::op::{Access, Depth, Op, Owners};
use crate::mount::root::{self, Owner};
use crate::mount::visible::Visible;
use crate::namespace::Kind;
use crate::notify;
use crate::plan::{IdMap, LaunchPlan, NOTIFY_SOCKET};
use crate::spec::Ownership;
use crate::sys::{Cloned, clone_sibling, exit_now, unshare_namespaces};

/// What the outer needs of the supervisor beside the plan.
#[derive(Debug)]
pub(super) struct Given<'a> {
    /// The throw-away layer, for a machine that has one.
    pub(super) scratch: Option<BorrowedFd<'a>>,
    /// The user namespace of a machine with users of its own.
    pub(super) users: Option<BorrowedFd<'a>>,
    /// The payload's cgroup, where it is there already; of a machine with users of its own the outer is born in it.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
    /// The slave of the host's pty that is to be the console, by its name on the host; for a machine that makes none itself.
    pub(super) console: Option<&'a Path>,
    /// The payload's standard streams in pipe mode.
    pub(super) streams: Option<&'a crate::console::Streams>,
}

/// The outer's life.
pub(super) fn live(plan: &LaunchPlan, given: &Given<'_>, wire: Inside) -> ! {
    match prepare(plan, given) {
        Err(failure) => {
            wire.fail(failure);
            exit_now(1)
        }
        Ok(notify) => match clone_sibling(plan.namespaces.leader_flags(), leader_cgroup(given)) {
            Err(error) => {
                wire.fail(Failure::set_up(format!("make the namespaces {}", plan.namespaces), &error));
                exit_now(1)
            }
            Ok(Cloned::New) => leader::live(plan, given, notify, wire.born()),
            Ok(Cloned::Caller { pid, pidfd }) => {
                // Without a supervisor the leader dies of its death signal.
                let _ = wire.cloned(pid.as_raw().unsigned_abs(), pidfd.as_fd());
                exit_now(0)
            }
        },
    }
}

/// Everything up to the leader; gives the notification socket.
fn prepare(plan: &LaunchPlan, given: &Given<'_>) -> Result<OwnedFd, Failure> {
    step("arrange to end with the supervisor", set_parent_process_death_signal(Some(Signal::KILL)))?;
    umask(Mode::empty());
    if plan.namespaces.has(Kind::Time) {
        step("make a time namespace", unshare_namespaces(UnshareFlags::NEWTIME))?;
        set_clocks(plan)?;
    }
    step("make a mount namespace", unshare_namespaces(UnshareFlags::NEWNS))?;
    step("isolate mounts from the host's", root::isolate())?;
    let tree = plan.root.tree.display();
    let mut sources = Vec::with_capacity(plan.outer.len());
    for op in &plan.outer {
        let source = step(op, op.open_source())?;
        if let Some(source) = &source {
            step(op, users::map(plan, given.users, op, source.as_fd()))?;
        }
        sources.push(source);
    }
    let console = given.console.map(|slave| console_op(slave.to_owned()));
    let console = console.map(|op| step(&op, op.open_source()).map(|source| (op, source))).transpose()?;
    let visible = given.users.map(|_| step("mount proc and sysfs", Visible::open())).transpose()?;
    let new_root = root::attach(&plan.root.tree, given.scratch, owner(plan, given));
    let new_root = step(format!("mount '{tree}'"), new_root)?;
    step(format!("make '{tree}' the root"), root::enter(&new_root))?;
    drop(new_root);
    if given.users.is_some() {
        step("make files as the machine's root", caps::make_files_as(plan.id_map.root()))?;
    }
    execute(&plan.outer, sources)?;
    if let Some((op, source)) = console {
        step(&op, op.execute(source))?;
    }
    let notify = step(format!("listen on {NOTIFY_SOCKET}"), notify::bind(NOTIFY_SOCKET.as_ref()))?;
    plan.inside.iter().try_for_each(|op| step(op, op.execute(None)))?;
    if let (Some(users), Some(visible)) = (given.users, visible) {
        step("enter the user namespace", users::enter(users))?;
        step("show proc and sysfs", visible.attach())?;
    }
    Ok(notify)
}

fn owner<'a>(plan: &LaunchPlan, given: &Given<'a>) -> Owner<'a> {
    let mapped = match plan.id_map {
        IdMap::Private { tree: Ownership::Mapped, .. } => given.users,
        IdMap::Private { .. } | IdMap::Host => None,
    };
    Owner { root: plan.id_map.root(), mapped }
}

/// Where the leader is to be born, if that is not where the outer is.
fn leader_cgroup<'a>(given: &Given<'a>) -> Option<BorrowedFd<'a>> {
    given.cgroup.filter(|_| given.users.is_none())
}

fn console_op(source: PathBuf) -> Op {
    let (access, depth, owners) = (Access::ReadWrite, Depth::Single, Owners::AsTheyAre);
    Op::Host { source, target: "/dev/console".into(), access, depth, owners }
}

fn set_clocks(plan: &LaunchPlan) -> Result<(), Failure> {
    let step_name = "set the machine's clocks";
    let offsets = step(step_name, File::options().write(true).open("/proc/self/timens_offsets"))?;
    step(step_name, plan.clocks.write(offsets.as_fd()))
}

fn execute(ops: &[Op], sources: Vec<Option<OwnedFd>>) -> Result<(), Failure> {
    ops.iter().zip(sources).try_for_each(|(op, source)| step(op, op.execute(source)))
}
