//! What the supervisor does for a leader while it waits: cgroup, link, unit, registration, record.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::unistd::{Gid, Uid};

use crate::bus::{self, BusError, Property, Registration, UnitWanted};
use crate::cgroup::Cgroup;
use crate::error::{Context, Error, Kind, Result};
use crate::machine::record::{Clocks, Record};
use crate::machine::{CgroupGuard, Machined, Running, Tenure};
use crate::namespace;
use crate::net::{self, VethGuard};
use crate::plan::{CgroupPlan, LaunchPlan, NetworkPlan};
use crate::spec::Register;

/// Where systemd does not own the cgroups, the machine's is there before its leader, which is born in it.
pub(super) fn make_cgroup(plan: &LaunchPlan) -> Result<Option<(CgroupGuard, OwnedFd)>> {
    let (cgroup, what) = match &plan.cgroup {
        CgroupPlan::Scope { .. } => return Ok(None),
        CgroupPlan::Directory { mount, relative } => {
            let what = format!("cannot make the cgroup '{}'", mount.join(relative).display());
            (Cgroup::make(mount, relative).context(|| what.as_str())?, what)
        }
        CgroupPlan::Keep { mount, relative } => {
            let what = format!("cannot use the cgroup '{}'", mount.join(relative).display());
            (adopt(mount, relative).context(|| what.as_str())?, what)
        }
    };
    let guard = CgroupGuard::new(cgroup);
    let payload = guard.open_payload().context(|| what.as_str())?;
    delegate(&guard)?;
    Ok(Some((guard, payload)))
}

fn adopt(mount: &std::path::Path, relative: &std::path::Path) -> std::io::Result<Cgroup> {
    let cgroup = Cgroup::adopt(mount, relative)?;
    cgroup.place_supervisor()?;
    Ok(cgroup)
}

/// To root for now: with a private user namespace it is the machine's root.
fn delegate(cgroup: &CgroupGuard) -> Result<()> {
    cgroup
        .delegate(Uid::from_raw(0), Gid::from_raw(0))
        .context(|| format!("cannot delegate the cgroup '{}'", cgroup.path().display()))
}

/// The link to the host, its other end in the leader's network namespace from the start.
pub(super) fn make_link(plan: &LaunchPlan, leader: u32) -> Result<Option<VethGuard>> {
    let NetworkPlan::Veth(veth) = &plan.network else { return Ok(None) };
    let what = || format!("cannot make the link '{}'", veth.host.name);
    let namespace = File::open(format!("/proc/{leader}/ns/net")).context(what)?;
    let link = net::create_veth(veth, namespace.as_fd()).context(what)?;
    // systemd-networkd does it where it runs; elsewhere nobody would.
    link.set_up().context(|| format!("cannot start the link '{}'", veth.host.name))?;
    Ok(Some(link))
}

/// Under systemd: the unit, the registration, and then the payload's cgroup below the unit's. machined takes the unit from
/// where the leader is, so that it is told before the leader moves down.
pub(super) fn place(plan: &LaunchPlan, tenure: &mut Tenure, running: &mut Running) -> Result<()> {
    let Some((registrar, machined)) = tenure.registrar() else { return Ok(()) };
    let registration = registration(plan, running)?;
    let name = &plan.name;
    let unit = registrar
        .open_unit(&registration, running.leader.pidfd())
        .map_err(|error| refuse(format!("cannot make a scope for '{name}'"), &error))?;
    running.unit = Some(unit.name);
    if machined == Machined::Told {
        match registrar.register(&registration, running.leader.pidfd()) {
            Err(BusError::NoMachined(_)) if plan.register == Register::Auto => {}
            result => result.map_err(|error| refuse(format!("cannot register '{name}'"), &error))?,
        }
    }
    if let CgroupPlan::Scope { mount, .. } = &plan.cgroup {
        let what = || format!("cannot use the cgroup '{}'", unit.control_group);
        let relative = unit.control_group.trim_start_matches('/');
        let cgroup = CgroupGuard::new(Cgroup::adopt(mount, relative.as_ref()).context(what)?);
        cgroup.place(running.leader.pid()).context(what)?;
        cgroup.enable_controllers();
        delegate(&cgroup)?;
        running.cgroup = Some(cgroup);
    }
    Ok(())
}

fn refuse(what: String, error: &BusError) -> Error {
    let kind = if matches!(error, BusError::NameTaken(_)) { Kind::InUse } else { Kind::Failed };
    Error::new(kind, what).because(error)
}

fn registration(plan: &LaunchPlan, running: &Running) -> Result<Registration> {
    let unit = match &plan.cgroup {
        CgroupPlan::Scope { slice, properties, .. } => UnitWanted::Scope {
            slice: slice.clone(),
            properties: properties
                .iter()
                .map(|text| {
                    Property::parse(text).map_err(|reason| Error::usage(format!("--property={text}")).because(reason))
                })
                .collect::<Result<_>>()?,
        },
        CgroupPlan::Directory { .. } | CgroupPlan::Keep { .. } => UnitWanted::Keep,
    };
    Ok(Registration {
        name: plan.name.to_string(),
        id: *plan.id.bytes(),
        leader: running.leader.pid(),
        supervisor: std::process::id(),
        root: plan.root.tree.clone(),
        ifindices: running.link.iter().filter_map(|link| i32::try_from(link.index()).ok()).collect(),
        unit,
    })
}

/// The record of a machine that is about to run.
pub(super) fn describe(plan: &LaunchPlan, tenure: &mut Tenure, running: &Running) -> Result<Record> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let registered = tenure.registrar().is_some_and(|(_, machined)| machined == Machined::Told);
    Ok(Record {
        version: Record::VERSION,
        name: plan.name.to_string(),
        id: plan.id.to_string(),
        class: "container".to_owned(),
        verb: plan.verb.to_owned(),
        leader: running.leader.pid(),
        supervisor: std::process::id(),
        root: plan.root.tree.clone(),
        os: plan.root.os.clone(),
        unit: running.unit.clone(),
        registered,
        cgroup: running.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()),
        namespaces: namespace::read_ids(running.leader.pid()).context(|| "cannot read the machine's namespaces")?,
        clocks: Clocks { monotonic_offset_ns: plan.clocks.monotonic, boottime_offset_ns: plan.clocks.boottime },
        links: running.link.iter().map(|link| link.name().to_owned()).collect(),
        started: u64::try_from(started).unwrap_or(0),
    })
}

/// What can be said about a scope's properties before there is one.
pub fn check_properties(properties: &[String]) -> Result<()> {
    properties.iter().try_for_each(|text| {
        bus::Property::parse(text)
            .map(drop)
            .map_err(|reason| Error::usage(format!("--property={text}")).because(reason))
    })
}
