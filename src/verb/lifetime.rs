//! A machine from the command line to its end: what `boot` and `run` have in common.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::{continuation::continue_clocks, ranges, said};
use crate::cli::Invocation;
use crate::console::{FrontEnd, FrontWire, Log, Mode, Terminal, Terminals, front};
use crate::error::{Context, Error, Kind, Result};
use crate::exit::Ended;
use crate::host::HostFacts;
use crate::ids::MachineId;
use crate::image::{self, FoundInit, Image, Tree};
use crate::launch::{Revival, launch, revive};
use crate::machine::record::Store;
use crate::machine::state::State;
use crate::machine::{Attachment, Manner, Signals, Tenure, supervise};
use crate::mount::table;
use crate::name::MachineName;
use crate::plan::{CgroupPlan, LaunchPlan};
use crate::settings::search::{self, Trust};
use crate::settings::{Settings, nspawn};
use crate::spec::{Checkpoints, Facts, Keep, MachineSpec, Ready, Users};
use crate::sys::{Forked, fork};
use crate::wire::Wire;

/// Decides, prints the plan or carries it out, and gives the exit code. `look` says what is needed of the tree, and gives
/// its init for a `boot`.
pub(super) fn live(
    argument: &OsStr,
    settings: &Settings,
    invocation: &Invocation,
    look: impl FnOnce(&Image, &Tree) -> Result<Option<FoundInit>>,
) -> Result<u8> {
    let sources = Sources::find(argument, settings, invocation)?;
    let wanted = sources.decide(look)?;
    if invocation.dry_run {
        super::print(&wanted.plan.to_string())?;
        return Ok(0);
    }
    in_foreground(wanted, Company::default(), &sources)
}

/// Serves the machine until its end, on the caller's terminal where it has one.
pub(super) fn in_foreground(wanted: Wanted, company: Company<'_>, sources: &Sources<'_>) -> Result<u8> {
    let console = wanted.spec.console;
    match Terminal::of_caller(console).context(|| "cannot use the terminal")? {
        Some(terminal) if console != Mode::Passive => on_terminal(terminal, wanted, company, sources),
        _ => supervise_to_end(wanted, company, sources),
    }
}

/// What is to run.
pub(super) struct Wanted {
    /// The machine that is wanted.
    pub(super) spec: MachineSpec,
    /// The plan for it.
    pub(super) plan: LaunchPlan,
    /// What it was made of, for a checkpoint.
    settings: Settings,
}

impl Wanted {
    /// One of which nobody will make a checkpoint.
    pub(super) fn plain(spec: MachineSpec, plan: LaunchPlan) -> Self {
        Self { spec, plan, settings: Settings::default() }
    }

    /// The settings as a checkpoint has them, of a machine that can be saved. A variable that was passed on has the value that it
    /// has now.
    fn kept(&self) -> Result<Option<Vec<u8>>> {
        if self.plan.checkpoints == Checkpoints::Impossible {
            return Ok(None);
        }
        let mut settings = self.settings.clone();
        let said = std::mem::take(&mut settings.setenv);
        settings.setenv = said.into_iter().filter_map(said::with_value).collect();
        match serde_json::to_vec(&settings) {
            Ok(kept) => Ok(Some(kept)),
            Err(error) => Err(Error::new(Kind::Failed, "cannot write the settings down").because(error)),
        }
    }
}

/// Where a machine's settings come from.
pub(super) struct Sources<'a> {
    /// The command line.
    said: &'a Settings,
    image: Image,
    invocation: &'a Invocation,
}

impl<'a> Sources<'a> {
    /// The command line's, of a machine that runs from what `argument` names.
    pub(super) fn find(argument: &OsStr, said: &'a Settings, invocation: &'a Invocation) -> Result<Self> {
        let image =
            image::find(&argument.to_string_lossy()).map_err(|error| super::image::no_image(&error))?;
        Ok(Self { said, image, invocation })
    }

    /// What is to run: the machine that is wanted, and the plan for it.
    pub(super) fn decide(
        &self,
        look: impl FnOnce(&Image, &Tree) -> Result<Option<FoundInit>>,
    ) -> Result<Wanted> {
        let settings = self.settings()?;
        let mut spec = self.resolve(&settings, look)?;
        continue_clocks(&mut spec)?;
        ranges::look(&mut spec)?;
        let plan = LaunchPlan::resolve(&spec, &host()?)?;
        Ok(Wanted { spec, plan, settings })
    }

    /// The machine that is wanted.
    pub(super) fn spec(
        &self,
        look: impl FnOnce(&Image, &Tree) -> Result<Option<FoundInit>>,
    ) -> Result<MachineSpec> {
        self.resolve(&self.settings()?, look)
    }

    fn resolve(
        &self,
        settings: &Settings,
        look: impl FnOnce(&Image, &Tree) -> Result<Option<FoundInit>>,
    ) -> Result<MachineSpec> {
        let image = &self.image;
        let tree = Tree::open(&image.path).context(|| format!("cannot open '{}'", image.path.display()))?;
        let init = look(image, &tree)?;
        MachineSpec::resolve(settings, &facts(image, &tree, init)?)
    }

    /// The command line's settings with those of the machine's file, where `--settings=` lets it have a say.
    fn settings(&self) -> Result<Settings> {
        let Self { said, image, invocation } = self;
        let mode = invocation.settings.as_deref().unwrap_or("yes");
        let name = said.machine.as_ref().map_or(image.name.as_str(), |machine| &machine.text);
        let said = Settings::clone(said);
        // What is no name for a machine is refused later, and is none for a file either.
        if said::is_no(mode) || name.parse::<MachineName>().is_err() {
            return Ok(said);
        }
        let Some(mut found) = search::find(name, &image.path)? else { return Ok(said) };
        if mode == "trusted" {
            found.trust = Trust::Full;
        }
        let (file, warnings) = nspawn::read(&found)?;
        for warning in warnings.iter().filter(|_| !invocation.quiet) {
            crate::error::say(format_args!("osier: {warning}\n"));
        }
        Ok(if mode == "override" { file.over(said) } else { said.over(file) })
    }

    /// The limits as they are to be from now on, for a machine that reboots: `osier set` may have changed the file. All
    /// else stays as the machine was started. A file that has been broken since leaves the limits as well.
    fn reread_limits(&self, spec: &mut MachineSpec) {
        match self.settings().and_then(|settings| MachineSpec::resolve_limits(&settings)) {
            Ok(limits) => spec.limits = limits,
            Err(error) => crate::error::say(format_args!(
                "osier: '{}' keeps the limits that it was started with: {error}\n",
                spec.name
            )),
        }
    }
}

fn facts(image: &Image, tree: &Tree, init: Option<FoundInit>) -> Result<Facts> {
    let path = image.path.display();
    let machine_id =
        tree.read_machine_id_text().context(|| format!("cannot read the machine ID of '{path}'"))?;
    Ok(Facts {
        tree: image.path.clone(),
        name: image.name.clone(),
        os: tree.read_os_release().ok().flatten().map(|release| release.pretty_name),
        init,
        machine_id: machine_id
            .and_then(|text| text.trim().parse().ok())
            .filter(|id: &MachineId| !id.is_null()),
        owner: rustix::fs::fstat(tree)
            .map_err(std::io::Error::from)
            .context(|| format!("cannot look at '{path}'"))?
            .st_uid,
        random_id: MachineId::random().context(|| "cannot make a machine ID")?,
        terminals: Terminals::of_caller(),
    })
}

pub(super) fn host() -> Result<HostFacts> {
    let cgroup2 = table::read().and_then(|text| table::find_whole(&text, "cgroup2"));
    HostFacts::read(cgroup2.context(|| "cannot read the host's mounts")?)
        .context(|| "cannot look at the host")
}

/// On a terminal there are two processes: the front, which the user's shell waits for, and the supervisor.
fn on_terminal(
    terminal: Terminal,
    wanted: Wanted,
    company: Company<'_>,
    sources: &Sources<'_>,
) -> Result<u8> {
    let (fronts, supervisors): (OwnedFd, OwnedFd) = front::pair().context(|| "cannot make a socket")?;
    match fork().context(|| "cannot fork")? {
        Forked::Parent(supervisor) => {
            drop(supervisors);
            let end = front::run(supervisor, fronts, terminal).context(|| "cannot hold the terminal")?;
            Ok(match end {
                FrontEnd::Detached => {
                    let name = &wanted.spec.name;
                    crate::error::say(format_args!("\nosier: detached; machine '{name}' goes on\n"));
                    0
                }
                FrontEnd::Ended(code) => Ended::Exited(code).code(),
                FrontEnd::Killed(signal) => Ended::Killed(signal).code(),
            })
        }
        Forked::Child => {
            drop(fronts);
            nix::unistd::setsid().context(|| "cannot lead a session")?;
            let front = Some(FrontWire::new(supervisors, terminal));
            supervise_to_end(wanted, Company { front, ..company }, sources)
        }
    }
}

/// Who is there beside a supervisor.
#[derive(Default)]
pub(super) struct Company<'a> {
    /// The front that holds the terminal.
    pub(super) front: Option<FrontWire>,
    /// The console is kept there.
    pub(super) log: Option<Log>,
    /// Who waits for the word that the payload runs.
    pub(super) starter: Option<Wire>,
    /// What the machine goes on from, in place of its first boot.
    pub(super) revival: Option<Revival<'a>>,
}

/// What a starter is told, once.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// The payload runs.
    Runs,
    /// It does not, for this reason.
    Failed(Error),
}

/// The supervisor: boots the machine, again as often as it reboots, and cleans up behind it.
pub(super) fn supervise_to_end(wanted: Wanted, company: Company<'_>, sources: &Sources<'_>) -> Result<u8> {
    let quiet = sources.invocation.quiet;
    let kept = wanted.kept()?;
    let Wanted { mut spec, mut plan, settings: _ } = wanted;
    let Company { front, log, mut starter, mut revival } = company;
    let mut signals = Signals::catch().context(|| "cannot catch signals")?;
    let mut tenure = Tenure::take(&plan, &Store::default())?;
    kept.into_iter().for_each(|kept| tenure.keep(kept));
    let (mut attachment, mut streams) =
        Attachment::open(plan.console, front, plan.name.as_str()).context(|| "cannot attach the console")?;
    log.into_iter().for_each(|log| attachment.keep(log));
    if spec.clocks.keep != Keep::No || matches!(spec.users, Users::Picked(..)) {
        // Only since the tree is held nobody else can have them go on.
        continue_clocks(&mut spec)?;
        tenure.hold(ranges::hold(&mut spec)?);
        plan = LaunchPlan::resolve(&spec, &host()?)?;
    }
    ranges::give(&spec)?;
    let ended = loop {
        let mut manner = Manner { ways: plan.ways, ready: plan.ready, up: plan.up };
        let running = match revival.take() {
            Some(revival) => {
                // What was ready when it was saved does not say so again.
                (manner.ready, manner.up) = (Ready::AtStart, Ready::AtStart);
                revive(&plan, revival, &mut tenure, &mut attachment, &mut signals)?
            }
            None => {
                tenure.begin_clocks(&plan)?;
                launch(&plan, &mut tenure, &mut attachment, streams.as_ref(), &mut signals)?
            }
        };
        if let Some(starter) = starter.take() {
            // Who has not waited wants to know nothing.
            let _ = starter.send(&Word::Runs, &[]);
        }
        announce(&spec, quiet, "runs; ^] three times within a second ends it");
        let reboots = matches!(plan.cgroup, CgroupPlan::Keep { .. });
        if !can_reboot(&plan) {
            streams = None;
        }
        let state = supervise(&running, &mut tenure, &mut attachment, &mut signals, manner)?;
        let ended = match (running.close(&mut tenure)?, state) {
            (_, State::Saved) => Ended::Saved,
            (ended, _) => ended,
        };
        let again = ended == Ended::Rebooted && !matches!(state, State::Stopping | State::Killed);
        if !again || reboots || !can_reboot(&plan) {
            break if again || ended != Ended::Rebooted { ended } else { Ended::PoweredOff };
        }
        announce(&spec, quiet, "reboots");
        sources.reread_limits(&mut spec);
        spec.clocks.go_on(tenure.last_clocks());
        // The clocks start anew, or go on, against a host whose own have gone on.
        plan = LaunchPlan::resolve(&spec, &host()?)?;
    };
    let shut = attachment.shut().context(|| "cannot remove the socket of the console");
    tenure.close().and(shut)?;
    announce(&spec, quiet, if ended == Ended::Saved { "was saved in a checkpoint" } else { "has ended" });
    attachment.tell_end(ended.code());
    Ok(ended.code())
}

/// Only an init can be booted again; what follows a command that calls reboot(2) is the caller's business.
fn can_reboot(plan: &LaunchPlan) -> bool {
    plan.verb == "boot"
}

/// A word for the user at the terminal; scripts and logs get nothing that they did not ask for.
fn announce(spec: &MachineSpec, quiet: bool, what: &str) {
    if !quiet && spec.console == Mode::Interactive && spec.verb() == "boot" {
        // The terminal is raw: a line's end alone would not return the carriage.
        crate::error::say(format_args!("osier: machine '{}' {what}\r\n", spec.name));
    }
}
