//! `osier boot --from`: one of any number of machines that go on from where one had booted.

use std::path::{Path, PathBuf};

use super::lifetime::in_foreground;
use super::restore::{self, Made, Wish, as_it_was, booted_with, suits};
use super::{checkpoint::Progress, image::clone};
use crate::checkpoint::{Checkpoint, Manifest, Unpacked};
use crate::cli::Boot;
use crate::criu::Criu;
use crate::error::{Context, Error, Kind, Result};
use crate::ids::MachineId;
use crate::image::{Access, MACHINES, PREWARMED, TreeLock};
use crate::interrupt::Interrupt;
use crate::launch::Moment;
use crate::settings::{Setting, Settings};

/// The checkpoint of it, below.
pub(super) const SAVED: &str = "checkpoint";
/// The tree of it, below.
pub(super) const ROOT: &str = "root";

/// Boots from a checkpoint: the exit code to leave with.
///
/// # Errors
/// What is wrong with the checkpoint, the host, the tree or the options; nothing of the machine is there then.
pub(super) fn boot(options: &Boot, from: &Path, said: &Settings) -> Result<u8> {
    let what = format!("cannot boot from '{}'", from.display());
    go_on(options, &place(from), said).map_err(|error| error.within(what))
}

/// A name is one of what was prewarmed, where there is such a one.
fn place(from: &Path) -> PathBuf {
    let prewarmed = Path::new(PREWARMED).join(from);
    let is_name = from.components().count() == 1 && !from.as_os_str().as_encoded_bytes().contains(&b'/');
    if is_name && prewarmed.exists() { prewarmed } else { from.to_owned() }
}

fn go_on(options: &Boot, from: &Path, said: &Settings) -> Result<u8> {
    refuse(options, said)?;
    let criu = Criu::find(options.source.criu.as_deref())?;
    let from = from.canonicalize().unwrap_or_else(|_| from.to_owned());
    let saved = from.join(SAVED);
    let checkpoint = Checkpoint::open(if saved.is_dir() { &saved } else { &from })?;
    let manifest = checkpoint.manifest();
    suits(&manifest.host)?;
    let settings = settings(said, manifest)?;
    let interrupt = Interrupt::watch().context(|| "cannot catch signals")?;
    let beside = from.parent().unwrap_or(Path::new("/"));
    let unpacked = checkpoint.unpack(beside, &mut Progress(&interrupt))?;
    let name = settings.machine.as_ref().map(|name| name.text.clone()).unwrap_or_default();
    let tree = Tree::find(&from, manifest, (&unpacked, &name), said.ephemeral.is_some(), &interrupt)?;
    drop(interrupt);
    let wish = Wish {
        name: None,
        tree: Some(tree.path()),
        clock: "continue",
        console: None,
        keep_unit: false,
        quiet: options.options.invocation.quiet,
        anew: Some(&settings),
    };
    let go = |moment: Moment<'_>| -> Result<()> {
        if matches!(moment, Moment::Runs(_)) {
            tree.keep();
        }
        Ok(())
    };
    restore::with((&criu, unpacked), manifest, &wish, Box::new(go), in_foreground).inspect(|_| tree.keep())
}

/// What the machine runs from.
enum Tree {
    /// A copy of its own.
    Own(Made),
    /// One that all throw-away machines share, and nobody writes to.
    Shared(PathBuf, TreeLock),
}

impl Tree {
    fn find(
        from: &Path,
        manifest: &Manifest,
        (unpacked, name): (&Unpacked, &str),
        throw_away: bool,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        if !throw_away && unpacked.tree().is_some() {
            let made = restore::tree((Some(name), None), manifest, unpacked, interrupt)?;
            return made.map(Self::Own).ok_or_else(|| Error::new(Kind::Failed, "it has no tree"));
        }
        let root = from.join(ROOT);
        let root = if root.is_dir() { root } else { manifest.tree.path.clone() };
        let what = || format!("cannot read '{}'", root.display());
        let gone = |error: Error| error.hint("`osier image prewarm` makes another one");
        if !root.is_dir() {
            return Err(gone(Error::new(Kind::NotFound, what()).because("it is not there")));
        }
        let lock = TreeLock::take(&root, Access::Shared).context(what)?.ok_or_else(|| {
            Error::new(Kind::InUse, what()).because("a machine runs from it, and may be writing to it")
        })?;
        as_it_was(&root, unpacked, interrupt).map_err(gone)?;
        if throw_away {
            return Ok(Self::Shared(root, lock));
        }
        let copied = clone::copy_tree((&root, None), &Path::new(MACHINES).join(name), interrupt, true)?;
        Ok(Self::Own(Made::at(copied)))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Own(made) => made.path(),
            Self::Shared(path, _lock) => path,
        }
    }

    fn keep(&self) {
        if let Self::Own(made) = self {
            made.keep();
        }
    }
}

/// Refuses what cannot be otherwise in a machine that has booted.
fn refuse(options: &Boot, said: &Settings) -> Result<()> {
    let free = Settings {
        machine: None,
        uuid: None,
        hostname: None,
        console: None,
        ephemeral: None,
        ..said.clone()
    };
    let invocation = &options.options.invocation;
    if free == Settings::default()
        && options.arguments.is_empty()
        && !invocation.dry_run
        && invocation.settings.is_none()
    {
        return Ok(());
    }
    Err(Error::usage("--from").because("it has booted with the other options that it has").hint(
        "what can be said with it: --machine, --uuid, --hostname, --console, --ephemeral, --quiet, --criu",
    ))
}

/// What the machine was booted with, but for who it is and how it is connected.
fn settings(said: &Settings, manifest: &Manifest) -> Result<Settings> {
    let booted = booted_with(manifest)?;
    let random = MachineId::random().context(|| "cannot make a machine ID")?;
    Ok(Settings {
        machine: said.machine.clone(),
        uuid: said.uuid.clone().or_else(|| Some(Setting::flag("--uuid", random.to_string()))),
        hostname: said.hostname.clone(),
        console: said.console.clone(),
        // What a throw-away layer holds cannot be saved.
        checkpointable: booted.checkpointable.filter(|_| said.ephemeral.is_none()),
        ephemeral: said.ephemeral.clone(),
        keep_unit: None,
        ..booted
    })
}
