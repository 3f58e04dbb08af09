//! `osier logs`: the machine's journal where it has one, else what its console has shown.
//!
//! The journal of a machine that runs is read by its own journalctl(1), inside; that of one that does not by the host's, as
//! `journalctl --directory=` does. What the machine wrote is passed on as it is, but to a terminal as text alone.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command as Program, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use rustix::pipe::PipeFlags;

use super::shell::enter;
use super::{Reader, try_print, try_write, unknown};
use crate::bus::{systemd, units};
use crate::cli::Logs;
use crate::console::Streams;
use crate::console::log::{self, Plain, Reading};
use crate::error::{Context, Error, Kind, Result};
use crate::exit::Ended;
use crate::image::{self, Tree};
use crate::machine::process::open_supervisor;
use crate::machine::record::{Record, Store};
use crate::session::{Command, Entry, Session, Standard, capture};

/// So many lines come before what is followed.
const BEFORE: usize = 10;
/// Where a journal is kept over the end of a machine (man 8 systemd-journald.service).
const KEPT: &str = "/var/log/journal";

/// Prints what a machine has logged.
///
/// # Errors
/// When there is neither such a machine nor a log of one, and what reading gives.
pub fn execute(options: &Logs, store: &Store) -> Result<()> {
    let record = store.read(&options.name);
    let journal =
        if options.console { Journal::None } else { Journal::find(options, record.as_ref(), store)? };
    match journal {
        Journal::Inside(running) => running.show(options),
        Journal::Kept(directory) => show_kept(options, &directory),
        Journal::None => show_console(options, record.as_ref(), store),
    }
}

/// The journal of a machine.
enum Journal {
    /// It runs, and a journald in it.
    Inside(Box<Inside>),
    /// It does not run; what it has kept.
    Kept(OwnedFd),
    /// It has none.
    None,
}

impl Journal {
    fn find(options: &Logs, record: Option<&Record>, store: &Store) -> Result<Self> {
        let Some(record) = record else {
            let Ok(image) = image::find(&options.name) else { return Ok(Self::None) };
            let kept = Tree::open(&image.path)
                .and_then(|tree| tree.open_inside(KEPT, OFlags::RDONLY | OFlags::DIRECTORY));
            return Ok(kept.map_or(Self::None, Self::Kept));
        };
        let within = |error: Error| error.within(format!("cannot read the journal of '{}'", record.name));
        let (_door, entry) = enter(store, record).map_err(within)?;
        if !has_journal(&entry) {
            return Ok(Self::None);
        }
        let (output, streams) = streams().context(|| "cannot make a pipe")?;
        let command = Command::of_root(&entry, arguments(options).into_iter().map(Into::into).collect());
        let session = Session::start(&entry, &command, Standard::Streams(&streams)).map_err(within)?;
        Ok(Self::Inside(Box::new(Inside { session, output })))
    }
}

/// So long a machine's journalctl may take when its journal is only a part of what was asked for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The last lines of what a machine that runs has logged, as text alone; none where there is no log, or the caller may not
/// look inside.
///
/// Forks: to be called before the bus is opened.
pub(super) fn last(store: &Store, record: &Record, count: usize) -> Vec<String> {
    if count == 0 {
        return Vec::new();
    }
    let kept = || Reading::open(log::path(&record.name), Some(count)).ok().map(|(_, text)| text);
    let text = last_of_journal(store, record, count).or_else(kept).unwrap_or_default();
    let text = Plain::default().of(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
}

fn last_of_journal(store: &Store, record: &Record, count: usize) -> Option<Vec<u8>> {
    let (_door, entry) = enter(store, record).ok()?;
    if !has_journal(&entry) {
        return None;
    }
    let words = ["journalctl", "--no-pager", "--quiet", "--output=short"].map(str::to_owned);
    let words = words.into_iter().chain([format!("--lines={count}")]).map(Into::into).collect();
    let captured = capture(&entry, &Command::of_root(&entry, words), PATIENCE).ok()?;
    (captured.ended == Ended::Exited(0)).then_some(captured.output)
}

/// Whether a journald runs in a machine, and journalctl is there to ask it: in /bin alone where that is no link to /usr/bin
/// (Debian 11).
fn has_journal(entry: &Entry) -> bool {
    let has = |path| entry.root().open_inside(path, OFlags::PATH).is_ok();
    has("/run/systemd/journal/socket") && (has("/bin/journalctl") || has("/usr/bin/journalctl"))
}

/// journalctl(1)'s, its name first.
fn arguments(options: &Logs) -> Vec<String> {
    let mut arguments = vec!["journalctl".to_owned(), "--no-pager".to_owned()];
    arguments.extend(lines(options).map(|lines| format!("--lines={lines}")));
    if options.follow {
        arguments.push("--follow".to_owned());
    }
    arguments
}

fn lines(options: &Logs) -> Option<usize> {
    options.lines.or(options.follow.then_some(BEFORE))
}

fn streams() -> io::Result<(File, Streams)> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let (output, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let stderr = stdout.try_clone()?;
    Ok((output.into(), Streams { stdin: null, stdout, stderr }))
}

/// A journalctl in the machine.
struct Inside {
    session: Session,
    output: File,
}

impl Inside {
    fn show(mut self, options: &Logs) -> Result<()> {
        let name = &options.name;
        let reader = pass_on(&mut self.output)
            .map_err(|error| error.within(format!("cannot show the journal of '{name}'")))?;
        if reader == Reader::Gone {
            self.session.signal(libc::SIGTERM).context(|| "cannot end journalctl")?;
        }
        match self.session.wait().context(|| "cannot wait for journalctl")? {
            Ended::Exited(0) | Ended::Killed(libc::SIGTERM) => Ok(()),
            // With the machine.
            Ended::Killed(libc::SIGKILL) if options.follow => Ok(()),
            ended => Err(Error::new(Kind::Failed, format!("cannot show the journal of '{name}'"))
                .because(format!("journalctl in it ended with {}", ended.code()))),
        }
    }
}

/// The host's journalctl on the directory, which it is handed: no link of the machine's leads it elsewhere.
fn show_kept(options: &Logs, directory: &OwnedFd) -> Result<()> {
    let what = || format!("cannot show the journal of '{}'", options.name);
    rustix::io::fcntl_setfd(directory, FdFlags::empty()).context(what)?;
    let mut journalctl = Program::new("journalctl");
    journalctl.args(["--no-pager", &format!("--directory=/proc/self/fd/{}", directory.as_raw_fd())]);
    // Nothing is added to it: there is nothing to follow.
    journalctl.args(lines(options).map(|lines| format!("--lines={lines}")));
    let child = journalctl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(Kind::Unsupported, what())
            .because("this host has no journalctl")
            .hint(format!("start it, and its own is used: osier start {}", options.name)),
        _ => Error::io(what(), &error),
    })?;
    if let Some(mut output) = child.stdout.take() {
        pass_on(&mut output)?;
    }
    // One whose reader is gone dies of it.
    child.wait().context(what).map(drop)
}

/// Passes on what is read, to its end or until nobody wants more.
fn pass_on(source: &mut impl Read) -> Result<Reader> {
    let mut output = Output::new();
    let mut part = [0; 16 * 1024];
    loop {
        let count = match source.read(&mut part) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count.context(|| "cannot read a log")?,
        };
        if count == 0 || output.write(&part[..count])? == Reader::Gone {
            return Ok(if count == 0 { Reader::There } else { Reader::Gone });
        }
    }
}

/// Standard output.
struct Output {
    /// For a terminal.
    plain: Option<Plain>,
}

impl Output {
    fn new() -> Self {
        Self { plain: io::stdout().is_terminal().then(Plain::default) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<Reader> {
        match &mut self.plain {
            Some(plain) => try_print(&plain.of(bytes)),
            None => try_write(bytes),
        }
    }
}

/// What the console has shown: kept by the supervisor, or by the journal of the host for a machine in a unit.
fn show_console(options: &Logs, record: Option<&Record>, store: &Store) -> Result<()> {
    let name = &options.name;
    let what = || format!("cannot show the console of '{name}'");
    let opened = Reading::open(log::path(name), lines(options));
    let (mut reading, text) = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return show_unit(options, record, store),
        opened => opened.context(what)?,
    };
    let mut output = Output::new();
    let mut reader = output.write(&text)?;
    let supervisor = match record.filter(|_| options.follow) {
        Some(record) => open_supervisor(store, record).context(what)?,
        None => None,
    };
    let Some(supervisor) = supervisor else { return Ok(()) };
    loop {
        let mut set =
            [PollFd::new(&supervisor, PollFlags::IN), PollFd::from_borrowed_fd(reading.fd(), PollFlags::IN)];
        // A pipe whose reader is gone is seen to be at the next word only, as tail(1) sees it.
        rustix::io::retry_on_intr(|| poll(&mut set, None)).context(what)?;
        let ended = !set[0].revents().is_empty();
        let text = reading.more().context(what)?;
        if !text.is_empty() {
            reader = output.write(&text)?;
        }
        if ended || reader == Reader::Gone {
            return Ok(());
        }
    }
}

/// osier@NAME.service writes the console to its standard output, which is the host's journal.
fn show_unit(options: &Logs, record: Option<&Record>, store: &Store) -> Result<()> {
    let name = &options.name;
    let unit = units::service_name(name);
    let in_unit = record.is_none_or(|record| record.unit.as_deref() == Some(&unit));
    if systemd::is_running() && in_unit && (record.is_some() || image::find(name).is_ok()) {
        let mut journalctl = Program::new("journalctl");
        journalctl.args(&arguments(options)[1..]).args(["--output=cat", &format!("--unit={unit}")]);
        let child = journalctl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.context(|| "cannot execute journalctl")?;
        if let Some(mut output) = child.stdout.take() {
            pass_on(&mut output)?;
        }
        return child.wait().context(|| "cannot wait for journalctl").map(drop);
    }
    if record.is_none() && image::find(name).is_err() {
        return Err(unknown(store, name));
    }
    let error = Error::new(Kind::NotFound, format!("there is no log of '{name}'"));
    Err(match record {
        Some(_) => error
            .because("it has no journal, and its console is kept nowhere")
            .hint(format!("`osier attach {name}` shows its console; `osier start` keeps it")),
        None => error.because("it has no journal, and `osier start` has never booted it"),
    })
}
