//! `osier freeze` and `osier thaw`: all processes of a machine stopped, and going on.
//!
//! The payload's directory is frozen, never the one above: with `--keep-unit` the supervisor is in there as well, and a
//! frozen supervisor could not end its machine. The clocks of a frozen machine go on.

use std::io;
use std::time::{Duration, Instant};

use super::may::may;
use super::running;
use super::target::patience;
use crate::cgroup::PAYLOAD;
use crate::cgroup::freezer::{Freezer, Motion};
use crate::cli::Freeze;
use crate::error::{Context, Error, Kind, Result};
use crate::machine::hold::{is_away, take_back};
use crate::machine::process::is_current;
use crate::machine::record::{Record, Store};
use crate::machine::snapshot::lock;

/// How long the processes of a machine may take to stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is no end: longer than any machine lives.
const FOREVER: Duration = Duration::from_secs(1 << 32);

/// Stops all processes of machines.
///
/// # Errors
/// When a machine is not there or may not be frozen, or when its processes have not stopped in time; then they go on.
pub fn freeze(options: &Freeze, store: &Store) -> Result<()> {
    bring(options, store, Motion::Frozen)
}

/// Lets all processes of machines go on.
///
/// # Errors
/// When a machine is not there or may not be thawed.
pub fn thaw(options: &Freeze, store: &Store) -> Result<()> {
    bring(options, store, Motion::Running)
}

fn action(motion: Motion) -> &'static str {
    match motion {
        Motion::Frozen => "freeze",
        Motion::Running => "thaw",
    }
}

/// Asks all of them first, then waits for each until one deadline.
fn bring(options: &Freeze, store: &Store, motion: Motion) -> Result<()> {
    let patience = patience(options.timeout.as_deref(), Some(PATIENCE))?.unwrap_or(FOREVER);
    let records = running(store, &options.names)?;
    records.iter().try_for_each(|record| may(record, action(motion)))?;
    let asked: Vec<_> = records.iter().map(|record| ask(store, record, motion)).collect();
    let start = Instant::now();
    let mut verdict = Ok(());
    for (record, asked) in records.iter().zip(asked) {
        let reached = asked.and_then(|freezer| {
            await_motion(store, record, &freezer, motion, patience.saturating_sub(start.elapsed()))
        });
        verdict = verdict.and(reached);
    }
    verdict
}

fn ask(store: &Store, record: &Record, motion: Motion) -> Result<Freezer> {
    let what = || format!("cannot {} '{}'", action(motion), record.name);
    let cgroup = record
        .cgroup
        .as_ref()
        .ok_or_else(|| Error::new(Kind::Unsupported, what()).because("it has no cgroup of its own"))?;
    let payload = cgroup.join(PAYLOAD);
    if motion == Motion::Running && is_away(&payload) {
        // While somebody has it the machine may be on its way still.
        let _lock = lock(cgroup).map_err(|error| error.within(what()))?;
        take_back(&payload).context(what)?;
    }
    let freezer = Freezer::of(&payload);
    or_ended(store, record, freezer.ask(motion), what)?;
    Ok(freezer)
}

fn await_motion(
    store: &Store,
    record: &Record,
    freezer: &Freezer,
    motion: Motion,
    patience: Duration,
) -> Result<()> {
    let what = || format!("cannot {} '{}'", action(motion), record.name);
    if or_ended(store, record, freezer.wait(motion, patience), what)? {
        return Ok(());
    }
    let error = Error::new(Kind::Failed, what());
    match motion {
        Motion::Frozen => {
            // Half frozen is neither.
            or_ended(store, record, freezer.ask(Motion::Running), what)?;
            Err(error.because("its processes have not stopped in time; they go on"))
        }
        Motion::Running => {
            let error = error.because("something above its cgroup is frozen");
            Err(match &record.unit {
                Some(unit) => error.hint(format!("systemctl thaw {unit}")),
                None => error,
            })
        }
    }
}

/// A cgroup that is gone is a machine that is.
fn or_ended<T>(
    store: &Store,
    record: &Record,
    result: io::Result<T>,
    what: impl Fn() -> String,
) -> Result<T> {
    match result {
        Err(_) if !is_current(store, record) => {
            Err(Error::new(Kind::NotFound, format!("machine '{}' has ended", record.name)))
        }
        result => result.context(what),
    }
}
