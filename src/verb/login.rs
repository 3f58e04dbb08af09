//! `osier login`: a login prompt of the machine's own on a new terminal of its.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;

use super::attended::{Seat, on_terminal};
use super::may::may;
use super::opened::{self, Wanted};
use super::running;
use super::shell::enter;
use crate::bus;
use crate::cli::Login;
use crate::console::{FrontWire, Mode, Terminal};
use crate::error::{Context, Error, Kind, Result};
use crate::image::Tree;
use crate::machine::Door;
use crate::machine::record::{Record, Store};
use crate::session::{Command, Directory, Entry, Session, Standard, environment};
use crate::user::User;

/// Programs of a tree that ask who logs in, in order of preference, with their arguments. agetty(8) shows issue(5); its `-`
/// is the terminal that it has already.
const PROMPTS: [(&str, &[&str]); 6] = [
    ("/sbin/agetty", &["agetty", "--noclear", "--keep-baud", "-", "115200,57600,38400,9600"]),
    ("/usr/sbin/agetty", &["agetty", "--noclear", "--keep-baud", "-", "115200,57600,38400,9600"]),
    ("/bin/login", &["login"]),
    ("/usr/bin/login", &["login"]),
    ("/bin/busybox", &["login"]),
    ("/usr/bin/busybox", &["login"]),
];

/// What stands after "cannot".
const ACTION: &str = "log in to";

/// `osier login`: serves the prompt until the user has logged out, or hangs up.
///
/// # Errors
/// Whatever keeps the machine from showing a prompt.
pub fn execute(options: &Login, store: &Store) -> Result<()> {
    let [record] = running(store, std::slice::from_ref(&options.name))?
        .try_into()
        .map_err(|_| Error::usage("one machine"))?;
    if may(&record, ACTION).is_err() && record.registered {
        return opened::serve(&record, Wanted::Login, ACTION);
    }
    may(&record, ACTION)?;
    let what = format!("cannot {ACTION} '{}'", record.name);
    let within = |error: Error| error.within(what.as_str());
    let (door, entry) = enter(store, &record).map_err(within)?;
    let serve = |front| serve(&record, &door, &entry, front).map_err(within);
    // Without a terminal the prompt is on one all the same: login(1) wants it.
    match Terminal::of_caller(Mode::Interactive).context(|| "cannot use the terminal")? {
        Some(terminal) => on_terminal(terminal, serve),
        None => serve(None),
    }
    .map(drop)
}

fn serve(record: &Record, door: &Door, entry: &Entry, front: Option<FrontWire>) -> Result<u8> {
    let (mut seat, _) = Seat::take(Mode::Interactive, front).context(|| "cannot use the standard streams")?;
    if let Some(master) = by_machined(record, entry) {
        seat.connect(master).context(|| "cannot serve the terminal")?;
        // The machine's systemd starts the prompt again after each logout.
        seat.serve(&[door.leader()], |_| Ok(())).context(|| "cannot serve the terminal")?;
        return Ok(0);
    }
    let mut session = Session::start(entry, &prompt(record, entry)?, Standard::Pty)?;
    if let Some(master) = session.take_console() {
        seat.connect(master).context(|| "cannot serve the terminal")?;
    }
    let pidfd = session.pidfd().try_clone_to_owned().context(|| "cannot copy a descriptor")?;
    seat.serve(&[pidfd.as_fd()], |number| session.signal(number)).context(|| "cannot serve the terminal")?;
    Ok(0)
}

/// A prompt of the machine's systemd. A machine without a bus has none to give: not an error, the tree's own will do.
fn by_machined(record: &Record, entry: &Entry) -> Option<OwnedFd> {
    // man 3 sd_booted
    let runs_systemd = entry.root().open_inside("/run/systemd/system", OFlags::PATH).is_ok();
    (record.registered && runs_systemd && bus::available())
        .then(|| opened::open(record, Wanted::Login).ok())
        .flatten()
}

fn prompt(record: &Record, entry: &Entry) -> Result<Command> {
    let Some((program, argv)) = PROMPTS.into_iter().find(|(path, _)| is_executable(entry.root(), path))
    else {
        return Err(Error::new(Kind::NotFound, "its tree has no login prompt")
            .because("it has neither agetty nor login")
            .hint(format!("`osier shell {}` needs neither", record.name)));
    };
    let user = User::root();
    let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
    Ok(Command {
        program: program.into(),
        argv: argv.iter().map(OsString::from).collect(),
        environment: environment(entry.root(), &user, Some(&term)),
        user,
        directory: Directory::Exactly("/".into()),
    })
}

fn is_executable(root: &Tree, path: &str) -> bool {
    let found = root.open_inside(path, OFlags::PATH).and_then(|found| Ok(rustix::fs::fstat(&found)?));
    found.is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_mode & 0o111 != 0)
}
