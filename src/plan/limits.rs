//! Who limits a machine: PID 1 where the cgroup is a unit's, else osier by the cgroup's files.

use crate::bus::Property;
use crate::cgroup::limits::Limit;
use crate::error::{Error, Kind, Result};
use crate::host::{First, HostFacts};
use crate::spec::{MachineSpec, Unit};

/// What a machine may use at most, and who sees to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitsPlan {
    /// osier writes them to the machine's directory.
    Files {
        /// The limits.
        limits: Vec<Limit>,
        /// The host's memory, bytes: what a percentage is of.
        memory: u64,
    },
    /// They are properties of the unit.
    Unit {
        /// The limits.
        limits: Vec<Limit>,
        /// The same for PID 1.
        properties: Vec<Property>,
    },
}

impl LimitsPlan {
    /// The limits.
    pub fn limits(&self) -> &[Limit] {
        match self {
            Self::Files { limits, .. } | Self::Unit { limits, .. } => limits,
        }
    }

    /// What PID 1 is told; nothing where osier writes files.
    pub fn properties(&self) -> &[Property] {
        match self {
            Self::Files { .. } => &[],
            Self::Unit { properties, .. } => properties,
        }
    }

    /// Plans `limits` for a machine whose cgroup belongs to a unit of systemd's, or to nobody but osier.
    ///
    /// # Errors
    /// A controller that cgroup2 does not have on this host.
    pub fn resolve(limits: &[Limit], first: First, host: &HostFacts) -> Result<Self> {
        require_controllers(limits, host)?;
        let limits: Vec<_> = limits.iter().map(|limit| said_in_full(limit, host)).collect();
        if first == First::Other {
            return Ok(Self::Files { limits, memory: host.memory });
        }
        let property = |limit: &Limit| {
            let (name, value) = limit.setting();
            Property::parse(&format!("{name}={value}"))
                .map_err(|reason| Error::usage(format!("cannot set {limit}")).because(reason))
        };
        let properties = limits.iter().map(property).collect::<Result<_>>()?;
        Ok(Self::Unit { limits, properties })
    }
}

/// All processors by their numbers: the kernel does not let the list of a cgroup with processes be emptied (`ENOSPC`;
/// kernel/cgroup/cpuset.c, validate_change).
fn said_in_full(limit: &Limit, host: &HostFacts) -> Limit {
    match limit {
        Limit::Cpus(list) if list.is_empty() => Limit::Cpus(host.cpus.clone()),
        Limit::Mems(list) if list.is_empty() => Limit::Mems(host.mems.clone()),
        _ => limit.clone(),
    }
}

pub(super) fn resolve(spec: &MachineSpec, host: &HostFacts) -> Result<LimitsPlan> {
    let plan = LimitsPlan::resolve(&spec.limits, host.first, host)?;
    let in_root = host.own_cgroup.as_os_str().is_empty();
    match (&spec.unit, &plan) {
        (Unit::Keep, LimitsPlan::Files { limits, .. }) if in_root && !limits.is_empty() => {
            Err(Error::new(Kind::Unsupported, format!("cannot set {}", limits[0].file()))
                .because("osier runs in the root of cgroup2, which has no limits")
                .hint("leave out --keep-unit"))
        }
        _ => Ok(plan),
    }
}

/// What the operator reads of a limit that PID 1 took and the kernel did not.
pub fn not_held(limit: &Limit, unit: &str) -> Error {
    Error::new(Kind::Failed, format!("cannot set {limit}"))
        .because(format!("systemd took it for '{unit}', and it does not hold there"))
        .hint("journalctl _PID=1 has what the kernel said")
}

/// Refuses limits whose controller cgroup2 does not have on this host.
///
/// # Errors
/// Which controller that is, and who has it.
pub fn require_controllers(limits: &[Limit], host: &HostFacts) -> Result<()> {
    let is_there = |limit: &&Limit| host.controllers.iter().any(|name| name == limit.controller());
    let Some(limit) = limits.iter().find(|limit| !is_there(limit)) else { return Ok(()) };
    let (controller, mount) = (limit.controller(), host.cgroup2.as_deref());
    let place = mount.map_or_else(|| "cgroup2".to_owned(), |mount| format!("cgroup2 at {}", mount.display()));
    let error = Error::new(Kind::Unsupported, format!("cannot set {}", limit.file()));
    if host.controllers_v1.iter().any(|name| name == controller) {
        return Err(error
            .because(format!("{place} has no {controller} controller: version 1 of cgroups has it"))
            .hint("boot the host with cgroup_no_v1=all"));
    }
    Err(error
        .because(format!("{place} has no {controller} controller"))
        .hint("see `osier check`; the host's kernel lacks it or was told to disable it (cgroup_disable=)"))
}
