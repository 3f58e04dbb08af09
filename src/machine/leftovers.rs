//! What a supervisor that was killed left of its machine, and taking it away: when the name is taken again ([`clear`]), or
//! when the operator asks for it ([`clean`]); then also what others left half made that were killed.
//!
//! Whoever takes away holds the machine's name, so that nothing of a living machine can be meant; what is half made is locked by
//! whoever makes it. Refused: what osier did not make, or cannot tell from what others made.

use std::fs;
use std::io;
use std::path::Path;

use super::record::{Claim, Intent, Record, Store};
use crate::bus;
use crate::cgroup::Cgroup;
use crate::cgroup::stale::{self, Orphan};
use crate::checkpoint;
use crate::console::listener;
use crate::error::{Context, Error, Kind, Result};
use crate::idmap::pick;
use crate::image::{PREWARMED, SEARCH_PATH, Scratch, TreeLock};
use crate::net;
use crate::plan::propagation_directory;

/// What sort of thing was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    /// A cgroup, with the processes in it.
    Cgroup,
    /// A network link.
    Link,
    /// A lock of a tree, or of user IDs.
    Lock,
    /// The directory through which things are bound into a machine, or one in which something was half made.
    Directory,
    /// The socket of a console.
    Socket,
    /// The record.
    Record,
}

impl Thing {
    /// Its name in a list.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Link => "link",
            Self::Lock => "lock",
            Self::Directory => "directory",
            Self::Socket => "socket",
            Self::Record => "record",
        }
    }
}

/// Something that was taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Whose it was; empty where that cannot be told.
    pub machine: String,
    /// What it was.
    pub thing: Thing,
    /// Its path or name.
    pub object: String,
}

/// What is taken away of one machine.
struct Sweep<'s> {
    machine: &'s str,
    removed: Vec<Removed>,
}

impl Sweep<'_> {
    fn note(&mut self, thing: Thing, object: impl ToString) {
        self.removed.push(Removed { machine: self.machine.to_owned(), thing, object: object.to_string() });
    }

    /// What the record names. Its unit, and the cgroup with it, are PID 1's to end.
    fn recorded(&mut self, leftover: &Record, mount: Option<&Path>) -> Result<()> {
        if let (Some(cgroup), None, Some(mount)) = (&leftover.cgroup, &leftover.unit, mount) {
            let what = || format!("cannot remove '{}', left by a machine that was killed", cgroup.display());
            if Cgroup::remove_stale(mount, cgroup).context(what)? {
                self.note(Thing::Cgroup, cgroup.display());
            }
        }
        for link in &leftover.links {
            let what = || format!("cannot remove the link '{link}', left by a machine that was killed");
            if net::delete_own(link).context(what)? {
                self.note(Thing::Link, link);
            }
        }
        if let Some(range) = leftover.users {
            let what = || format!("cannot remove the lock of the user IDs {range}");
            if let Some(lock) = pick::remove_stale(range).context(what)? {
                self.note(Thing::Lock, lock.display());
            }
        }
        self.socket()?;
        self.locks(&leftover.root)
    }

    /// What it was about to make when it died without a record.
    fn intended(&mut self, claim: &Claim, mount: Option<&Path>) -> Result<()> {
        if let (Some(cgroup), Some(mount)) = (claim.noted(Intent::Cgroup), mount) {
            let what = || format!("cannot remove '{}', left by a machine that was killed", cgroup.display());
            if let Some(removed) = stale::remove_intended(mount, &cgroup).context(what)? {
                self.note(Thing::Cgroup, removed.display());
            }
        }
        claim.noted(Intent::Tree).map_or(Ok(()), |tree| self.locks(&tree))
    }

    fn socket(&mut self) -> Result<()> {
        let removed = listener::remove_stale(self.machine);
        if let Some(socket) = removed.context(|| "cannot remove a console's socket")? {
            self.note(Thing::Socket, socket.display());
        }
        Ok(())
    }

    fn locks(&mut self, tree: &Path) -> Result<()> {
        let what = || format!("cannot remove the locks of '{}'", tree.display());
        for lock in TreeLock::remove_stale(tree).context(what)? {
            self.note(Thing::Lock, lock.display());
        }
        Ok(())
    }

    fn all(&mut self, claim: &Claim, mount: Option<&Path>, orphans: &[Orphan]) -> Result<()> {
        match claim.leftover() {
            Some(leftover) => self.recorded(leftover, mount)?,
            None => self.intended(claim, mount)?,
        }
        self.socket()?;
        let machine = self.machine;
        for (orphan, mount) in
            mount.into_iter().flat_map(|mount| orphans.iter().map(move |orphan| (orphan, mount)))
        {
            if orphan.machine == machine {
                self.orphan(orphan, mount)?;
            }
        }
        self.propagation()
    }

    fn orphan(&mut self, orphan: &Orphan, mount: &Path) -> Result<()> {
        let what = || format!("cannot remove '{}', left by a machine that was killed", orphan.path.display());
        if Cgroup::remove_stale(mount, &orphan.path).context(what)? {
            self.note(Thing::Cgroup, orphan.path.display());
        }
        Ok(())
    }

    /// The path is one that systemd-nspawn uses for a machine of the same name, too.
    fn propagation(&mut self) -> Result<()> {
        let path = propagation_directory(self.machine);
        if bus::available() && !matches!(bus::machined::get(self.machine), Ok(None)) {
            return Ok(());
        }
        match fs::remove_dir(&path) {
            Ok(()) => self.note(Thing::Directory, path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(|| format!("cannot remove {}", path.display())),
        }
        Ok(())
    }
}

/// Removes what `leftover` names, for the next machine of that name, whose supervisor this is. `mount` is where cgroup2 is.
///
/// # Errors
/// What could not be removed.
pub fn clear(leftover: &Record, mount: &Path) -> Result<()> {
    Sweep { machine: &leftover.name, removed: Vec::new() }.recorded(leftover, Some(mount))
}

/// Removes what is left of all machines that have no supervisor any more. Goes on when something cannot be removed: gives
/// what was, and the first error.
pub fn clean(store: &Store, mount: Option<&Path>) -> (Vec<Removed>, Result<()>) {
    let mut removed = Vec::new();
    let mut verdict = Ok(());
    let orphans = match mount.map(stale::orphans).transpose().context(|| "cannot look for cgroups") {
        Ok(orphans) => orphans.unwrap_or_default(),
        Err(error) => {
            verdict = Err(error);
            Vec::new()
        }
    };
    let mut names = match store.ownerless() {
        Ok(names) => names,
        Err(error) => {
            verdict = verdict.and(Err(error));
            Vec::new()
        }
    };
    names.extend(orphans.iter().map(|orphan| orphan.machine.clone()));
    names.sort_unstable();
    names.dedup();
    for name in &names {
        let mut sweep = Sweep { machine: name, removed: Vec::new() };
        verdict = verdict.and(clean_one(store, mount, &orphans, &mut sweep));
        removed.append(&mut sweep.removed);
    }
    verdict = verdict.and(clean_halves(&mut removed));
    (removed, verdict)
}

/// Trees that were to become images, what was to be started from, checkpoints, and what restores worked with. What is beside a path
/// that somebody gave is found by the next one there.
fn clean_halves(removed: &mut Vec<Removed>) -> Result<()> {
    let mut verdict = Ok(());
    let what = |directory: &str| format!("cannot remove what was left in {directory}");
    let mut note = |machine: String, path: &Path| {
        removed.push(Removed { machine, thing: Thing::Directory, object: path.display().to_string() });
    };
    for directory in SEARCH_PATH.into_iter().chain([PREWARMED]) {
        match Scratch::remove_all_stale(Path::new(directory)) {
            Ok(halves) => halves.into_iter().for_each(|(target, path)| note(target, &path)),
            Err(error) => verdict = verdict.and(Err(Error::io(what(directory), &error))),
        }
    }
    for directory in [checkpoint::DIRECTORY, checkpoint::WORKING] {
        match checkpoint::remove_stale(Path::new(directory)) {
            // Their names do not say whose they are.
            Ok(halves) => halves.iter().for_each(|path| note(String::new(), path)),
            Err(error) => verdict = verdict.and(Err(Error::io(what(directory), &error))),
        }
    }
    verdict
}

fn clean_one(store: &Store, mount: Option<&Path>, orphans: &[Orphan], sweep: &mut Sweep<'_>) -> Result<()> {
    let had_record = store.has_file(sweep.machine);
    let mut claim = match store.claim(sweep.machine) {
        // It lives, or is being started or cleaned up.
        Err(error) if error.kind() == Kind::InUse => return Ok(()),
        claim => claim?,
    };
    let swept = sweep.all(&claim, mount, orphans);
    if had_record && swept.is_err() {
        // What it names is still there: it is for the next try.
        claim.leave();
        return swept;
    }
    claim.close()?;
    if had_record {
        sweep.note(Thing::Record, store.directory().join(format!("{}.json", sweep.machine)).display());
    }
    swept
}
