//! `osier shell`: a shell or a command of a user's in a machine that runs.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::attended::{Left, Seat, on_terminal};
use super::may::may;
use super::opened::{self, Wanted};
use super::running;
use crate::bus::machined;
use crate::cli::Shell;
use crate::console::{Asked, FrontWire, Mode, Terminal, Terminals};
use crate::error::{Context, Error, Kind, Result};
use crate::exit::Ended;
use crate::machine::Door;
use crate::machine::record::{Checkpointable, Record, Store};
use crate::session::{Command, Directory, Entry, Session, Standard, capture, environment};
use crate::settings::Setting;
use crate::spec;
use crate::user::User;

/// What stands after "cannot".
const ACTION: &str = "open a shell in";
/// So long a machine's first process may take to end after the others, milliseconds.
const LAST: u16 = 200;
/// So long the machine's name services may take to say who a user is.
const LOOKUP: Duration = Duration::from_secs(10);

/// `osier shell`: the exit code to leave with.
///
/// # Errors
/// Whatever keeps the command from running.
pub fn execute(options: &Shell, store: &Store) -> Result<u8> {
    let (user, name) = target(options)?;
    let [record] = running(store, &[name.to_owned()])?.try_into().map_err(|_| Error::usage("one machine"))?;
    let what = format!("cannot {ACTION} '{name}'");
    let within = |error: Error| error.within(what.as_str());
    if options.session {
        if may(&record, ACTION).is_ok() {
            // machined says nothing of a user that is not there.
            let (_, entry) = enter(store, &record).map_err(within)?;
            find_user(&entry, user).map_err(within)?;
        }
        return session(options, user, &record).map(|()| 0);
    }
    may(&record, ACTION)?;
    let (door, entry) = enter(store, &record).map_err(within)?;
    let mode = Mode::resolve(Asked::RunDefault, Terminals::of_caller());
    let command = command(options, user, &entry, mode).map_err(within)?;
    // A user may have been asked for from the machine's own programs: is it still the same machine?
    door.check()?;
    let run = |front| attend(&entry, &command, mode, front).map_err(within);
    let code = match Terminal::of_caller(mode).context(|| "cannot use the terminal")? {
        Some(terminal) => on_terminal(terminal, run)?,
        None => run(None)?,
    };
    if code == Ended::Killed(libc::SIGKILL).code() && is_ending(&door) {
        crate::error::say(format_args!("osier: machine '{name}' has ended\n"));
    }
    Ok(code)
}

/// A session of the machine's systemd. machined relays no exit status.
fn session(options: &Shell, user: &str, record: &Record) -> Result<()> {
    let text = |words: &OsString| {
        words.clone().into_string().map_err(|_| Error::usage("what goes over the bus has to be UTF-8"))
    };
    let arguments: Vec<String> = options.command.iter().map(text).collect::<Result<_>>()?;
    let program = arguments.first().map(String::as_str).unwrap_or_default();
    if !program.is_empty() && !program.starts_with('/') {
        return Err(Error::usage(format!("'{program}' is not an absolute path"))
            .hint("with --session nothing is looked up in PATH"));
    }
    let mut environment = Vec::new();
    for variable in &options.setenv {
        if let Some((key, value)) = spec::parse_variable(&Setting::flag("--setenv", variable))? {
            environment.push(format!("{key}={}", text(&value)?));
        }
    }
    if let Ok(term) = std::env::var("TERM") {
        environment.push(format!("TERM={term}"));
    }
    let shell = machined::Shell { user, program, arguments: &arguments, environment: &environment };
    opened::serve(record, Wanted::Shell(&shell), ACTION)
}

/// Whether what was killed was killed with the machine: its first process ends only after all others in its pid namespace.
fn is_ending(door: &Door) -> bool {
    let mut end = [PollFd::new(door.leader(), PollFlags::POLLIN)];
    matches!(poll(&mut end, PollTimeout::from(LAST)), Ok(1..))
}

/// `USER@NAME`, and the machine it is about.
fn target(options: &Shell) -> Result<(&str, &str)> {
    match (options.name.rsplit_once('@'), &options.uid) {
        (None, uid) => Ok((uid.as_deref().unwrap_or("root"), &options.name)),
        (Some(("", _)), _) => Err(Error::usage(format!("'{}' names no user before the @", options.name))),
        (Some(_), Some(uid)) => {
            Err(Error::usage(format!("--uid={uid} and '{}' both name a user", options.name))
                .hint("leave one out"))
        }
        (Some((user, name)), None) => Ok((user, name)),
    }
}

/// Opens a machine for who wants to run something in it.
pub(super) fn enter(store: &Store, record: &Record) -> Result<(Door, Entry)> {
    let door = Door::open(store, record)?;
    let pidfd = door.leader().try_clone_to_owned().context(|| "cannot copy a descriptor")?;
    let cgroup = record.cgroup.as_deref().filter(|path| path.is_dir());
    let entry = Entry::read(record.leader, pidfd, cgroup).or_else(|error| {
        door.check()?;
        Err(error).context(|| "cannot look into it")
    })?;
    let entry = entry.filtered(Checkpointable::filter(record.checkpointable));
    if entry.payload().is_some_and(is_frozen) {
        return Err(
            Error::new(Kind::Failed, "the machine is frozen").hint(format!("osier thaw {}", record.name))
        );
    }
    Ok((door, entry))
}

/// What is born in a frozen cgroup does not run (Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze).
pub(super) fn is_frozen(cgroup: &Path) -> bool {
    let events = std::fs::read_to_string(cgroup.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "frozen 1")
}

fn command(options: &Shell, user: &str, entry: &Entry, mode: Mode) -> Result<Command> {
    let user = find_user(entry, user)?;
    let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
    let term = (mode == Mode::Interactive).then_some(term.as_str());
    let mut environment = environment(entry.root(), &user, term);
    for text in &options.setenv {
        if let Some((key, value)) = spec::parse_variable(&Setting::flag("--setenv", text))? {
            environment.retain(|(known, _)| *known != key);
            environment.push((key, value));
        }
    }
    let directory = match &options.chdir {
        Some(path) => Directory::Exactly(spec::parse_inside(&Setting::flag("--chdir", path))?),
        None => Directory::Home,
    };
    let (program, argv) = match options.command.first() {
        Some(program) => (program.clone(), options.command.clone()),
        None => login_shell(&user),
    };
    Ok(Command { program, argv, environment, user, directory })
}

/// A name with a dash before it makes it a login shell.
fn login_shell(user: &User) -> (OsString, Vec<OsString>) {
    let name = Path::new(&user.shell).file_name().unwrap_or_default();
    let mut dashed = OsString::from("-");
    dashed.push(name);
    (user.shell.clone().into(), vec![dashed])
}

/// From the machine's own files, else from its name services, by its own getent(1).
fn find_user(entry: &Entry, wanted: &str) -> Result<User> {
    // A tree without these files has root and numbers; of what cannot be read the same holds.
    let text = |path: &str| entry.root().read_text(path).ok().flatten().unwrap_or_default();
    let (passwd, group) = (text("/etc/passwd"), text("/etc/group"));
    let error = match User::find(wanted, &passwd, &group) {
        Ok(user) => return Ok(user),
        Err(error) => error,
    };
    let ask = |arguments: &[&str]| {
        let argv = ["getent"].iter().chain(arguments).map(OsString::from).collect();
        let captured = capture(entry, &Command::of_root(entry, argv), LOOKUP).ok()?;
        (captured.ended == Ended::Exited(0)).then(|| String::from_utf8_lossy(&captured.output).into_owned())
    };
    let user = ask(&["passwd", "--", wanted]).and_then(|passwd| User::find(wanted, &passwd, &group).ok());
    let Some(mut user) = user else {
        return Err(Error::new(Kind::NotFound, format!("cannot become user '{wanted}'")).because(error));
    };
    let groups = ask(&["initgroups", "--", wanted]).unwrap_or_default();
    user.groups.extend(groups.split_whitespace().skip(1).filter_map(|gid| gid.parse::<u32>().ok()));
    user.groups.sort_unstable();
    user.groups.dedup();
    Ok(user)
}

/// Runs the command with the caller's streams, to its end.
fn attend(entry: &Entry, command: &Command, mode: Mode, front: Option<FrontWire>) -> Result<u8> {
    let (mut seat, streams) = Seat::take(mode, front).context(|| "cannot use the standard streams")?;
    let standard = streams.as_ref().map_or(Standard::Pty, Standard::Streams);
    let mut session = Session::start(entry, command, standard).map_err(|error| explain(error, command))?;
    drop(streams);
    if let Some(master) = session.take_console() {
        seat.connect(master).context(|| "cannot serve the terminal")?;
    }
    let pidfd = session.pidfd().try_clone_to_owned().context(|| "cannot copy a descriptor")?;
    let left = seat.serve(&[pidfd.as_fd()], |number| session.signal(number));
    match left.context(|| "cannot serve the terminal")? {
        Left::HungUp if !session.has_ended() => Ok(Ended::Killed(libc::SIGHUP).code()),
        Left::Ended | Left::HungUp => Ok(session.wait().context(|| "cannot wait for the command")?.code()),
    }
}

fn explain(error: Error, command: &Command) -> Error {
    let is_shell = command.argv.first().is_some_and(|name| name.as_encoded_bytes().starts_with(b"-"));
    match error.kind() {
        Kind::CommandNotFound | Kind::CannotExecute if is_shell => {
            error.hint(format!("it is the login shell of '{}'; give a command after --", command.user.name))
        }
        _ => error,
    }
}
