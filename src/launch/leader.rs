//! The leader: the process that becomes PID 1. It makes what only it can make, gives up what the payload must not have,
//! and executes.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::sys::signal::SigSet;
use nix::unistd::{Gid, Uid, execve, setgroups, sethostname, setresgid, setresuid, setsid};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

use super::handshake::{Born, Failure, Handover, Inside, Isolated, Mapped, Orphaned, Waiting};
use super::outer::Given;
use super::stub;
use crate::console::{self, Mode};
use crate::mount::{op::Op, root};
use crate::namespace::Kind;
use crate::net;
use crate::plan::{LaunchPlan, NetworkPlan};
use crate::spec::{First, Program};
use crate::sys::{Forked, close_at_exec_from, exit_now, fork, set_default_action, unshare_namespaces};
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

fn step<T, E: Into<io::Error>>(what: impl std::fmt::Display, result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(|error| Failure::set_up(what, &error.into()))
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
    step("lead a session", setsid())?;
    let console = match (plan.console, given.streams) {
        (Mode::Pipe, Some(streams)) => {
            step("take the standard streams", take_streams(streams))?;
            None
        }
        _ => Some(make_console()?),
    };
    step("set the root's mounts up", root::finish(plan.root.access))?;
    let user = find_user(&plan.exec.user)?;
    step("limit capabilities", plan.confinement.capabilities.limit())?;
    Ok(Set { console, user })
}

/// The machine's console: a pty of its own devpts, seen at /dev/console, the payload's standard streams and controlling
/// terminal.
fn make_console() -> Result<OwnedFd, Failure> {
    let pty = step("make a pty", console::pty::open())?;
    let console = Op::Inside { source: pty.slave_path.clone(), target: "/dev/console".into() };
    step(&console, console.execute(None))?;
    let open = || -> io::Result<()> {
        let console = fs::File::options().read(true).write(true).open("/dev/console")?;
        console::pty::become_controlling(&console)?;
        rustix::stdio::dup2_stdin(&console)?;
        rustix::stdio::dup2_stdout(&console)?;
        Ok(rustix::stdio::dup2_stderr(&console)?)
    };
    step("open /dev/console", open())?;
    Ok(pty.master)
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
    become_user(user)?;
    // With its IDs a process loses its death signal (man 2 PR_SET_PDEATHSIG); of a supervisor that died before it was asked
    // for again, the wire tells.
    step("end with the supervisor", set_parent_process_death_signal(Some(Signal::KILL)))?;
    if wire.is_orphaned() {
        return Err(Failure::refused("go on", "the supervisor is gone"));
    }
    let directory = directory(plan, user);
    step(format!("enter '{}'", directory.display()), std::env::set_current_dir(&directory))?;
    for signal in 1..=libc::SIGRTMAX() {
        // Those that cannot be changed are as they should be: SIGKILL, SIGSTOP, and two that libc hides.
        let _ = set_default_action(signal);
    }
    let none = SigSet::empty();
    step("unblock signals", none.thread_set_mask())?;
    let environment = environment(plan, user);
    let argv = match &plan.exec.program {
        Program::Init { path, arguments } => {
            [path.clone().into_os_string()].into_iter().chain(arguments.iter().cloned()).collect()
        }
        Program::Command { argv, .. } => argv.clone(),
    };
    let error = try_candidates(&argv, &environment);
    Err(Failure::execute(argv[0].display(), &error))
}

fn become_user(user: &User) -> Result<(), Failure> {
    if user.uid == 0 && user.gid == 0 && user.groups.is_empty() {
        // What the caller's supplementary groups were is none of the payload's.
        return step("drop supplementary groups", setgroups(&[]));
    }
    let groups: Vec<_> = [user.gid].iter().chain(&user.groups).map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let what = format!("become user '{}'", user.name);
    step(&what, setgroups(&groups))?;
    step(&what, setresgid(gid, gid, gid))?;
    step(&what, setresuid(uid, uid, uid))
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

/// Executes the program, looked up in the payload's PATH when its name has no `/`; returns only with the reason why not.
fn try_candidates(argv: &[OsString], environment: &[(String, OsString)]) -> io::Error {
    let c_string = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::from);
    let strings = || -> io::Result<(Vec<CString>, Vec<CString>)> {
        let argv =
            argv.iter().map(|argument| c_string(argument.clone().into_vec())).collect::<io::Result<_>>()?;
        let environment = environment
            .iter()
            .map(|(key, value)| c_string([key.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<io::Result<_>>()?;
        Ok((argv, environment))
    };
    let (arguments, variables) = match strings() {
        Ok(strings) => strings,
        Err(error) => return error,
    };
    let mut last = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in candidates(&argv[0], environment) {
        let Err(error) =
            c_string(candidate).map(|path| execve(&path, &arguments, &variables)).and_then(|result| {
                let Err(errno) = result;
                Err::<Infallible, _>(io::Error::from(errno))
            });
        // As execvp(3): go on looking past what is not there, remember what may not be executed.
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => last = error,
            _ => return error,
        }
    }
    last
}

fn candidates(program: &OsString, environment: &[(String, OsString)]) -> Vec<Vec<u8>> {
    let name = program.as_bytes();
    if name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    let path = environment.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_bytes());
    path.unwrap_or(b"/usr/bin:/bin")
        .split(|byte| *byte == b':')
        .map(|dir| [dir, b"/", name].concat())
        .collect()
}
