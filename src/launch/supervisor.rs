//! What the supervisor does for a leader while it waits: cgroup, link, unit, registration, record.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::unistd::{Gid, Uid};

use crate::bus::{BusError, Registration, Unit, UnitWanted};
use crate::cgroup::{Cgroup, limits};
use crate::error::{Context, Error, Kind, Result};
use crate::machine::record::{Clocks, Record, Stage};
use crate::machine::{Machined, Running, Tenure};
use crate::namespace;
use crate::net::{self, Veth, VethGuard};
use crate::plan::{CgroupPlan, LaunchPlan, LimitsPlan, NetworkPlan, not_held};
use crate::spec::{Program, Ready, Register};

/// Where systemd does not own the cgroups, the machine's is there before its leader, which is born in it.
pub(super) fn make_cgroup(plan: &LaunchPlan) -> Result<Option<(Cgroup, OwnedFd)>> {
    let (cgroup, what) = match &plan.cgroup {
        CgroupPlan::Scope { .. } => return Ok(None),
        CgroupPlan::Directory { mount, relative } => {
            let what = format!("cannot make the cgroup '{}'", mount.join(relative).display());
            let cgroup = Cgroup::make(mount, relative).context(|| what.as_str())?;
            // For who cleans up behind a supervisor that was killed; nobody else misses it.
            let _ = cgroup.sign(plan.name.as_str());
            (cgroup, what)
        }
        CgroupPlan::Keep { mount, relative } => {
            let what = format!("cannot use the cgroup '{}'", mount.join(relative).display());
            (adopt(mount, relative).context(|| what.as_str())?, what)
        }
    };
    limit(plan, &cgroup)?;
    let payload = cgroup.open_payload().context(|| what.as_str())?;
    delegate(plan, &cgroup)?;
    Ok(Some((cgroup, payload)))
}

fn adopt(mount: &std::path::Path, relative: &std::path::Path) -> std::io::Result<Cgroup> {
    let cgroup = Cgroup::adopt(mount, relative)?;
    cgroup.place_supervisor()?;
    Ok(cgroup)
}

/// In the machine's own directory, above what is given to its payload, which so cannot lift them.
fn limit(plan: &LaunchPlan, cgroup: &Cgroup) -> Result<()> {
    let LimitsPlan::Files { limits, memory } = &plan.limits else { return Ok(()) };
    limits::write(limits, cgroup.path(), *memory).map_err(|refused| refused.explain(cgroup.path()))
}

/// To the machine's root.
fn delegate(plan: &LaunchPlan, cgroup: &Cgroup) -> Result<()> {
    let root = plan.id_map.root();
    cgroup
        .delegate(Uid::from_raw(root), Gid::from_raw(root))
        .context(|| format!("cannot delegate the cgroup '{}'", cgroup.path().display()))
}

/// The link to the host, its other end in the leader's network namespace from the start.
pub(super) fn make_link(plan: &LaunchPlan, leader: u32) -> Result<Option<VethGuard>> {
    let NetworkPlan::Veth(veth) = &plan.network else { return Ok(None) };
    let what = || format!("cannot make the link '{}'", veth.host.name);
    let namespace = File::open(format!("/proc/{leader}/ns/net")).context(what)?;
    let link = create_link(veth, namespace.as_fd()).context(what)?;
    // systemd-networkd does it where it runs; elsewhere nobody would.
    link.set_up().context(|| format!("cannot start the link '{}'", veth.host.name))?;
    Ok(Some(link))
}

/// The link of a machine that was killed goes with its network namespace, which the kernel takes apart a while after its
/// last process: one of this name may be about to go.
fn create_link(veth: &Veth, namespace: BorrowedFd<'_>) -> io::Result<VethGuard> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match net::create_veth(veth, namespace) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// Under systemd: the unit, the registration, and then the payload's cgroup below the unit's. machined takes the unit from
/// where the leader is, so that it is told before the leader moves down.
pub(super) fn place(plan: &LaunchPlan, tenure: &mut Tenure, running: &mut Running) -> Result<()> {
    let (pid, link) = (running.leader.pid(), running.link.as_ref());
    let registration = registration(plan, pid, link);
    let Some(unit) = open_unit(plan, &registration, tenure, running.leader.pidfd())? else { return Ok(()) };
    running.unit = Some(unit.name.clone());
    register(plan, &registration, tenure, running.leader.pidfd())?;
    if let CgroupPlan::Scope { mount, .. } = &plan.cgroup {
        let what = || format!("cannot use the cgroup '{}'", unit.control_group);
        let cgroup = Cgroup::adopt(mount, unit.control_group.as_ref()).context(what)?;
        cgroup.place(pid).context(what)?;
        delegate(plan, &cgroup)?;
        running.cgroup = Some(cgroup);
    }
    await_limits(plan, running)
}

/// For a machine that comes back: its scope, before there is a leader. `keeper`, a process, is in it until there is one.
pub(super) fn prepare_scope(
    plan: &LaunchPlan,
    tenure: &mut Tenure,
    (keeper, pidfd): (u32, BorrowedFd<'_>),
) -> Result<(String, Cgroup)> {
    let CgroupPlan::Scope { mount, .. } = &plan.cgroup else {
        return Err(Error::new(Kind::Failed, "there is no scope to make"));
    };
    let unit = open_unit(plan, &registration(plan, keeper, None), tenure, pidfd)?
        .ok_or_else(|| Error::new(Kind::Unsupported, "cannot make a scope").because("there is no bus"))?;
    let what = || format!("cannot use the cgroup '{}'", unit.control_group);
    let cgroup = Cgroup::adopt(mount, unit.control_group.as_ref()).context(what)?;
    cgroup.place_supervisor().context(what)?;
    delegate(plan, &cgroup)?;
    Ok((unit.name, cgroup))
}

/// For a machine that comes back: what is told of it when its leader is there, in its place.
pub(super) fn announce(plan: &LaunchPlan, tenure: &mut Tenure, running: &mut Running) -> Result<()> {
    let registration = registration(plan, running.leader.pid(), running.link.as_ref());
    if running.unit.is_none() {
        let unit = open_unit(plan, &registration, tenure, running.leader.pidfd())?;
        running.unit = unit.map(|unit| unit.name);
    }
    if running.unit.is_some() {
        register(plan, &registration, tenure, running.leader.pidfd())?;
    }
    await_limits(plan, running)
}

fn open_unit(
    plan: &LaunchPlan,
    registration: &Registration,
    tenure: &mut Tenure,
    process: BorrowedFd<'_>,
) -> Result<Option<Unit>> {
    let Some((registrar, _)) = tenure.registrar() else { return Ok(None) };
    let unit = registrar.open_unit(registration, process);
    unit.map(Some).map_err(|error| refuse(format!("cannot {} for '{}'", unit_work(plan), plan.name), &error))
}

fn register(
    plan: &LaunchPlan,
    registration: &Registration,
    tenure: &mut Tenure,
    leader: BorrowedFd<'_>,
) -> Result<()> {
    let Some((registrar, Machined::Told)) = tenure.registrar() else { return Ok(()) };
    match registrar.register(registration, leader) {
        Err(BusError::NoMachined(_)) if plan.register == Register::Auto => Ok(()),
        result => result.map_err(|error| refuse(format!("cannot register '{}'", plan.name), &error)),
    }
}

fn await_limits(plan: &LaunchPlan, running: &Running) -> Result<()> {
    if let (LimitsPlan::Unit { limits, .. }, Some(cgroup), Some(unit)) =
        (&plan.limits, &running.cgroup, &running.unit)
    {
        limits::await_held(limits, cgroup.path()).map_err(|limit| not_held(limit, unit))?;
    }
    Ok(())
}

fn unit_work(plan: &LaunchPlan) -> &'static str {
    match plan.cgroup {
        CgroupPlan::Scope { .. } => "make a scope",
        CgroupPlan::Directory { .. } | CgroupPlan::Keep { .. } => "use the unit",
    }
}

fn refuse(what: String, error: &BusError) -> Error {
    let kind = if matches!(error, BusError::NameTaken(_)) { Kind::InUse } else { Kind::Failed };
    Error::new(kind, what).because(error)
}

fn registration(plan: &LaunchPlan, leader: u32, link: Option<&VethGuard>) -> Registration {
    let unit = match &plan.cgroup {
        CgroupPlan::Scope { slice, properties, .. } => UnitWanted::Scope {
            slice: slice.clone(),
            properties: [properties.as_slice(), plan.limits.properties()].concat(),
        },
        CgroupPlan::Directory { .. } | CgroupPlan::Keep { .. } => {
            UnitWanted::Keep { properties: plan.limits.properties().to_vec() }
        }
    };
    Registration {
        name: plan.name.to_string(),
        id: *plan.id.bytes(),
        leader,
        supervisor: std::process::id(),
        root: plan.root.tree.clone(),
        ifindices: link.iter().filter_map(|link| i32::try_from(link.index()).ok()).collect(),
        unit,
    }
}

/// The record of a machine that is about to run.
pub(super) fn describe(plan: &LaunchPlan, tenure: &mut Tenure, running: &Running) -> Result<Record> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let registered = tenure.registrar().is_some_and(|(_, machined)| machined == Machined::Told);
    Ok(Record {
        version: Record::VERSION,
        name: plan.name.to_string(),
        id: plan.id.to_string(),
        class: "container".to_owned(),
        verb: plan.verb.to_owned(),
        init: match plan.exec.program {
            Program::Init { kind, .. } => Some(kind),
            Program::Command { .. } => None,
        },
        state: match plan.up {
            Ready::AtStart => Stage::Running,
            Ready::WhenPayloadSays => Stage::Starting,
        },
        leader: running.leader.pid(),
        supervisor: std::process::id(),
        owner: nix::unistd::getuid().as_raw(),
        root: plan.root.tree.clone(),
        os: plan.root.os.clone(),
        unit: running.unit.clone(),
        registered,
        cgroup: running.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()),
        users: plan.id_map.range(),
        namespaces: namespace::read_ids(running.leader.pid())
            .context(|| "cannot read the machine's namespaces")?,
        clocks: Clocks {
            monotonic_offset_ns: plan.clocks.monotonic,
            boottime_offset_ns: plan.clocks.boottime,
        },
        checkpointable: running.checkpointable,
        links: running.link.iter().map(|link| link.name().to_owned()).collect(),
        started: u64::try_from(started).unwrap_or(0),
        started_monotonic: u64::try_from(Duration::try_from(monotonic).unwrap_or_default().as_micros())
            .unwrap_or(0),
    })
}
