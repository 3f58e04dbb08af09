//! The leader: the process that becomes PID 1. It makes what only it can make, gives up what the payload must not have,
//! and executes.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::signal::SigSet;
use nix::unistd::{sethostname, setsid};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

use super::handshake::{Born, Handover, Inside, Isolated, Mapped, Orphaned, Waiting};
use super::outer::Given;
use super::stub;
use crate::console::{self, Mode};
use crate::error::failure::{Failure, step};
use crate::exec;
use crate::mount::{op::Op, root, visible};
use crate::namespace::Kind;
use crate::net;
use crate::plan::{LaunchPlan, NetworkPlan};
use crate::spec::{Checkpoints, First, Program};
use crate::sys::{Forked, close_at_exec_from, exit_now, fork, unshare_namespaces};
use crate::user::User;

/// The leader's life.
pub(super) fn live(plan: &LaunchPlan, given: &Given<'_>, notify: OwnedFd, wire: Inside<Born>) -> ! {
    // Orphaned: the supervisor is gone and nobody waits for a word.
    let _: Result<Infallible, Orphaned> = go_through(plan, given, notify, wire);
    exit_now(1)
}

fn go_through(
    plan: &LaunchPlan,
    given: &Given<'_>,
    notify: OwnedFd,
    wire: Inside<Born>,
) -> Result<Infallible, Orphaned> {
    // Should the supervisor be dead already, the wire is at its end, and the next word does not come.
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        wire.fail(Failure::set_up("arrange to end with the supervisor", &error.into()));
        return Err(Orphaned);
    }
    let wire = wire.await_ids()?;
    let wire = checked(wire, |_: &Inside<Mapped>| start_loopback(plan))?.0;
    let wire = wire.await_place()?;
    let (wire, ready) = checked(wire, |_: &Inside<Isolated>| set_up(plan, given))?;
    let handover = Handover { console: ready.console, notify: Some(notify) };
    let wire = wire.await_go(&handover)?;
    drop(handover);
    let (_, never) = checked(wire, |wire| execute(plan, &ready.user, wire))?;
    Ok(never)
}

/// Runs a step in a state of the handshake; a step that fails is the last.
fn checked<S, T>(
    wire: Inside<S>,
    step: impl FnOnce(&Inside<S>) -> Result<T, Failure>,
) -> Result<(Inside<S>, T), Orphaned> {
    match step(&wire) {
        Ok(value) => Ok((wire, value)),
        Err(failure) => {
            wire.fail(failure);
            Err(Orphaned)
        }
    }
}

fn start_loopback(plan: &LaunchPlan) -> Result<(), Failure> {
    match plan.network {
        NetworkPlan::Host => Ok(()),
        NetworkPlan::Loopback | NetworkPlan::Veth(_) => step("start the loopback", net::loopback_up()),
    }
}

/// What setting up gives.
struct Set {
    console: Option<OwnedFd>,
    user: User,
}

fn set_up(plan: &LaunchPlan, given: &Given<'_>) -> Result<Set, Failure> {
    // Only now is this process where the root of its cgroup namespace is to be.
    if plan.namespaces.has(Kind::Cgroup) {
        step("make a cgroup namespace", unshare_namespaces(UnshareFlags::NEWCGROUP))?;
    }
    step("set the host name", sethostname(&plan.hostname))?;
    for op in &plan.leader {
        step(op, op.execute(None))?;
    }
    if plan.namespaces.has(Kind::User) {
        step("unmount what is the host's", visible::remove())?;
    }
    step("lead a session", setsid())?;
    let console = match (plan.console, given.streams, given.console) {
        (Mode::Pipe, Some(streams), _) => {
            step("take the standard streams", take_streams(streams))?;
            None
        }
        (_, _, Some(_)) => {
            step("open /dev/console", open_console())?;
            None
        }
        _ => {
            let master = make_console()?;
            step("open /dev/console", open_console())?;
            Some(master)
        }
    };
    let from_host = match plan.checkpoints {
        // A mount that is another's slave can be saved only with that other.
        Checkpoints::Possible => root::FromHost::Nothing,
        Checkpoints::Impossible => root::FromHost::Mounts,
    };
    step("set the root's mounts up", root::finish(plan.root.access, from_host))?;
    let user = find_user(&plan.exec.user)?;
    // While there is CAP_SYS_ADMIN for sure: without it a filter would take no_new_privs.
    step("refuse system calls", plan.confinement.system_calls.install())?;
    step("limit capabilities", plan.confinement.capabilities.limit())?;
    Ok(Set { console, user })
}

/// The machine's console: a pty of its own devpts, seen at /dev/console.
fn make_console() -> Result<OwnedFd, Failure> {
    let pty = step("make a pty", console::pty::open())?;
    let console = Op::Inside { source: pty.slave_path.clone(), target: "/dev/console".into() };
    step(&console, console.execute(None))?;
    Ok(pty.master)
}

/// Makes the console the payload's standard streams and controlling terminal. By its name inside: nothing that was opened on
/// the host stays open.
fn open_console() -> io::Result<()> {
    let console = fs::File::options().read(true).write(true).open("/dev/console")?;
    console::pty::become_controlling(&console)?;
    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    Ok(rustix::stdio::dup2_stderr(&console)?)
}

fn take_streams(streams: &console::Streams) -> io::Result<()> {
    rustix::stdio::dup2_stdin(&streams.stdin)?;
    rustix::stdio::dup2_stdout(&streams.stdout)?;
    Ok(rustix::stdio::dup2_stderr(&streams.stderr)?)
}

fn find_user(wanted: &str) -> Result<User, Failure> {
    // A tree without these files has root and numbers.
    let [passwd, group] = ["/etc/passwd", "/etc/group"].map(|path| fs::read(path).unwrap_or_default());
    User::find(wanted, &String::from_utf8_lossy(&passwd), &String::from_utf8_lossy(&group))
        .map_err(|reason| Failure::refused(format!("become user '{wanted}'"), reason))
}

fn execute(plan: &LaunchPlan, user: &User, wire: &Inside<Waiting>) -> Result<Infallible, Failure> {
    step("close what was inherited", close_at_exec_from(3))?;
    if let Program::Command { first: First::Stub, .. } = plan.exec.program {
        match step("start the payload", fork())? {
            Forked::Parent(payload) => stub::live(payload),
            Forked::Child => {
                // A group of its own in the foreground, so that ^C is for the command and not for the stub.
                step(
                    "lead a process group",
                    nix::unistd::setpgid(nix::unistd::Pid::from_raw(0), nix::unistd::Pid::from_raw(0)),
                )?;
                // From the background it would be stopped (man 3 tcsetpgrp). Unblocked again below with all others.
                let mut blocked = SigSet::empty();
                blocked.add(nix::sys::signal::Signal::SIGTTOU);
                step("block SIGTTOU", blocked.thread_block())?;
                let _ = rustix::termios::tcsetpgrp(std::io::stdin(), rustix::process::getpgrp());
            }
        }
    }
    step(format!("become user '{}'", user.name), user.assume())?;
    // With its IDs a process loses its death signal (man 2 PR_SET_PDEATHSIG); of a supervisor that died before it was asked
    // for again, the wire tells.
    step("end with the supervisor", set_parent_process_death_signal(Some(Signal::KILL)))?;
    if wire.is_orphaned() {
        return Err(Failure::refused("go on", "the supervisor is gone"));
    }
    let directory = directory(plan, user);
    step(format!("enter '{}'", directory.display()), std::env::set_current_dir(&directory))?;
    step("reset signals", exec::reset_signals())?;
    let environment = environment(plan, user);
    let argv = match &plan.exec.program {
        Program::Init { path, arguments, .. } => {
            [path.clone().into_os_string()].into_iter().chain(arguments.iter().cloned()).collect()
        }
        Program::Command { argv, .. } => argv.clone(),
    };
    let error = exec::execute(&argv[0], &argv, &environment);
    Err(Failure::execute(argv[0].display(), &error))
}

fn directory(plan: &LaunchPlan, user: &User) -> PathBuf {
    match (&plan.exec.directory, &plan.exec.program) {
        (Some(directory), _) => directory.clone(),
        (None, Program::Init { .. }) => "/".into(),
        // As login(1): a home that is not there is no reason to refuse.
        (None, Program::Command { .. }) if Path::new(&user.home).is_dir() => user.home.clone().into(),
        (None, Program::Command { .. }) => "/".into(),
    }
}

fn environment(plan: &LaunchPlan, user: &User) -> Vec<(String, OsString)> {
    let of_user =
        [("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name), ("SHELL", &user.shell)];
    let given = &plan.exec.environment;
    of_user
        .into_iter()
        .filter(|(key, _)| given.iter().all(|(known, _)| known != key))
        .map(|(key, value)| (key.to_owned(), OsString::from(value)))
        .chain(given.iter().cloned())
        .collect()
}
