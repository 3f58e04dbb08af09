//! `osier restore`: a machine that goes on from a checkpoint.

use std::path::Path;

use super::boot::find_init;
use super::checkpoint::Progress;
use super::lifetime::{Company, Sources, Wanted, in_foreground};
use super::start;
use crate::checkpoint::{Checkpoint, HostMark, Manifest, Unpacked, Weight};
use crate::cli::{Invocation, Restore};
use crate::console::pty;
use crate::criu::Criu;
use crate::error::{Context, Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::launch::Revival;
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
    drop(interrupt);
    let wish = Wish {
        name: options.name.as_deref(),
        tree: options.tree.as_deref(),
        clock: &options.clock,
        console: options.console.as_deref().or(options.background.then_some("passive")),
        quiet: options.tool.quiet,
    };
    with((&criu, unpacked), manifest, &wish, Box::new(|| Ok(())), |wanted, company, sources| {
        if options.background {
            return start::in_background(wanted, company, sources, start::hear);
        }
        in_foreground(wanted, company, sources)
    })
}

/// What a machine is to be that was another one.
pub(super) struct Wish<'a> {
    /// Its name, if not what it was.
    pub(super) name: Option<&'a str>,
    /// Its tree, if not where it was.
    pub(super) tree: Option<&'a Path>,
    /// What its clocks are to show.
    #[expect(dead_code, reason = "the next commit has it in the images")]
    pub(super) clock: &'a str,
    /// Its console, if not what it was.
    pub(super) console: Option<&'a str>,
    /// Nothing is said of it but errors.
    pub(super) quiet: bool,
}

/// Has `run` run the machine of a checkpoint.
///
/// # Errors
/// What is not as it has to be, before anything is made; and `run`.
pub(super) fn with(
    (criu, unpacked): (&Criu, Unpacked),
    manifest: &Manifest,
    wish: &Wish<'_>,
    go: Box<dyn FnMut() -> Result<()> + '_>,
    run: impl FnOnce(Wanted, Company<'_>, &Sources<'_>) -> Result<u8>,
) -> Result<u8> {
    let settings = settings(wish, manifest)?;
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
        console: pty::Identity { rdev: console.rdev, dev: console.dev },
        cgroup: manifest.cgroup.clone(),
        attire: manifest.network.as_ref().map(|link| link.attire.clone()).unwrap_or_default(),
        go,
    };
    run(wanted, Company { revival: Some(revival), ..Company::default() }, &sources)
}

/// Refuses a checkpoint of a machine that could not run here.
pub(super) fn suits(there: &HostMark) -> Result<()> {
    let here = HostMark::read().context(|| "cannot look at the host")?;
    let differences = there.compare(&here);
    match differences.iter().find(|difference| difference.weight == Weight::Refuse) {
        Some(difference) => Err(Error::new(Kind::Unsupported, difference.to_string())),
        None => Ok(()),
    }
}

/// What the machine was booted with, but for what was said otherwise.
fn settings(wish: &Wish<'_>, manifest: &Manifest) -> Result<Settings> {
    let settings: Settings = serde_json::from_value(manifest.settings.clone())
        .map_err(|error| Error::new(Kind::Failed, "its settings are not understood").because(error))?;
    Ok(Settings {
        machine: Some(Setting::flag("--name", wish.name.unwrap_or(&manifest.machine.name))),
        uuid: manifest.machine.id.map(|id| Setting::flag("--uuid", id.to_string())),
        console: wish.console.map(|mode| Setting::flag("--console", mode)),
        ..settings
    })
}
