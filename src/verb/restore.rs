//! `osier restore`: a machine that goes on from a checkpoint.

use std::path::{Path, PathBuf};

use super::boot::find_init;
use super::checkpoint::Progress;
use super::lifetime::{Company, Sources, in_foreground};
use super::start;
use crate::checkpoint::{Checkpoint, HostMark, Manifest, Weight};
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
    suits(manifest)?;
    let interrupt = Interrupt::watch().context(|| "cannot catch signals")?;
    let unpacked = checkpoint.unpack(&scratch(options)?, &mut Progress(&interrupt))?;
    drop(interrupt);
    let settings = settings(options, manifest)?;
    let tree = options.tree.clone().unwrap_or_else(|| manifest.tree.path.clone());
    let invocation =
        Invocation { dry_run: false, quiet: options.tool.quiet, settings: Some("no".to_owned()) };
    let sources = Sources::find(tree.as_os_str(), &settings, &invocation)?;
    let wanted = sources.decide(|image, tree| match manifest.machine.verb.as_str() {
        "boot" => find_init(image, tree).map(Some),
        _ => Ok(None),
    })?;
    let console = manifest.console.ok_or_else(|| {
        Error::new(Kind::Unsupported, "its machine had no console").hint("it was made by another osier")
    })?;
    let revival = Revival {
        criu: &criu,
        checkpoint: unpacked,
        log: log_path(wanted.spec.name.as_str())?,
        console: pty::Identity { rdev: console.rdev, dev: console.dev },
        cgroup: manifest.cgroup.clone(),
        attire: manifest.network.as_ref().map(|link| link.attire.clone()).unwrap_or_default(),
        go: Box::new(|| Ok(())),
    };
    let company = Company { revival: Some(revival), ..Company::default() };
    if options.background {
        return start::in_background(wanted, company, &sources);
    }
    in_foreground(wanted, company, &sources)
}

/// Refuses a checkpoint of a machine that could not run here.
fn suits(manifest: &Manifest) -> Result<()> {
    let here = HostMark::read().context(|| "cannot look at the host")?;
    let differences = manifest.host.compare(&here);
    match differences.iter().find(|difference| difference.weight == Weight::Refuse) {
        Some(difference) => Err(Error::new(Kind::Unsupported, difference.to_string())),
        None => Ok(()),
    }
}

/// The directory that the checkpoint is in; absolute, for a supervisor leaves the caller's.
fn scratch(options: &Restore) -> Result<PathBuf> {
    let whole =
        options.from.canonicalize().context(|| format!("cannot find '{}'", options.from.display()))?;
    Ok(whole.parent().unwrap_or(Path::new("/")).to_owned())
}

/// What the machine was booted with, but for what was said otherwise.
fn settings(options: &Restore, manifest: &Manifest) -> Result<Settings> {
    let settings: Settings = serde_json::from_value(manifest.settings.clone())
        .map_err(|error| Error::new(Kind::Failed, "its settings are not understood").because(error))?;
    let name = options.name.as_ref().unwrap_or(&manifest.machine.name);
    let console = options.console.as_deref().or(options.background.then_some("passive"));
    Ok(Settings {
        machine: Some(Setting::flag("--name", name)),
        uuid: manifest.machine.id.map(|id| Setting::flag("--uuid", id.to_string())),
        console: console.map(|mode| Setting::flag("--console", mode)),
        ..settings
    })
}
