//! The machines that a verb acts on, and waiting for what becomes of them.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::unknown;
use crate::bus::{self, machined};
use crate::duration;
use crate::error::{Context, Error, Kind, Result};
use crate::machine::process::is_supervised;
use crate::machine::record::{Record, Store};
use crate::machine::watch::{Outcome, Watch};
use crate::settings::Setting;

/// How often machined is asked whether it has forgotten a machine whose leader has ended.
const PACE: Duration = Duration::from_millis(20);

/// What a name stands for.
#[derive(Debug)]
pub(super) enum Target {
    /// A machine of osier's.
    Own(Box<Record>),
    /// One that only machined knows.
    Machined(Box<machined::Machine>),
}

impl Target {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Own(record) => &record.name,
            Self::Machined(machine) => &machine.name,
        }
    }

    /// The record of one of osier's.
    pub(super) fn own(&self) -> Option<&Record> {
        match self {
            Self::Own(record) => Some(record),
            Self::Machined(_) => None,
        }
    }
}

/// All machines named, each once; all of them are there, or it is an error.
///
/// # Errors
/// The first name that is no machine's.
pub(super) fn find_all(store: &Store, names: &[String]) -> Result<Vec<Target>> {
    let mut found: Vec<Target> = Vec::new();
    for name in names {
        if found.iter().all(|target| target.name() != name) {
            found.push(find(store, name)?);
        }
    }
    Ok(found)
}

fn find(store: &Store, name: &str) -> Result<Target> {
    if let Some(record) = store.read(name) {
        return Ok(Target::Own(Box::new(record)));
    }
    let known = if bus::available() { machined::get(name).ok().flatten() } else { None };
    known.map(|machine| Target::Machined(Box::new(machine))).ok_or_else(|| unknown(store, name))
}

/// The moment until which `--timeout` lets a verb wait; `None` is no end.
///
/// # Errors
/// What is no length of time, or less than none.
pub(super) fn deadline(timeout: Option<&str>, otherwise: Option<Duration>) -> Result<Option<Instant>> {
    Ok(patience(timeout, otherwise)?.and_then(|patience| Instant::now().checked_add(patience)))
}

/// The length of time that `--timeout` says; `None` is no end.
///
/// # Errors
/// As [`deadline`].
pub(super) fn patience(timeout: Option<&str>, otherwise: Option<Duration>) -> Result<Option<Duration>> {
    let Some(text) = timeout else { return Ok(otherwise) };
    if text == "infinity" {
        return Ok(None);
    }
    let wrong = |reason: &dyn std::fmt::Display| Setting::flag("--timeout", text).refuse(reason);
    let nanoseconds = duration::parse(text).map_err(|reason| wrong(&reason))?;
    let nanoseconds = u64::try_from(nanoseconds).map_err(|_| wrong(&"it is before now"))?;
    Ok(Some(Duration::from_nanos(nanoseconds)))
}

/// Watches those of osier's, from before something is asked of them; `None` when there are none among them.
///
/// # Errors
/// What inotify(7) and pidfd_open(2) give.
pub(super) fn watch(store: &Store, targets: &[Target]) -> Result<Option<Watch>> {
    let mut own = targets.iter().filter_map(Target::own).peekable();
    if own.peek().is_none() {
        return Ok(None);
    }
    Watch::open(store, own).context(|| "cannot watch the machines").map(Some)
}

/// Waits until the machines have ended; gives those that have not. `news` is told of every change of osier's.
///
/// # Errors
/// What poll(2) gives, and `news`.
pub(super) fn await_end<'t>(
    store: &Store,
    targets: &'t [Target],
    watch: Option<Watch>,
    deadline: Option<Instant>,
    mut news: impl FnMut() -> Result<()>,
) -> Result<Vec<&'t Target>> {
    let runs = |target: &Target| target.own().is_some_and(|record| is_supervised(store, record));
    if let Some(mut watch) = watch {
        watch.until(deadline, || {
            news()?;
            Ok(!targets.iter().any(runs))
        })?;
    }
    let mut left: Vec<_> = targets.iter().filter(|target| runs(target)).collect();
    for target in targets {
        if let Target::Machined(machine) = target
            && await_oblivion(machine, deadline)? == Outcome::TimedOut
        {
            left.push(target);
        }
    }
    Ok(left)
}

/// Waits for the leader's end, then for machined to notice.
fn await_oblivion(machine: &machined::Machine, deadline: Option<Instant>) -> Result<Outcome> {
    let what = || format!("cannot wait for '{}'", machine.name);
    let knows = || -> Result<bool> {
        // As long as machined names it the leader's number is the leader's.
        let now =
            machined::get(&machine.name).map_err(|error| Error::new(Kind::Failed, what()).because(error))?;
        Ok(now.is_some_and(|now| now.leader == machine.leader))
    };
    if let Some(leader) = open(machine.leader)
        && knows()?
    {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // More than the kernel can count is no end either.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&leader, PollFlags::IN)], left.as_ref()))
            .context(what)?;
    }
    while knows()? {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(Outcome::TimedOut);
        }
        thread::sleep(PACE);
    }
    Ok(Outcome::Came)
}

fn open(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()
}

/// The names in a sentence: `'web', 'mail'`.
pub(super) fn quoted(targets: &[&Target]) -> String {
    let names: Vec<_> = targets.iter().map(|target| format!("'{}'", target.name())).collect();
    names.join(", ")
}

/// The names on a command line: `web mail`.
pub(super) fn listed(targets: &[&Target]) -> String {
    targets.iter().map(|target| target.name()).collect::<Vec<_>>().join(" ")
}
