//! The machine that is wanted: total and valid. No field means "default" any more; what cannot be is refused here, before
//! anything on the host changes.

mod checkpoint;
mod clocks;
mod mounts;
mod unit;
mod users;
mod ways;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::bus::Property;
use crate::caps;
use crate::cgroup::limits::Limit;
use crate::console::{Asked, Mode, Terminals};
use crate::error::{Error, Result};
use crate::ids::MachineId;
use crate::image::{FoundInit, Init};
use crate::mount::op::Access;
use crate::name::MachineName;
use crate::settings::{Origin, Setting, Settings};

pub use checkpoint::Checkpoints;
pub use clocks::{ClockNeed, Clocks, Keep};
pub use mounts::{ExtraMount, parse_inside};
pub use users::{Ownership, Users};
pub use ways::Ways;

/// A machine as it is to be.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// Its name.
    pub name: MachineName,
    /// Its machine ID.
    pub id: MachineId,
    /// Its host name.
    pub hostname: String,
    /// What it runs from.
    pub root: Root,
    /// Whose user and group IDs it has.
    pub users: Users,
    /// What its first process is.
    pub payload: Payload,
    /// What its clocks start at.
    pub clocks: Clocks,
    /// Its network.
    pub network: Network,
    /// Its console.
    pub console: Mode,
    /// Mounts beyond the ones that every machine has.
    pub mounts: Vec<ExtraMount>,
    /// The capability bounding set.
    pub capabilities: caps::Set,
    /// Whether it can be saved and restored.
    pub checkpoints: Checkpoints,
    /// What of /sys and /proc/sys can be written to.
    pub api_vfs: ApiVfs,
    /// The unit that holds it where systemd is PID 1.
    pub unit: Unit,
    /// What it may use at most.
    pub limits: Vec<Limit>,
    /// Whether machined is told.
    pub register: Register,
    /// How its first process is asked to go down.
    pub ways: Ways,
    /// When the service manager is told READY=1.
    pub ready: Ready,
    /// When it is said to run, no longer to start.
    pub up: Ready,
}

/// What a machine runs from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The tree, absolute and canonical.
    pub tree: PathBuf,
    /// Whose it is, a user ID of the host's.
    pub owner: u32,
    /// How its files become those of a machine with users of its own; as they are until that is decided.
    pub owners: Ownership,
    /// Whether the machine's root can be written to.
    pub access: Access,
    /// Where what it writes goes.
    pub layer: Layer,
    /// `PRETTY_NAME` of its os-release.
    pub os: Option<String>,
}

/// Where what a machine writes goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Into the tree.
    Tree,
    /// Into a layer in memory over it, gone with the machine.
    Scratch,
}

/// What a machine's first process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// An init, or a command.
    pub program: Program,
    /// The environment asked for, in addition to what every payload gets; later ones win.
    pub environment: Vec<(String, OsString)>,
    /// Working directory inside; the user's home for `None` of a command, `/` of an init.
    pub directory: Option<PathBuf>,
    /// User inside, by name or number.
    pub user: String,
}

/// An init, or a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// `boot`: the tree's init, at this path, with these arguments.
    Init {
        /// Path inside.
        path: PathBuf,
        /// What it is.
        kind: Init,
        /// Its arguments, without its name.
        arguments: Vec<OsString>,
    },
    /// `run`: a command, looked up in PATH inside when it has no `/`.
    Command {
        /// It and its arguments; never empty.
        argv: Vec<OsString>,
        /// Who is PID 1.
        first: First,
    },
}

/// Who is PID 1 when a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// The command.
    Command,
    /// A stub init that reaps; the command is PID 2.
    Stub,
}

/// A machine's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The host's.
    Host,
    /// Its own, with a loopback alone.
    None,
    /// Its own, with a link to the host.
    Veth,
}

/// What of /sys and /proc/sys a machine can write to (SYSTEMD_NSPAWN_API_VFS_WRITABLE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiVfs {
    /// Nothing.
    ReadOnly,
    /// /proc/sys/net.
    Network,
    /// All.
    ReadWrite,
}

/// The unit that holds a machine where systemd is PID 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unit {
    /// A scope of its own; without systemd the same names are directories.
    Scope {
        /// Its slice.
        slice: String,
        /// Further properties.
        properties: Vec<Property>,
    },
    /// The one that osier was started in.
    Keep,
}

/// Whether machined is told of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// It must be.
    Yes,
    /// It is not.
    No,
    /// Where it is there.
    Auto,
}

/// When a machine counts as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// As soon as the payload runs.
    AtStart,
    /// When the payload's init says so.
    WhenPayloadSays,
}

/// What is known of the tree and of the caller when a spec is made.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The tree, absolute and canonical.
    pub tree: PathBuf,
    /// The name that follows from its path.
    pub name: String,
    /// `PRETTY_NAME` of its os-release.
    pub os: Option<String>,
    /// Its init; of interest to `boot` only.
    pub init: Option<FoundInit>,
    /// Whose the tree is, a user ID of the host's.
    pub owner: u32,
    /// What its /etc/machine-id says.
    pub machine_id: Option<MachineId>,
    /// A random machine ID, for a tree that has none.
    pub random_id: MachineId,
    /// The caller's terminals.
    pub terminals: Terminals,
}

impl MachineSpec {
    /// Decides what the settings, the tree and the caller's terminal amount to; `facts.init` makes it a `boot`.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] with the origin of the setting that cannot be.
    pub fn resolve(settings: &Settings, facts: &Facts) -> Result<Self> {
        let boot = facts.init.is_some();
        let name = resolve_name(settings, facts)?;
        let network = resolve_network(&settings.network, boot)?;
        let users = users::resolve(settings, facts)?;
        let tells = facts.init.as_ref().is_some_and(|found| found.init.tells_ready());
        let ready = match &settings.notify_ready {
            Some(setting) if is_yes(setting) == Some(true) => Ready::WhenPayloadSays,
            Some(setting) if setting.text == "auto" && tells => Ready::WhenPayloadSays,
            _ => Ready::AtStart,
        };
        let spec = Self {
            id: resolve_id(settings.uuid.as_ref(), facts)?,
            hostname: settings.hostname.as_ref().map_or_else(|| Ok(name.to_string()), parse_hostname)?,
            root: Root {
                tree: facts.tree.clone(),
                owner: facts.owner,
                owners: Ownership::AsItIs,
                access: if is_on(settings.read_only.as_ref()) { Access::ReadOnly } else { Access::ReadWrite },
                layer: if is_on(settings.ephemeral.as_ref()) { Layer::Scratch } else { Layer::Tree },
                os: facts.os.clone(),
            },
            users,
            payload: resolve_payload(settings, facts)?,
            clocks: clocks::resolve(settings, facts)?,
            network,
            console: resolve_console(settings.console.as_ref(), facts.terminals, boot)?,
            mounts: mounts::resolve(settings, users)?,
            capabilities: resolve_capabilities(settings, network)?,
            checkpoints: Checkpoints::resolve(settings),
            api_vfs: match settings.api_vfs.as_ref().map(|setting| setting.text.as_str()) {
                Some("ro") => ApiVfs::ReadOnly,
                Some("rw") => ApiVfs::ReadWrite,
                Some(_) => ApiVfs::Network,
                None if network == Network::Host => ApiVfs::ReadOnly,
                None => ApiVfs::Network,
            },
            unit: unit::resolve(settings)?,
            limits: Self::resolve_limits(settings)?,
            register: match settings.register.as_ref().map(is_yes) {
                Some(Some(true)) => Register::Yes,
                Some(Some(false)) => Register::No,
                _ => Register::Auto,
            },
            ways: ways::resolve(settings.kill_signal.as_ref(), facts)?,
            ready,
            // Who asks to be told by any other init knows that it tells.
            up: if tells { Ready::WhenPayloadSays } else { ready },
            name,
        };
        checkpoint::check(&spec, settings)?;
        Ok(spec)
    }

    /// The limits that the settings amount to.
    ///
    /// # Errors
    /// As [`MachineSpec::resolve`].
    pub fn resolve_limits(settings: &Settings) -> Result<Vec<Limit>> {
        unit::resolve_limits(settings)
    }

    /// `boot` or `run`: the verb that made it.
    pub fn verb(&self) -> &'static str {
        match self.payload.program {
            Program::Init { .. } => "boot",
            Program::Command { .. } => "run",
        }
    }
}

/// systemd's words for yes and no (man 7 systemd.syntax); anything else is none of them.
fn is_yes(setting: &Setting) -> Option<bool> {
    match setting.text.as_str() {
        "yes" | "true" | "on" | "1" | "y" | "t" => Some(true),
        "no" | "false" | "off" | "0" | "n" | "f" => Some(false),
        _ => None,
    }
}

fn is_on(setting: Option<&Setting>) -> bool {
    setting.and_then(is_yes) == Some(true)
}

fn parse_or<T>(setting: Option<&Setting>, default: impl FnOnce() -> T) -> Result<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    setting.map_or_else(
        || Ok(default()),
        |setting| setting.text.parse().map_err(|reason| setting.refuse(reason)),
    )
}

fn resolve_name(settings: &Settings, facts: &Facts) -> Result<MachineName> {
    if let Some(setting) = &settings.machine {
        return setting.text.parse().map_err(|reason| setting.refuse(reason));
    }
    MachineName::from_path(Path::new(&facts.name)).map_err(|reason| {
        Error::usage(format!("cannot name a machine after '{}'", facts.name))
            .because(reason)
            .hint("give it a name with --machine=NAME")
    })
}

fn resolve_id(setting: Option<&Setting>, facts: &Facts) -> Result<MachineId> {
    let id: MachineId = parse_or(setting, || facts.machine_id.unwrap_or(facts.random_id))?;
    match setting {
        Some(setting) if id.is_null() => {
            Err(setting.refuse("no machine has an ID of zeros alone (machine-id(5))"))
        }
        _ => Ok(id),
    }
}

fn parse_hostname(setting: &Setting) -> Result<String> {
    let name: MachineName = setting.text.parse().map_err(|reason| setting.refuse(reason))?;
    Ok(name.to_string())
}

fn resolve_payload(settings: &Settings, facts: &Facts) -> Result<Payload> {
    let program = match (&facts.init, settings.arguments.as_slice()) {
        (Some(init), arguments) => {
            Program::Init { path: init.path.clone(), kind: init.init, arguments: arguments.to_vec() }
        }
        (None, []) => return Err(Error::usage("cannot run nothing").hint("give a command after --")),
        (None, argv) => Program::Command {
            argv: argv.to_vec(),
            first: if is_on(settings.process_two.as_ref()) { First::Stub } else { First::Command },
        },
    };
    let variables: Result<Vec<_>> = settings.setenv.iter().map(parse_variable).collect();
    Ok(Payload {
        program,
        environment: variables?.into_iter().flatten().collect(),
        directory: settings.chdir.as_ref().map(mounts::parse_inside).transpose()?,
        user: settings.uid.as_ref().map_or_else(|| "root".to_owned(), |setting| setting.text.clone()),
    })
}

/// `NAME=VALUE`, or the caller's own value of `NAME`; `None` when the caller has none.
///
/// # Errors
/// What is no name of an environment variable.
pub fn parse_variable(setting: &Setting) -> Result<Option<(String, OsString)>> {
    let (name, value) = match setting.text.split_once('=') {
        // The caller's own is nothing for who wrote a file that came with an image.
        None if !matches!(setting.origin, Origin::Flag(_)) => {
            return Err(setting.refuse("not an assignment, NAME=VALUE"));
        }
        Some((name, value)) => (name, Some(OsString::from(value))),
        None => (setting.text.as_str(), std::env::var_os(&setting.text)),
    };
    let valid = |(at, byte): (usize, u8)| {
        byte == b'_' || byte.is_ascii_alphabetic() || at > 0 && byte.is_ascii_digit()
    };
    if name.is_empty() || !name.bytes().enumerate().all(valid) {
        return Err(setting.refuse("not the name of an environment variable"));
    }
    Ok(value.map(|value| (name.to_owned(), value)))
}

fn resolve_network(settings: &[Setting], boot: bool) -> Result<Network> {
    let mut chosen: Option<(&Setting, Network)> = None;
    for setting in settings {
        let network = match setting.text.as_str() {
            "host" => Network::Host,
            "none" => Network::None,
            _ => Network::Veth,
        };
        chosen = match chosen {
            // --private-network is what --network-veth implies (man 1 systemd-nspawn): together they are no contradiction.
            Some((_, Network::Veth)) if network == Network::None => chosen,
            Some((before, other))
                if other != network && !(other == Network::None && network == Network::Veth) =>
            {
                return Err(setting.refuse(format!("contradicts {}={}", before.origin, before.text)));
            }
            _ => Some((setting, network)),
        };
    }
    Ok(chosen.map_or(if boot { Network::Veth } else { Network::Host }, |(_, network)| network))
}

fn resolve_console(setting: Option<&Setting>, terminals: Terminals, boot: bool) -> Result<Mode> {
    let asked = match setting {
        Some(setting) => setting.text.parse().map_err(|reason| setting.refuse(reason))?,
        None if boot => Asked::BootDefault,
        None => Asked::RunDefault,
    };
    Ok(Mode::resolve(asked, terminals))
}

fn resolve_capabilities(settings: &Settings, network: Network) -> Result<caps::Set> {
    let mut set = caps::Set::nspawn_default();
    if network != Network::Host {
        set = set.with_net_admin();
    }
    for setting in &settings.capability {
        set = set.add(caps::Set::parse(&setting.text).map_err(|reason| setting.refuse(reason))?);
    }
    for setting in &settings.drop_capability {
        set = set.remove(caps::Set::parse(&setting.text).map_err(|reason| setting.refuse(reason))?);
    }
    Ok(set)
}
