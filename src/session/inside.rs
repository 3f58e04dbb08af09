//! The entrant, which enters a machine and clones, and the process that it clones, up to execve(2).

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::stat::{Mode, umask};
use nix::unistd::setsid;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces, set_no_new_privs};

use super::entry::Privileges;
use super::{Command, Directory, Entry, FromInside, Standard};
use crate::console::{Streams, pty};
use crate::error::failure::{Failure, step};
use crate::exec;
use crate::sys::{Cloned, clone_sibling, close_at_exec_from, close_range, exit_now};
use crate::user::User;
use crate::wire::Wire;

/// The group of terminals, in every distribution; the machine's devpts is mounted with it (plan/files.rs).
const TTY_GROUP: u32 = 5;

/// What the process's standard streams become.
enum Terminal<'a> {
    /// The slave of a new pty.
    Slave(OwnedFd),
    Streams(&'a Streams),
}

/// The entrant's life.
pub(super) fn enter(entry: &Entry, command: &Command, standard: Standard<'_>, wire: Wire) -> ! {
    let (terminal, master) = match prepare(entry, command, standard) {
        Ok(prepared) => prepared,
        Err(failure) => fail(&wire, failure),
    };
    if let Err(failure) = close_others(entry, &terminal, master.as_ref(), &wire) {
        fail(&wire, failure);
    }
    match clone_sibling(0, None) {
        Err(error) => fail(&wire, Failure::set_up("start a process in the machine", &error)),
        Ok(Cloned::New) => {
            let Err(failure) = become_it(entry, command, &terminal);
            fail(&wire, failure)
        }
        Ok(Cloned::Caller { pidfd, .. }) => {
            let fds: Vec<BorrowedFd<'_>> =
                [pidfd.as_fd()].into_iter().chain(master.as_ref().map(AsFd::as_fd)).collect();
            // When nobody hears it any more, the process dies of its death signal.
            let _ = wire.send(&FromInside::Born, &fds);
            exit_now(0)
        }
    }
}

fn fail(wire: &Wire, failure: Failure) -> ! {
    // An osier that is gone has nobody to tell.
    let _ = wire.send(&FromInside::Failed(failure), &[]);
    exit_now(1)
}

/// Enters; makes the pty in the machine's devpts.
fn prepare<'a>(
    entry: &Entry,
    command: &Command,
    standard: Standard<'a>,
) -> Result<(Terminal<'a>, Option<OwnedFd>), Failure> {
    step("arrange to end with osier", set_parent_process_death_signal(Some(Signal::KILL)))?;
    let namespaces = entry.namespaces();
    if !namespaces.is_empty() {
        step("enter the machine's namespaces", move_into_thread_name_spaces(entry.pidfd(), namespaces))?;
    }
    if namespaces.contains(ThreadNameSpaceType::USER) {
        step("become the machine's root", User::become_root())?;
        // With its IDs a process loses its death signal (man 2 PR_SET_PDEATHSIG).
        step("arrange to end with osier", set_parent_process_death_signal(Some(Signal::KILL)))?;
    }
    step("enter the machine's root", enter_root(entry))?;
    match standard {
        Standard::Streams(streams) => Ok((Terminal::Streams(streams), None)),
        Standard::Pty => {
            let (master, slave) = step("make a terminal in the machine", make_pty(command.user.uid))?;
            Ok((Terminal::Slave(slave), Some(master)))
        }
    }
}

/// Closes what the process does not need of osier's: the caller's terminal, the host's directories. Before the clone, after
/// which the process is seen inside.
fn close_others(
    entry: &Entry,
    terminal: &Terminal<'_>,
    master: Option<&OwnedFd>,
    wire: &Wire,
) -> Result<(), Failure> {
    let mut kept = vec![entry.pidfd().as_raw_fd(), wire.as_fd().as_raw_fd()];
    kept.extend(master.map(AsRawFd::as_raw_fd));
    match terminal {
        Terminal::Slave(slave) => kept.push(slave.as_raw_fd()),
        Terminal::Streams(streams) => {
            kept.extend([&streams.stdin, &streams.stdout, &streams.stderr].map(AsRawFd::as_raw_fd));
        }
    }
    kept.sort_unstable();
    let mut next = 3;
    for fd in kept {
        if fd > next {
            step("close what was inherited", close_range(next, fd - 1))?;
        }
        next = next.max(fd + 1);
    }
    step("close what was inherited", close_range(next, RawFd::MAX))
}

fn enter_root(entry: &Entry) -> io::Result<()> {
    rustix::process::fchdir(entry.root())?;
    Ok(rustix::process::chroot(".")?)
}

/// Owned by who is to use it, as login(1) leaves it.
fn make_pty(uid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let pty = pty::open()?;
    let slave = pty::open_peer(&pty.master)?;
    let (user, group) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(TTY_GROUP));
    rustix::fs::fchown(&slave, Some(user), Some(group))?;
    Ok((pty.master, slave))
}

/// From a clone of the entrant to the program; returns only with the reason why not.
fn become_it(entry: &Entry, command: &Command, terminal: &Terminal<'_>) -> Result<Infallible, Failure> {
    // First: osier's handlers would swallow the signal by which this is to end with it.
    step("reset signals", exec::reset_signals())?;
    step("end with osier", set_parent_process_death_signal(Some(Signal::HUP)))?;
    step("take the standard streams", take_streams(terminal))?;
    step("close what was inherited", close_at_exec_from(3))?;
    umask(Mode::from_bits_truncate(0o022));
    let confinement = entry.confinement();
    step("refuse system calls", confinement.system_calls.install())?;
    step("limit capabilities", confinement.capabilities.limit())?;
    if confinement.privileges == Privileges::NeverGained {
        step("give up new privileges", set_no_new_privs(true))?;
    }
    let user = &command.user;
    step(format!("become user '{}'", user.name), user.assume())?;
    // With its IDs a process loses its death signal (man 2 PR_SET_PDEATHSIG).
    step("end with osier", set_parent_process_death_signal(Some(Signal::HUP)))?;
    let enter = |path: &Path| std::env::set_current_dir(path);
    match &command.directory {
        Directory::Exactly(path) => step(format!("enter '{}'", path.display()), enter(path))?,
        Directory::Home => match enter(Path::new(&user.home)) {
            Ok(()) => {}
            Err(_) => step("enter '/'", enter(Path::new("/")))?,
        },
    }
    let error = exec::execute(&command.program, &command.argv, &command.environment);
    Err(Failure::execute(command.program.display(), &error))
}

/// In pipe mode the process leads a session too: job control of the caller's terminal is none of the machine's.
fn take_streams(terminal: &Terminal<'_>) -> io::Result<()> {
    setsid()?;
    let [stdin, stdout, stderr] = match terminal {
        Terminal::Slave(slave) => {
            pty::become_controlling(slave)?;
            [slave, slave, slave]
        }
        Terminal::Streams(streams) => [&streams.stdin, &streams.stdout, &streams.stderr],
    };
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    Ok(rustix::stdio::dup2_stderr(stderr)?)
}
