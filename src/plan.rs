//! The launch plan: everything decided, nothing done. Printed, it is `--dry-run`.

mod checkpoint;
mod files;
mod limits;
mod text;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::bus::Property;
use crate::caps;
use crate::clock::Offsets;
use crate::console::Mode;
use crate::error::{Error, Kind, Result};
use crate::host::{First, HostFacts};
use crate::idrange::IdRange;
use crate::ids::MachineId;
use crate::mount::op::Op;
use crate::name::MachineName;
use crate::namespace::{self, Namespaces};
use crate::net::Veth;
use crate::seccomp::Filter;
use crate::spec::{
    Checkpoints, ClockNeed, Clocks, Keep, MachineSpec, Network, Ownership, Program, Ready, Register, Root,
    Unit, Users, Ways,
};

/// Everything that a launch does.
#[derive(Debug, Clone)]
pub struct LaunchPlan {
    /// The machine's name.
    pub name: MachineName,
    /// Its machine ID.
    pub id: MachineId,
    /// `boot` or `run`.
    pub verb: &'static str,
    /// Its host name.
    pub hostname: String,
    /// The namespaces of its own.
    pub namespaces: Namespaces,
    /// How its user and group IDs map to the host's.
    pub id_map: IdMap,
    /// The offsets of its time namespace.
    pub clocks: Offsets,
    /// Where they go on from, for a machine whose clocks are kept.
    pub kept_clocks: Option<KeptClocks>,
    /// Its root.
    pub root: Root,
    /// Steps before the leader is there; inside the root.
    pub outer: Vec<Op>,
    /// Steps after all of these, which close it.
    pub inside: Vec<Op>,
    /// Steps that need the leader's pid, network, IPC and cgroup namespaces.
    pub leader: Vec<Op>,
    /// Its network.
    pub network: NetworkPlan,
    /// Its cgroup.
    pub cgroup: CgroupPlan,
    /// What it may use at most.
    pub limits: LimitsPlan,
    /// Whether machined is told.
    pub register: Register,
    /// Its console.
    pub console: Mode,
    /// Whether it can be saved and restored.
    pub checkpoints: Checkpoints,
    /// What its payload cannot do.
    pub confinement: Confinement,
    /// What is executed.
    pub exec: Exec,
    /// How its first process is asked to go down.
    pub ways: Ways,
    /// When the service manager is told READY=1.
    pub ready: Ready,
    /// When it is said to run, no longer to start.
    pub up: Ready,
}

/// Clocks that go on from where they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptClocks {
    /// The file that says where that was, and is kept in step.
    pub path: PathBuf,
    /// What CLOCK_MONOTONIC starts at, in nanoseconds.
    pub monotonic: i64,
    /// What CLOCK_BOOTTIME starts at, in nanoseconds.
    pub boottime: i64,
}

impl KeptClocks {
    fn of(spec: &MachineSpec, host: &HostFacts, offsets: Offsets) -> Option<Self> {
        let Keep::In(path) = &spec.clocks.keep else { return None };
        Some(Self {
            path: path.clone(),
            monotonic: host.now.monotonic.saturating_add(offsets.monotonic),
            boottime: host.now.boottime.saturating_add(offsets.boottime),
        })
    }
}

/// How user and group IDs map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdMap {
    /// No user namespace: the host's.
    Host,
    /// To these of the host, in a user namespace.
    Private {
        /// Which.
        range: IdRange,
        /// Whose files the tree has.
        tree: Ownership,
    },
}

impl IdMap {
    /// The range of a machine with IDs of its own.
    pub fn range(self) -> Option<IdRange> {
        match self {
            Self::Host => None,
            Self::Private { range, .. } => Some(range),
        }
    }

    /// The host's ID of the machine's root.
    pub fn root(self) -> u32 {
        self.range().map_or(0, IdRange::first)
    }
}

/// A machine's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkPlan {
    /// The host's.
    Host,
    /// A loopback.
    Loopback,
    /// A loopback and a link to the host.
    Veth(Veth),
}

/// Where a machine's processes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupPlan {
    /// In a directory that osier makes below the cgroup2 mount.
    Directory {
        /// Where cgroup2 is mounted.
        mount: PathBuf,
        /// Below it.
        relative: PathBuf,
    },
    /// In a scope that systemd makes.
    Scope {
        /// Where cgroup2 is mounted.
        mount: PathBuf,
        /// Its slice.
        slice: String,
        /// Further properties.
        properties: Vec<Property>,
    },
    /// In the cgroup that osier runs in, as a service with Delegate=yes.
    Keep {
        /// Where cgroup2 is mounted.
        mount: PathBuf,
        /// The unit's directory below it.
        relative: PathBuf,
    },
}

/// What a payload cannot do. The device policy and no_new_privs have their place here.
#[derive(Debug, Clone)]
pub struct Confinement {
    /// The capability bounding set.
    pub capabilities: caps::Set,
    /// The system calls that are refused.
    pub system_calls: Filter,
}

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The program, and who is PID 1.
    pub program: Program,
    /// The environment, whole but for what depends on the user.
    pub environment: Vec<(String, OsString)>,
    /// Working directory inside; the user's home for `None`.
    pub directory: Option<PathBuf>,
    /// User inside, by name or number.
    pub user: String,
}

impl LaunchPlan {
    /// Decides everything about launching `spec` on `host`.
    ///
    /// # Errors
    /// What the host cannot do, and how that can be helped.
    pub fn resolve(spec: &MachineSpec, host: &HostFacts) -> Result<Self> {
        if host.uid != 0 {
            return Err(Error::new(Kind::Permission, "must be root")
                .hint("run osier as root, for instance with sudo"));
        }
        let namespaces = resolve_namespaces(spec, host)?;
        let clocks = resolve_clocks(spec, host, &namespaces)?;
        Ok(Self {
            name: spec.name.clone(),
            id: spec.id,
            verb: spec.verb(),
            hostname: spec.hostname.clone(),
            id_map: resolve_ids(spec, host)?,
            kept_clocks: KeptClocks::of(spec, host, clocks),
            clocks,
            root: spec.root.clone(),
            outer: files::outer(spec, host),
            inside: files::inside(spec),
            leader: files::leader(spec),
            network: match spec.network {
                Network::Host => NetworkPlan::Host,
                Network::None => NetworkPlan::Loopback,
                Network::Veth => NetworkPlan::Veth(Veth::plan(&spec.name, host.machine_id.as_ref())),
            },
            cgroup: resolve_cgroup(spec, host)?,
            limits: limits::resolve(spec, host)?,
            register: spec.register,
            console: spec.console,
            checkpoints: spec.checkpoints,
            confinement: Confinement {
                capabilities: spec.capabilities,
                system_calls: match spec.checkpoints {
                    Checkpoints::Possible => Filter::Checkpointable,
                    Checkpoints::Impossible => Filter::None,
                },
            },
            exec: resolve_exec(spec, host),
            ways: spec.ways,
            ready: spec.ready,
            up: spec.up,
            namespaces,
        })
    }
}

fn resolve_namespaces(spec: &MachineSpec, host: &HostFacts) -> Result<Namespaces> {
    if !host.time_namespaces && spec.clocks.need == ClockNeed::Namespace {
        return Err(Error::new(Kind::Unsupported, "cannot give the machine clocks of its own")
            .because("this kernel has no time namespaces (CONFIG_TIME_NS)")
            .hint("--clock=host leaves the clocks as the host's"));
    }
    if !host.time_namespaces && spec.checkpoints == Checkpoints::Possible {
        return Err(Error::new(Kind::Unsupported, "cannot make a machine that can be saved")
            .because("this kernel has no time namespaces (CONFIG_TIME_NS): its clocks would jump"));
    }
    Ok(Namespaces::of(|kind| match kind {
        namespace::Kind::User => spec.users != Users::Host,
        namespace::Kind::Net => spec.network != Network::Host,
        namespace::Kind::Time => host.time_namespaces,
        _ => true,
    }))
}

fn resolve_ids(spec: &MachineSpec, host: &HostFacts) -> Result<IdMap> {
    let range = match spec.users {
        Users::Host => return Ok(IdMap::Host),
        Users::Fixed(range, _) | Users::Picked(Some(range), _) => range,
        Users::Picked(None, _) => {
            return Err(Error::new(Kind::InUse, "cannot give the machine users of its own")
                .because("no range of user IDs is free")
                .hint("--private-users=UID takes one that you know to be free"));
        }
    };
    if !host.user_namespaces {
        return Err(Error::new(Kind::Unsupported, "cannot give the machine users of its own")
            .because("this kernel has no user namespaces (CONFIG_USER_NS)"));
    }
    Ok(IdMap::Private { range, tree: spec.root.owners })
}

fn resolve_clocks(spec: &MachineSpec, host: &HostFacts, namespaces: &Namespaces) -> Result<Offsets> {
    if !namespaces.has(namespace::Kind::Time) {
        return Ok(host.now.own);
    }
    let Clocks { monotonic, boottime, keep, .. } = &spec.clocks;
    host.now.resolve_both(*monotonic, *boottime).map_err(|range| match keep {
        Keep::No => Error::usage("cannot set the machine's clocks").because(range),
        Keep::In(path) => {
            Error::new(Kind::Failed, format!("cannot continue the clocks in '{}'", path.display()))
                .because(range)
                .hint("--clock=zero starts them anew")
        }
    })
}

fn resolve_cgroup(spec: &MachineSpec, host: &HostFacts) -> Result<CgroupPlan> {
    let mount = host.cgroup2.clone().ok_or_else(|| {
        Error::new(Kind::Unsupported, "cannot find a cgroup2 file system")
            .hint("mount one with: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
    })?;
    Ok(match &spec.unit {
        Unit::Scope { slice, properties } if host.first == First::Systemd => {
            CgroupPlan::Scope { mount, slice: slice.clone(), properties: properties.clone() }
        }
        Unit::Scope { properties, .. } if !properties.is_empty() => {
            return Err(Error::new(
                Kind::Unsupported,
                format!("cannot set '{}' for the machine's scope", properties[0].name()),
            )
            .because("systemd is not PID 1 on this host"));
        }
        Unit::Scope { slice, .. } => CgroupPlan::Directory {
            mount,
            relative: slice_directory(slice).join(format!("machine-{}.scope", spec.name)),
        },
        Unit::Keep => CgroupPlan::Keep { mount, relative: kept(host)? },
    })
}

/// The directory of the unit that osier runs in.
fn kept(host: &HostFacts) -> Result<PathBuf> {
    let own = &host.own_cgroup;
    match (&host.delegated, host.first) {
        (Some(unit), _) => Ok(unit.clone()),
        // What is not delegated is PID 1's, a session of somebody's perhaps, whose processes are not ours to move.
        (None, First::Systemd) => {
            Err(Error::new(Kind::Unsupported, format!("cannot keep the unit of '/{}'", own.display()))
                .because("systemd has not delegated its cgroup")
                .hint("set Delegate=yes in the unit, or leave out --keep-unit"))
        }
        (None, First::Other) => {
            let below = own.file_name().is_some_and(|name| name == "supervisor");
            Ok(if below { own.parent().unwrap_or(own) } else { own }.to_owned())
        }
    }
}

/// The directory of a slice: `machine-web.slice` is in `machine.slice` (man 5 systemd.slice).
fn slice_directory(slice: &str) -> PathBuf {
    let name = slice.trim_end_matches(".slice");
    if name == "-" {
        return PathBuf::new();
    }
    name.char_indices()
        .filter(|(_, char)| *char == '-')
        .map(|(at, _)| &name[..at])
        .chain([name])
        .map(|part| format!("{part}.slice"))
        .collect()
}

fn resolve_exec(spec: &MachineSpec, host: &HostFacts) -> Exec {
    let mut environment: Vec<(String, OsString)> = vec![
        ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
        ("container".to_owned(), "osier".into()),
        ("container_uuid".to_owned(), spec.id.as_uuid().into()),
    ];
    environment.extend(host.identity().into_iter().map(|(key, value)| (key, value.into())));
    if matches!(spec.payload.program, Program::Init { .. }) {
        environment.push(("NOTIFY_SOCKET".to_owned(), files::NOTIFY_SOCKET.into()));
    }
    if checkpoint::has_systemd(spec) {
        environment.push(checkpoint::pressure());
    }
    if spec.console == Mode::Interactive {
        environment.push(("TERM".to_owned(), host.term.clone().unwrap_or_else(|| "vt220".to_owned()).into()));
    }
    for (key, value) in &spec.payload.environment {
        environment.retain(|(known, _)| known != key);
        environment.push((key.clone(), value.clone()));
    }
    Exec {
        program: spec.payload.program.clone(),
        environment,
        directory: spec.payload.directory.clone(),
        user: spec.payload.user.clone(),
    }
}

pub use limits::{LimitsPlan, not_held, require_controllers};

pub use files::{NOTIFY_SOCKET, propagation_directory};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_in_the_slices_that_its_name_says() {
        assert_eq!(slice_directory("machine.slice"), PathBuf::from("machine.slice"));
        assert_eq!(
            slice_directory("machine-web-a.slice"),
            PathBuf::from("machine.slice/machine-web.slice/machine-web-a.slice")
        );
        assert_eq!(slice_directory("-.slice"), PathBuf::new());
    }
}
