//! `osier restore`: a machine that goes on from a checkpoint.

use std::cell::Cell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::boot::find_init;
use super::checkpoint::Progress;
use super::image::carried;
use super::lifetime::{Company, Sources, Wanted, in_foreground};
use super::start;
use crate::checkpoint::listing::{Depth, Listing};
use crate::checkpoint::{Checkpoint, HostMark, Manifest, Unpacked, Weight};
use crate::cli::{Invocation, Restore};
use crate::console::pty;
use crate::criu::Criu;
use crate::criu::images::Clocks;
use crate::error::{Context, Error, Kind, Result};
use crate::image::{self, FreshError, archive};
use crate::interrupt::Interrupt;
use crate::launch::{Identity, Moment, Onward, Revival};
use crate::machine::snapshot::log_path;
use crate::settings::{Setting, Settings};

/// `osier restore`: the exit code to leave with.
///
/// # Errors
/// What is wrong with the checkpoint, the host or the tree; nothing of the machine is there then.
pub fn execute(options: &Restore) -> Result<u8> {
    let what = format!("cannot restore from '{}'", options.from.display());
    restore(options).map_err(|error| error.within(what))
}

fn restore(options: &Restore) -> Result<u8> {
    let criu = Criu::find(options.tool.criu.as_deref())?;
    let from = options.from.canonicalize().unwrap_or_else(|_| options.from.clone());
    let checkpoint = Checkpoint::open(&from)?;
    let manifest = checkpoint.manifest();
    suits(&manifest.host)?;
    let interrupt = Interrupt::watch().context(|| "cannot catch signals")?;
    let beside = from.parent().unwrap_or(Path::new("/"));
    let unpacked = checkpoint.unpack(beside, &mut Progress(&interrupt))?;
    let wish = Wish {
        name: options.name.as_deref(),
        tree: options.tree.as_deref(),
        clock: &options.clock,
        console: options.console.as_deref().or(options.background.then_some("passive")),
        keep_unit: options.keep_unit,
        quiet: options.tool.quiet,
        anew: None,
    };
    let made = tree((wish.name, wish.tree), manifest, &unpacked, &interrupt)?;
    drop(interrupt);
    let wish = Wish { tree: made.as_ref().map(Made::path).or(wish.tree), ..wish };
    let keep = || made.iter().for_each(Made::keep);
    let go = |moment: Moment<'_>| -> Result<()> {
        if matches!(moment, Moment::Runs(_)) {
            keep();
        }
        Ok(())
    };
    with((&criu, unpacked), manifest, &wish, Box::new(go), |wanted, company, sources| {
        if options.background {
            return start::in_background(wanted, company, sources, |starter| {
                start::hear(starter).inspect(|()| keep())
            });
        }
        // On a terminal it is a child that has kept it.
        in_foreground(wanted, company, sources).inspect(|_| keep())
    })
}

/// A tree that was made of the checkpoint's. It goes with a restore that fails.
pub(super) struct Made {
    path: PathBuf,
    kept: Cell<bool>,
}

impl Made {
    /// One at `path`, until it is said to be kept.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, kept: Cell::new(false) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn keep(&self) {
        self.kept.set(true);
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.kept.get() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The tree that the machine goes on with, where it has to be made. One that is there has to be as it was.
pub(super) fn tree(
    (name, said): (Option<&str>, Option<&Path>),
    manifest: &Manifest,
    unpacked: &Unpacked,
    interrupt: &Interrupt,
) -> Result<Option<Made>> {
    let name = name.unwrap_or(&manifest.machine.name);
    let place = match (said, unpacked.tree()) {
        (None, Some(_)) => Path::new(image::MACHINES).join(name),
        (Some(said), Some(_)) if !said.exists() => said.to_owned(),
        (Some(said), _) => return as_it_was(said, unpacked, interrupt).map(|()| None),
        (None, None) => return as_it_was(&manifest.tree.path, unpacked, interrupt).map(|()| None),
    };
    let archive = unpacked.tree().ok_or_else(|| Error::new(Kind::Failed, "it has no tree"))?;
    let made = image::make(&place, interrupt, |into| {
        let file = File::open(&archive).map_err(archive::ArchiveError::Stream)?;
        let mut decoder = archive::Decoder::open(file)?;
        archive::unpack(&mut decoder, into, &mut |_| interrupt.check())?;
        decoder.close().map(|()| None)
    });
    let path = made.map_err(|error| match error {
        FreshError::Place(error) => carried::no_place(&error)
            .hint("--name gives the machine another name, --tree names a place or a tree that is there"),
        FreshError::Content(error) => carried::not_archived(&error).within("cannot unpack its tree"),
    })?;
    Ok(Some(Made::at(path)))
}

/// Refuses a tree that has changed since: what runs in memory is of what was there.
pub(super) fn as_it_was(tree: &Path, unpacked: &Unpacked, interrupt: &Interrupt) -> Result<()> {
    let Some(then) = unpacked.listing()? else { return Ok(()) };
    let what = || format!("cannot use '{}'", tree.display());
    if !tree.exists() {
        return Err(Error::new(Kind::NotFound, what())
            .because("it is not there")
            .hint("--tree names its place"));
    }
    let now = Listing::read(tree, Depth::Quick, &mut Progress(interrupt))
        .map_err(|error| Error::new(Kind::Failed, what()).because(error))?;
    match then.difference(&now).named() {
        None => Ok(()),
        Some(named) => Err(Error::new(Kind::Failed, what())
            .because(format!("it has changed since the checkpoint was made: {named}"))
            .hint("--tree names one that is as it was; `osier checkpoint --with-tree` takes it along")),
    }
}

/// What a machine is to be that was another one.
pub(super) struct Wish<'a> {
    /// Its name, if not what it was.
    pub(super) name: Option<&'a str>,
    /// Its tree, if not where it was.
    pub(super) tree: Option<&'a Path>,
    /// What its clocks are to show.
    pub(super) clock: &'a str,
    /// Its console, if not what it was.
    pub(super) console: Option<&'a str>,
    /// It stays in the unit that osier is in. Whether it did before says nothing of here.
    pub(super) keep_unit: bool,
    /// Nothing is said of it but errors.
    pub(super) quiet: bool,
    /// What it was booted with is not to be kept altogether: it is another machine, with these settings.
    pub(super) anew: Option<&'a Settings>,
}

/// Has `run` run the machine of a checkpoint.
///
/// # Errors
/// What is not as it has to be, before anything is made; and `run`.
pub(super) fn with(
    (criu, unpacked): (&Criu, Unpacked),
    manifest: &Manifest,
    wish: &Wish<'_>,
    go: Box<dyn FnMut(Moment<'_>) -> Result<()> + '_>,
    run: impl FnOnce(Wanted, Company<'_>, &Sources<'_>) -> Result<u8>,
) -> Result<u8> {
    let settings = match wish.anew {
        Some(settings) => settings.clone(),
        None => settings(wish, manifest)?,
    };
    let tree = wish.tree.unwrap_or(&manifest.tree.path);
    let invocation = Invocation { dry_run: false, quiet: wish.quiet, settings: Some("no".to_owned()) };
    let sources = Sources::find(tree.as_os_str(), &settings, &invocation)?;
    let wanted = sources.decide(|image, tree| match manifest.machine.verb.as_str() {
        "boot" => find_init(image, tree).map(Some),
        _ => Ok(None),
    })?;
    let console = manifest.console.ok_or_else(|| {
        Error::new(Kind::Unsupported, "its machine had no console").hint("it was made by another osier")
    })?;
    let revival = Revival {
        criu,
        checkpoint: unpacked,
        log: log_path(wanted.spec.name.as_str())?,
        clocks: Clocks {
            monotonic: i64::try_from(manifest.clocks.monotonic_ns).unwrap_or(i64::MAX),
            boottime: i64::try_from(manifest.clocks.boottime_ns).unwrap_or(i64::MAX),
        },
        timers: manifest.timers.clone(),
        onward: match wish.clock {
            "elapsed" => Onward::Elapsed(manifest.clocks.realtime_ns),
            "host" => Onward::Host,
            _ => Onward::Continue,
        },
        console: pty::Identity { rdev: console.rdev, dev: console.dev },
        cgroup: manifest.cgroup.clone(),
        attire: manifest.network.as_ref().map(|link| link.attire.clone()).unwrap_or_default(),
        identity: if wish.anew.is_some() { Identity::Anew } else { Identity::Kept },
        lazily: None,
        go,
    };
    run(wanted, Company { revival: Some(revival), ..Company::default() }, &sources)
}

/// Refuses a checkpoint of a machine that could not run here, and says what one that can may miss.
pub(super) fn suits(there: &HostMark) -> Result<()> {
    let here = HostMark::read().context(|| "cannot look at the host")?;
    let differences = there.compare(&here);
    if let Some(refused) = differences.iter().find(|difference| difference.weight == Weight::Refuse) {
        return Err(Error::new(Kind::Unsupported, refused.to_string()));
    }
    for warning in differences {
        crate::error::say(format_args!("osier: {warning}\n"));
    }
    Ok(())
}

/// What the machine of a checkpoint was booted with.
pub(super) fn booted_with(manifest: &Manifest) -> Result<Settings> {
    serde_json::from_value(manifest.settings.clone())
        .map_err(|error| Error::new(Kind::Failed, "its settings are not understood").because(error))
}

/// What the machine was booted with, but for what was said otherwise.
fn settings(wish: &Wish<'_>, manifest: &Manifest) -> Result<Settings> {
    let mut settings = booted_with(manifest)?;
    if wish.keep_unit {
        // A unit that is kept has its own.
        (settings.slice, settings.property) = (None, Vec::new());
    }
    Ok(Settings {
        keep_unit: wish.keep_unit.then(|| Setting::flag("--keep-unit", "yes")),
        machine: Some(Setting::flag("--name", wish.name.unwrap_or(&manifest.machine.name))),
        uuid: manifest.machine.id.map(|id| Setting::flag("--uuid", id.to_string())),
        console: wish.console.map(|mode| Setting::flag("--console", mode)),
        ..settings
    })
}
