//! The machine that a name stands for, as the reading verbs see it: one of osier's, or one that only machined knows.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{age, image_os, schema, unknown};
use crate::bus;
use crate::bus::machined::{self, Machine};
use crate::clock::{Now, Offsets};
use crate::error::Result;
use crate::machine::record::{Clocks, Record, Store};
use crate::mount::table;

/// A machine that runs.
#[derive(Debug)]
pub(super) enum Subject {
    /// One that osier booted.
    Own(Box<Record>),
    /// One that something else registered with machined.
    Others(Box<Machine>),
}

/// What the names stand for; all of them run, or it is an error.
pub(super) fn find(store: &Store, names: &[String]) -> Result<Vec<Subject>> {
    names.iter().map(|name| find_one(store, name)).collect()
}

/// All machines that run, by name; what registered itself as the host is none. A bus that does not answer hides the others,
/// not osier's own.
///
/// # Errors
/// When records cannot be read.
pub(super) fn all(store: &Store) -> Result<Vec<Subject>> {
    let mut all: Vec<_> = store.list()?.into_iter().map(|record| Subject::Own(Box::new(record))).collect();
    let own: HashSet<_> = all.iter().map(|subject| subject.name().to_owned()).collect();
    let others: HashSet<_> = machined::names().into_iter().filter(|name| !own.contains(name)).collect();
    // To open the bus takes longer than all else: only where there is something to ask.
    if !others.is_empty() && bus::available() {
        let others = machined::list(&|name| others.contains(name)).unwrap_or_default();
        all.extend(others.into_iter().map(|machine| Subject::Others(Box::new(machine))));
        all.sort_by(|one, other| one.name().cmp(other.name()));
    }
    Ok(all)
}

fn find_one(store: &Store, name: &str) -> Result<Subject> {
    if let Some(record) = store.read(name) {
        return Ok(Subject::Own(Box::new(record)));
    }
    let known = if bus::available() { machined::get(name).ok().flatten() } else { None };
    known.map(|machine| Subject::Others(Box::new(machine))).ok_or_else(|| unknown(store, name))
}

impl Subject {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Own(record) => &record.name,
            Self::Others(machine) => &machine.name,
        }
    }

    /// All that `osier show --json` prints.
    pub(super) fn shown(&self) -> schema::Shown {
        match self {
            Self::Own(record) => schema::Shown::Own(Box::new(schema::Own {
                service: super::SERVICE.to_owned(),
                moment: moment(record.started, Some(record.clocks)),
                record: Record::clone(record),
            })),
            Self::Others(machine) => schema::Shown::Others(Box::new(others(machine))),
        }
    }
}

fn others(machine: &Machine) -> schema::Others {
    let clocks = Offsets::read(machine.leader).ok().map(|offsets| Clocks {
        monotonic_offset_ns: offsets.monotonic,
        boottime_offset_ns: offsets.boottime,
    });
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    schema::Others {
        version: schema::VERSION,
        name: machine.name.clone(),
        id: text(&machine.id),
        class: machine.class.clone(),
        service: machine.service.clone(),
        state: machine.state.clone(),
        leader: machine.leader,
        root: machine.root.clone(),
        os: machine.root.as_deref().and_then(image_os),
        unit: text(&machine.unit),
        cgroup: cgroup(machine),
        links: machine.ifindices.iter().filter_map(|index| link(*index)).collect(),
        started: machine.started,
        started_monotonic: machine.started_monotonic,
        clocks,
        moment: moment(machine.started, clocks),
    }
}

/// A machine's clocks now. Without its offsets, which a caller who is not root may not see, there are none.
fn moment(started: u64, clocks: Option<Clocks>) -> schema::Moment {
    let now = clocks.and_then(|clocks| Some((clocks, Now::read().ok()?)));
    schema::Moment {
        uptime_usec: u64::try_from(age::since(started).as_micros()).unwrap_or(u64::MAX),
        clocks_now: now.map(|(clocks, now)| schema::ClocksNow {
            monotonic_ns: now.monotonic.saturating_add(clocks.monotonic_offset_ns),
            boottime_ns: now.boottime.saturating_add(clocks.boottime_offset_ns),
        }),
    }
}

/// The name of a host's interface by its index.
fn link(index: i32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(u32::try_from(index).ok()?).ok()?;
    name.into_string().ok()
}

/// The directory of the machine's unit: the leader's own or one above it, as deep as the unit's name stands.
pub(super) fn cgroup(machine: &Machine) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", machine.leader)).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let unit = Path::new(path).ancestors().find(|above| above.ends_with(&machine.unit));
    let unit = unit.filter(|_| !machine.unit.is_empty())?;
    let mount = table::find_whole(&table::read().ok()?, "cgroup2").ok()??;
    Some(mount.join(unit))
}
