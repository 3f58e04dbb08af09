//! `osier start`: machines in the background.
//!
//! Where systemd is PID 1 its osier@NAME.service boots them; elsewhere each gets a supervisor in a session of its own, and
//! a log for its console.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::time::{Duration, Instant};

use nix::unistd::setsid;

use super::boot::find_init;
use super::lifetime::{Company, Sources, Wanted, Word, supervise_to_end};
use super::target::deadline;
use crate::bus::{BusError, systemd, units};
use crate::cli::{Invocation, Start};
use crate::console::{Log, log, release_standard_streams};
use crate::error::{Context, Error, Kind, Result};
use crate::image;
use crate::machine::record::{Stage, Store};
use crate::machine::watch::{Outcome, Watch};
use crate::settings::{Setting, Settings};
use crate::spec::MachineSpec;
use crate::sys::{self, Forked, fork};
use crate::wire::Wire;

/// How often is looked whether a unit's machine runs by now.
const PACE: Duration = Duration::from_millis(10);
/// As `osier boot` without options of its own.
const INVOCATION: Invocation = Invocation { dry_run: false, quiet: false, settings: None };

/// `osier start`: the exit code to leave with. In the supervisors, which are children, that of their machine.
///
/// # Errors
/// The first of what kept machines from running; the others run.
pub fn execute(options: &Start, store: &Store) -> Result<u8> {
    let deadline = deadline(options.timeout.as_deref(), None)?;
    image_names(&options.names, "start")?;
    for name in &options.names {
        if let Some(record) = store.read(name) {
            return Err(Error::new(Kind::InUse, format!("cannot start '{name}'"))
                .because(format!("it runs already, supervised by process {}", record.supervisor))
                .hint(format!("`osier attach {name}` shows its console")));
        }
    }
    if systemd::is_running() {
        by_units(options, store, deadline)?;
        return Ok(0);
    }
    let said: Vec<_> = options.names.iter().map(|name| settings_for(name)).collect();
    let mut starting = Vec::new();
    for (name, said) in options.names.iter().zip(&said) {
        let decided = Sources::find(OsStr::new(name), said, &INVOCATION).and_then(|sources| {
            let wanted = sources.decide(|image, tree| find_init(image, tree).map(Some))?;
            Ok((sources, wanted))
        });
        starting.push((name, decided.map_err(|error| within(name, error))?));
    }
    let mut waiting = Vec::new();
    for (name, (sources, wanted)) in starting {
        let (starter, supervisor) = Wire::pair().context(|| "cannot make a socket")?;
        match fork().context(|| "cannot fork")? {
            Forked::Parent(_) => waiting.push((name, starter)),
            Forked::Child => {
                drop((starter, waiting));
                let company = Company::default();
                return supervise(wanted, company, &sources, supervisor);
            }
        }
    }
    let heard: Vec<_> =
        waiting.into_iter().map(|(name, wire)| hear(&wire).map_err(|error| within(name, error))).collect();
    heard.into_iter().collect::<Result<()>>()?;
    if options.wait {
        await_ready(options, store, deadline)?
    }
    Ok(0)
}

/// Names of images, each said once; what is a path is refused.
///
/// # Errors
/// [`Kind::Usage`] for a path, [`Kind::NotFound`] for what is no image.
pub(super) fn image_names(names: &[String], action: &str) -> Result<()> {
    for (at, name) in names.iter().enumerate() {
        let what = format!("cannot {action} '{name}'");
        if name.contains('/') {
            return Err(Error::usage(what)
                .because("it is a path; machines in the background have the name of an image")
                .hint("`osier boot` takes a path, and `ln -s` into /var/lib/machines gives it a name"));
        }
        if names[..at].contains(name) {
            return Err(Error::usage(what).because("it is named twice"));
        }
        image::find(name).map_err(|error| super::image::no_image(&error).within(what))?;
    }
    Ok(())
}

fn within(name: &str, error: Error) -> Error {
    error.within(format!("cannot start '{name}'"))
}

/// What osier@NAME.service says, but for the unit.
fn settings_for(name: &str) -> Settings {
    Settings {
        machine: Some(Setting::flag("NAME", name)),
        console: Some(Setting::flag("--console", "passive")),
        ..Settings::default()
    }
}

/// The supervisor: of its caller it keeps nothing but the wire.
pub(super) fn supervise(
    wanted: Wanted,
    company: Company<'_>,
    sources: &Sources<'_>,
    starter: Wire,
) -> Result<u8> {
    let copy = starter.as_fd().try_clone_to_owned().map(Wire::from);
    let result = detach(&wanted.spec).and_then(|log| {
        let company = Company { log: Some(log), starter: Some(starter), ..company };
        supervise_to_end(wanted, company, sources)
    });
    if let (Ok(starter), Err(error)) = (copy, &result) {
        // After the first word nobody listens any more; then the log has it, as standard error.
        let _ = starter.send(&Word::Failed(error.clone()), &[]);
    }
    result
}

/// Leaves the caller's session, terminal and directory; standard error becomes the console's log.
fn detach(spec: &MachineSpec) -> Result<Log> {
    let path = log::path(spec.name.as_str());
    let what = || format!("cannot write {}", path.display());
    let log = Log::open(path.clone()).context(what)?;
    setsid().context(|| "cannot lead a session")?;
    rustix::process::chdir("/").context(|| "cannot change to /")?;
    release_standard_streams().context(|| "cannot let go of the terminal")?;
    rustix::stdio::dup2_stderr(log.fd()).context(what)?;
    close_inherited().context(|| "cannot close what the caller had open")?;
    Ok(log)
}

/// Closes what whoever started osier had open beside the standard streams, such as pipes that a script waits for. All that
/// osier opens itself is closed on exec, and this was not.
fn close_inherited() -> io::Result<()> {
    let open = fs::read_dir("/proc/self/fd")?.flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for number in numbers.filter(|number| *number > 2).collect::<Vec<_>>() {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok());
        if flags.is_some_and(|flags| flags & libc::O_CLOEXEC == 0) {
            sys::close_range(number, number)?;
        }
    }
    Ok(())
}

/// A machine under a supervisor of its own. Here it gives the exit code to leave with when `wait`, which hears the supervisor, is
/// content; in the supervisor, a child, when the machine has ended.
///
/// # Errors
/// What `wait` gives.
pub(super) fn in_background(
    wanted: Wanted,
    mut company: Company<'_>,
    sources: &Sources<'_>,
    wait: impl FnOnce(&Wire) -> Result<()>,
) -> Result<u8> {
    let (starter, supervisor) = Wire::pair().context(|| "cannot make a socket")?;
    match fork().context(|| "cannot fork")? {
        Forked::Parent(_) => {
            drop(supervisor);
            // What it holds open would keep the end of the supervisor from being seen.
            if let Some(revival) = &mut company.revival {
                revival.go = Box::new(|_| Ok(()));
                revival.lazily = None;
            }
            wait(&starter).map(|()| 0)
        }
        Forked::Child => {
            drop((starter, wait));
            supervise(wanted, company, sources, supervisor)
        }
    }
}

/// Waits for the word of a supervisor.
///
/// # Errors
/// What it says, or that it died.
pub(super) fn hear(wire: &Wire) -> Result<()> {
    match wire.receive::<Word>().context(|| "cannot hear its supervisor")? {
        Some((Word::Runs, _)) => Ok(()),
        Some((Word::Failed(error), _)) => Err(error),
        None => Err(Error::new(Kind::Failed, "its supervisor died")),
    }
}

fn await_ready(options: &Start, store: &Store, deadline: Option<Instant>) -> Result<()> {
    let stages = || options.names.iter().map(|name| (name, store.read(name).map(|record| record.state)));
    let records: Vec<_> = options.names.iter().filter_map(|name| store.read(name)).collect();
    let mut watch = Watch::open(store, &records).context(|| "cannot watch the machines")?;
    let outcome = watch.until(deadline, || {
        for (name, stage) in stages() {
            if matches!(stage, None | Some(Stage::Stopping)) {
                return Err(Error::new(Kind::Failed, format!("cannot start '{name}'"))
                    .because("it ended before it was ready")
                    .hint(format!("osier logs {name}")));
            }
        }
        Ok(stages().all(|(_, stage)| stage == Some(Stage::Running)))
    })?;
    if outcome == Outcome::Came {
        return Ok(());
    }
    let late: Vec<_> =
        stages().filter(|(_, stage)| *stage == Some(Stage::Starting)).map(|(name, _)| name).collect();
    Err(too_late(&late))
}

fn too_late(names: &[&String]) -> Error {
    let quoted: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
    Error::new(Kind::Failed, format!("{} is not ready", quoted.join(", ")))
        .because("the time is over; it goes on starting")
}

/// The jobs run at the same time.
fn by_units(options: &Start, store: &Store, deadline: Option<Instant>) -> Result<()> {
    let asked: Vec<_> =
        options.names.iter().map(|name| (name, units::Starting::ask(&units::service_name(name)))).collect();
    let mut verdict = Ok(());
    for (name, starting) in asked {
        let started = starting.map_err(|error| refuse(format!("cannot start '{name}'"), &error));
        let started = started.and_then(|starting| await_unit(name, &starting, options, store, deadline));
        verdict = verdict.and(started);
    }
    verdict
}

fn await_unit(
    name: &String,
    starting: &units::Starting,
    options: &Start,
    store: &Store,
    deadline: Option<Instant>,
) -> Result<()> {
    let service = units::service_name(name);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let limit = if options.wait { left.unwrap_or(Duration::MAX) } else { PACE };
        let done = starting.wait(limit).map_err(|error| refuse(format!("cannot start '{name}'"), &error))?;
        let runs = || store.read(name).is_some_and(|record| record.unit.as_deref() == Some(&service));
        if done || !options.wait && runs() {
            return Ok(());
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Err(too_late(&[name]));
        }
    }
}

/// What PID 1 refused, with where to look.
pub(super) fn refuse(what: String, error: &BusError) -> Error {
    match error {
        BusError::JobFailed { unit, result } => Error::new(Kind::Failed, what)
            .because(format!("{unit} ended with '{result}'"))
            .hint(format!("journalctl -u {}", unit.trim_end_matches(".service"))),
        BusError::Refused { name, .. } if name.ends_with(".NoSuchUnit") => {
            Error::new(Kind::Unsupported, what)
                .because(error)
                .hint("install units/osier@.service as /etc/systemd/system/osier@.service")
        }
        BusError::Refused { name, .. }
            if name.ends_with(".AccessDenied") || name.ends_with(".InteractiveAuthorizationRequired") =>
        {
            Error::new(Kind::Permission, what)
                .because("only root may")
                .hint("run it as root, with sudo for instance")
        }
        _ => Error::new(Kind::Failed, what).because(error),
    }
}
