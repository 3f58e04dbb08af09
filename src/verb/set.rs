//! `osier set`: limits of a running machine, and of all that will run under its name.
//!
//! Checked as a whole before anything changes, then held as a whole: in the machine's cgroup by PID 1 where the cgroup is
//! a unit's, else by its files; in its settings file by a new one that takes the old one's place last.

use std::path::{Path, PathBuf};

use super::may::may;
use super::{closest, lifetime, running};
use crate::bus::{Property, systemd};
use crate::cgroup::limits::{self, Key, Limit};
use crate::cli::Set;
use crate::error::{Context, Error, Kind, Result};
use crate::host::{First, HostFacts};
use crate::machine::record::{Record, Store};
use crate::plan::{LimitsPlan, not_held};
use crate::settings::edit::{self, Held, Replacement};
use crate::settings::search::{self, DIRECTORIES};

/// Sets limits of a machine, and keeps them in its settings file unless `--runtime` is given.
///
/// # Errors
/// A limit that is none, out of range or without its controller; what PID 1, the kernel or the disk say. Then nothing
/// was changed.
pub fn execute(options: &Set, store: &Store) -> Result<()> {
    let record = running(store, std::slice::from_ref(&options.name))?.remove(0);
    may(&record, "limit")?;
    let what = format!("cannot limit '{}'", record.name);
    change(options, &record).map_err(|error| error.within(what))
}

fn change(options: &Set, record: &Record) -> Result<()> {
    let limits = parse(&options.limits)?;
    let host = lifetime::host()?;
    let cgroup = record.cgroup.as_deref();
    let cgroup = cgroup.ok_or_else(|| Error::new(Kind::Unsupported, "it has no cgroup of its own"))?;
    let unit = unit(record, cgroup, &host);
    let first = if unit.is_some() { First::Systemd } else { First::Other };
    let plan = LimitsPlan::resolve(&limits, first, &host)?;
    // Written already when the limits change: a disk that is full is met before.
    let replacement = if options.runtime { None } else { Some(prepare(record, &limits)?) };
    match (&plan, unit) {
        (LimitsPlan::Unit { limits, properties }, Some(unit)) => {
            let before = limits::held(limits, cgroup);
            set_properties(&unit, properties)?;
            if let Err(limit) = limits::await_held(limits, cgroup) {
                // Nobody is helped by an error of this beside the other.
                let _ = LimitsPlan::resolve(&before, first, &host)
                    .and_then(|before| set_properties(&unit, before.properties()));
                return Err(not_held(limit, &unit));
            }
        }
        _ => {
            limits::write(plan.limits(), cgroup, host.memory).map_err(|refused| refused.explain(cgroup))?;
        }
    }
    replacement.map_or(Ok(()), |(replacement, path)| {
        replacement
            .commit()
            .context(|| format!("the limits hold, but cannot be kept in '{}'", path.display()))
    })
}

fn set_properties(unit: &str, properties: &[Property]) -> Result<()> {
    systemd::set_properties(unit, properties).map_err(|error| {
        Error::new(Kind::Failed, format!("cannot set properties of '{unit}'")).because(error)
    })
}

/// The unit that a machine's cgroup is, where systemd is PID 1. A machine that keeps its unit and is unknown to the bus has
/// none in its record; its cgroup has the unit's name all the same.
fn unit(record: &Record, cgroup: &Path, host: &HostFacts) -> Option<String> {
    let named = || Some(cgroup.file_name()?.to_str()?.to_owned());
    (host.first == First::Systemd).then(|| record.unit.clone().or_else(named)).flatten()
}

fn parse(arguments: &[String]) -> Result<Vec<Limit>> {
    let mut found = Vec::new();
    for argument in arguments {
        let (name, value) = argument
            .split_once('=')
            .ok_or_else(|| Error::usage(format!("'{argument}' is not KEY=VALUE, such as memory.max=2G")))?;
        let key = Key::of_file(name).ok_or_else(|| unknown(name))?;
        let parsed = limits::parse(key, value);
        limits::add(&mut found, parsed.map_err(|reason| Error::usage(argument.as_str()).because(reason))?);
    }
    Ok(found)
}

fn unknown(name: &str) -> Error {
    let error = Error::usage(format!("there is no limit '{name}'"));
    // systemd's name for it is what many have at the tip of their fingers.
    let same = Key::of_property(name).and_then(|key| Key::files().find(|(_, other)| *other == key));
    let names: Vec<_> = Key::files().map(|(name, _)| name.to_owned()).collect();
    match same.map(|(name, _)| name).or_else(|| closest(name, &names)) {
        Some(close) => error.hint(format!("did you mean '{close}'?")),
        None => error.hint(format!("there are {}", names.join(", "))),
    }
}

/// The machine's settings file with these limits in it, beside the one that there is. The file is the name's, whatever
/// image the machine runs from.
fn prepare(record: &Record, limits: &[Limit]) -> Result<(Replacement, PathBuf)> {
    let path = Path::new(DIRECTORIES[0]).join(format!("{}.nspawn", record.name));
    let cannot = || format!("cannot keep it in '{}'", path.display());
    let held = Held::take(&path).context(cannot)?;
    let text = search::read(&path)?;
    if text.is_none()
        && let Some(other) = search::find(&record.name, &record.root)?
    {
        return Err(Error::new(Kind::Failed, cannot())
            .because(format!("it would hide '{}', which would be read no more", other.path.display()))
            .hint(format!(
                "move that file to {}, or leave its settings alone with --runtime",
                DIRECTORIES[0]
            )));
    }
    let assignments: Vec<_> = limits.iter().map(Limit::setting).collect();
    let text = edit::assign(&text.unwrap_or_default(), &assignments).map_err(|malformed| {
        Error::usage(format!("{}:{}", path.display(), malformed.line)).because(malformed.reason)
    })?;
    let replacement = held.replace(&text).context(cannot)?;
    Ok((replacement, path))
}
