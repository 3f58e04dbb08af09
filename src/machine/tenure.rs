//! What a supervisor holds from before the first boot until after the last: the name, the tree, the process that talks to
//! the bus, the throw-away layer, the directory for `machinectl bind`.
//!
//! Taken before anything is made, so that a name or a tree in use is refused first; given back in reverse order, on the
//! normal way by [`Tenure::close`], on every other by dropping. What a supervisor that was killed left under the same name
//! is cleared when the name is taken.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::continuity::Continuity;
use super::leftovers::clear;
use super::record::{Claim, Intent, Record, Stage, Store};
use crate::bus::{self, BusError, Registrar};
use crate::error::{Context, Error, Kind, Result};
use crate::idmap::pick::Held;
use crate::image::{Access as Share, TreeLock};
use crate::mount::op::Access;
use crate::mount::root::open_scratch;
use crate::plan::{CgroupPlan, LaunchPlan, propagation_directory};
use crate::spec::{Layer, Register};

/// How long PID 1 and machined may take to forget a machine whose supervisor was killed.
const OBLIVION: Duration = Duration::from_secs(5);
/// How often they are asked whether they have.
const PACE: Duration = Duration::from_millis(20);

/// A machine's name and tree, held.
#[derive(Debug)]
pub struct Tenure {
    // In the order in which they are given back when dropped.
    /// Its clocks, where they are kept.
    clocks: Option<Continuity>,
    propagation: Directory,
    scratch: Option<OwnedFd>,
    tree: Option<TreeLock>,
    /// Its user IDs, of a machine that was given the next best.
    range: Option<Held>,
    claim: Claim,
    /// What stands in the record.
    written: Option<Record>,
    registrar: Option<Registrar>,
    machined: Machined,
}

/// Whether machined is told of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machined {
    /// It is.
    Told,
    /// It is not.
    Untold,
}

impl Tenure {
    /// Takes name and tree for what `plan` says.
    ///
    /// # Errors
    /// [`Kind::InUse`] for a name or a tree that another machine has; the bus that is not there with `--register=yes`.
    pub fn take(plan: &LaunchPlan, store: &Store) -> Result<Self> {
        let name = plan.name.as_str();
        // First: it leads through another mount namespace, and whoever does not come back from there could give nothing back.
        let scratch = match plan.root.layer {
            Layer::Scratch => Some(open_scratch().context(|| "cannot make the throw-away layer")?),
            Layer::Tree => None,
        };
        // Forked before anything is held: it must not share the locks.
        let (registrar, machined) = ask_bus(plan, store)?;
        let claim = store.claim(name)?;
        if let Some(leftover) = claim.leftover() {
            clear(leftover, cgroup2(plan))?;
        }
        let share = match (plan.root.layer, plan.root.access) {
            // What is kept beside the tree is one machine's.
            (Layer::Tree, _) if plan.kept_clocks.is_some() => Some(Share::Exclusive),
            (Layer::Scratch, _) => None,
            (Layer::Tree, Access::ReadOnly) => Some(Share::Shared),
            (Layer::Tree, Access::ReadWrite) => Some(Share::Exclusive),
        };
        if share.is_some() {
            claim.note(Intent::Tree, &plan.root.tree);
        }
        if let CgroupPlan::Directory { mount, relative } = &plan.cgroup {
            let path = mount.join(relative);
            if !path.exists() {
                claim.note(Intent::Cgroup, &path);
            }
        }
        let tree = share.map(|share| lock_tree(&plan.root.tree, share)).transpose()?;
        let propagation = Directory::make(&propagation_directory(name))
            .context(|| format!("cannot make {}", propagation_directory(name).display()))?;
        Ok(Self {
            clocks: None,
            propagation,
            scratch,
            tree,
            range: None,
            claim,
            written: None,
            registrar,
            machined,
        })
    }

    /// Holds the machine's user IDs until its end.
    pub fn hold(&mut self, range: Option<Held>) {
        self.range = range;
    }

    /// The throw-away layer.
    pub fn scratch(&self) -> Option<BorrowedFd<'_>> {
        self.scratch.as_ref().map(AsFd::as_fd)
    }

    /// The process that talks to the bus, and whether machined is told.
    pub fn registrar(&mut self) -> Option<(&mut Registrar, Machined)> {
        self.registrar.as_mut().map(|registrar| (registrar, self.machined))
    }

    /// The process that talks to the bus is gone; the machine goes on without.
    pub fn lose_registrar(&mut self) {
        self.registrar = None;
    }

    /// What to poll for events of the bus.
    pub fn bus_fd(&self) -> Option<BorrowedFd<'_>> {
        self.registrar.as_ref().map(Registrar::fd)
    }

    /// Has the records accompanied by `kept`, which only root can read ([`super::record::Store::kept`]).
    pub fn keep(&mut self, kept: Vec<u8>) {
        self.claim.keep(kept);
    }

    /// The machine of `plan` is about to run: where its clocks are is kept from now on, if that was asked for. Nothing is
    /// kept of a launch that fails.
    ///
    /// # Errors
    /// What writing beside the image gives.
    pub fn begin_clocks(&mut self, plan: &LaunchPlan) -> Result<()> {
        let kept = plan.kept_clocks.as_ref();
        self.clocks = kept.map(|kept| Continuity::begin(plan, &kept.path)).transpose()?;
        Ok(())
    }

    /// Its clocks, where they are kept.
    pub(super) fn clocks(&mut self) -> Option<&mut Continuity> {
        self.clocks.as_mut()
    }

    /// In how long [`Continuity::keep_up`] has something to do.
    pub(super) fn clocks_due(&self) -> Option<Duration> {
        self.clocks.as_ref().map(Continuity::due)
    }

    /// What its clocks showed when it ended, in nanoseconds: monotonic and boottime, where they are kept.
    pub fn last_clocks(&self) -> Option<(i64, i64)> {
        self.clocks.as_ref().and_then(Continuity::last)
    }

    /// Writes the record that other commands read.
    ///
    /// # Errors
    /// What writing below /run gives, such as `ENOSPC`.
    pub fn record(&mut self, record: Record) -> Result<()> {
        self.claim.write(&record)?;
        self.written = Some(record);
        Ok(())
    }

    /// Makes the record say `stage`; nothing is done where it does.
    ///
    /// # Errors
    /// As [`Tenure::record`]; the record says what it said before.
    pub fn say(&mut self, stage: Stage) -> Result<()> {
        match &self.written {
            Some(written) if written.state != stage => {
                self.record(Record { state: stage, ..written.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Gives everything back.
    ///
    /// # Errors
    /// The first of what went wrong; the rest was given back all the same.
    pub fn close(self) -> Result<()> {
        let Self { clocks, propagation, scratch, tree, range, claim, written: _, registrar, machined: _ } =
            self;
        drop(clocks);
        drop(scratch);
        let directory = propagation.path.display().to_string();
        let results = [
            propagation.close().context(|| format!("cannot remove {directory}")),
            tree.map_or(Ok(()), |tree| tree.close().context(|| "cannot unlock the tree")),
            range.map_or(Ok(()), |range| range.close().context(|| "cannot give the user IDs back")),
            registrar.map_or(Ok(()), |registrar| {
                registrar.close().map_err(|error| {
                    Error::new(Kind::Failed, "cannot take the registration back").because(error)
                })
            }),
            claim.close(),
        ];
        results.into_iter().collect()
    }
}

fn ask_bus(plan: &LaunchPlan, store: &Store) -> Result<(Option<Registrar>, Machined)> {
    let scope = matches!(plan.cgroup, CgroupPlan::Scope { .. });
    let limited = !plan.limits.properties().is_empty();
    let wanted = plan.register != Register::No && (plan.register == Register::Yes || bus::available());
    if !scope && !wanted && !limited {
        return Ok((None, Machined::Untold));
    }
    let name = plan.name.as_str();
    let mut registrar = Registrar::start().context(|| "cannot start the process that talks to the bus")?;
    let is_dead = store.dead()?.iter().any(|record| record.name == name);
    let deadline = Instant::now() + if is_dead { OBLIVION } else { Duration::ZERO };
    if scope {
        patiently(deadline, || registrar.claim_unit(name)).map_err(|error| refuse(name, &error))?;
    }
    if !wanted {
        return Ok((Some(registrar), Machined::Untold));
    }
    match patiently(deadline, || registrar.claim_machine(name)) {
        Ok(()) => Ok((Some(registrar), Machined::Told)),
        Err(BusError::NoBus(_) | BusError::NoMachined(_)) if plan.register == Register::Auto => {
            Ok(((scope || limited).then_some(registrar), Machined::Untold))
        }
        Err(error) => Err(refuse(name, &error)),
    }
}

/// Tries again until `deadline` where the name is still that of a machine whose supervisor was killed just now.
fn patiently(
    deadline: Instant,
    mut claim: impl FnMut() -> std::result::Result<(), BusError>,
) -> std::result::Result<(), BusError> {
    loop {
        match claim() {
            Err(BusError::NameTaken(_)) if Instant::now() < deadline => std::thread::sleep(PACE),
            result => return result,
        }
    }
}

fn refuse(name: &str, error: &BusError) -> Error {
    match error {
        BusError::NameTaken(_) => Error::new(Kind::InUse, format!("cannot take the name '{name}'"))
            .because(error)
            .hint("give the machine another name with --machine=NAME"),
        BusError::NoBus(_) | BusError::NoMachined(_) => {
            Error::new(Kind::Unsupported, format!("cannot register '{name}' with systemd-machined"))
                .because(error)
                .hint("--register=no boots without it")
        }
        _ => Error::new(Kind::Failed, format!("cannot prepare the registration of '{name}'")).because(error),
    }
}

fn lock_tree(tree: &Path, share: Share) -> Result<TreeLock> {
    let what = || format!("cannot lock '{}'", tree.display());
    TreeLock::take(tree, share).context(what)?.ok_or_else(|| {
        Error::new(Kind::InUse, format!("cannot use '{}'", tree.display()))
            .because("another machine runs from it")
            .hint("--ephemeral runs from a throw-away copy, and --read-only machines can share a tree")
    })
}

/// Where cgroup2 is mounted.
fn cgroup2(plan: &LaunchPlan) -> &Path {
    let (CgroupPlan::Directory { mount, .. }
    | CgroupPlan::Scope { mount, .. }
    | CgroupPlan::Keep { mount, .. }) = &plan.cgroup;
    mount
}

/// A directory that is there as long as this.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    made: Vec<PathBuf>,
}

impl Directory {
    fn make(path: &Path) -> io::Result<Self> {
        // Another machine's end may remove the directories above between two steps.
        for _ in 0..32 {
            match Self::make_once(path.to_owned()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => return result,
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn make_once(path: PathBuf) -> io::Result<Self> {
        let mut missing: Vec<_> =
            path.ancestors().skip(1).take_while(|above| !above.exists()).map(Path::to_owned).collect();
        let mut directory = Self { path, made: Vec::new() };
        while let Some(above) = missing.pop() {
            match fs::create_dir(&above) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => {
                    result?;
                    directory.made.push(above);
                }
            }
        }
        match fs::create_dir(&directory.path) {
            // Left by a machine that was killed; the name is ours now.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(directory),
            result => result.map(|()| directory),
        }
    }

    fn close(mut self) -> io::Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> io::Result<()> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let path = std::mem::take(&mut self.path);
        let result = match fs::remove_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        for above in path.ancestors().skip(1).take_while(|above| self.made.iter().any(|made| made == above)) {
            // Another machine's directory may be in it by now; then it is that one's to remove.
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
        result
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}
