//! `osier image prewarm`: an image booted once and saved, for machines that start by going on from there.

use std::cell::Cell;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::carried::Source;
use super::clone;
use crate::cli::{Checkpoint, Content, ImagePrewarm, Invocation, Terminate, Tool};
use crate::error::{Context, Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::machine::record::{Stage, Store};
use crate::settings::{Setting, Settings};
use crate::verb::boot::find_init;
use crate::verb::lifetime::{Company, Sources};
use crate::verb::prewarmed::{DIRECTORY, ROOT, SAVED};
use crate::verb::restore::Made;
use crate::verb::target::deadline;
use crate::verb::{checkpoint, start, stop};

/// How long it may take to be ready.
const READY: Duration = Duration::from_secs(300);
/// How often is looked whether it is.
const PACE: Duration = Duration::from_millis(20);

/// `osier image prewarm`: the exit code to leave with. In the supervisor, which is a child, that of its machine.
///
/// # Errors
/// Whatever keeps the image from being booted or saved; nothing is left then.
pub(super) fn execute(options: &ImagePrewarm) -> Result<u8> {
    let what = format!("cannot prewarm '{}'", options.image.display());
    prewarm(options).map_err(|error| error.within(what))
}

fn prewarm(options: &ImagePrewarm) -> Result<u8> {
    let deadline = deadline(options.timeout.as_deref(), Some(READY))?;
    let source = Source::take(&options.image)?;
    let name = source.name.clone();
    let to = target(options, &name)?;
    let interrupt = Interrupt::watch().context(|| "cannot watch for signals")?;
    let growing = beside(&to);
    let made = DirBuilder::new().mode(0o700).create(&growing);
    made.context(|| format!("cannot make '{}'", growing.display()))?;
    let growing = Made::at(growing);
    let root = growing.path().join(ROOT);
    let tree = clone::copy_tree((&source.path, None), &root, &interrupt, options.tool.quiet)?;
    drop((interrupt, source));
    let settings = Settings {
        machine: Some(Setting::flag("NAME", &name)),
        console: Some(Setting::flag("--console", "passive")),
        checkpointable: Some(Setting::flag("--checkpointable", "yes")),
        ..Settings::default()
    };
    let invocation = Invocation { dry_run: false, quiet: options.tool.quiet, settings: None };
    let sources = Sources::find(tree.as_os_str(), &settings, &invocation)?;
    let wanted = sources.decide(|image, tree| find_init(image, tree).map(Some))?;
    let (caller, heard) = (std::process::id(), Cell::new(false));
    let code = start::in_background(wanted, Company::default(), &sources, |starter| {
        heard.set(true);
        start::hear(starter)?;
        let saved = save(options, (&name, &growing.path().join(SAVED)), deadline);
        if saved.is_err() {
            // It may have ended by itself.
            let _ =
                stop::terminate(&Terminate { names: vec![name.clone()], timeout: None }, &Store::default());
        }
        saved?;
        fs::rename(growing.path(), &to).context(|| format!("cannot make '{}'", to.display()))
    });
    if std::process::id() != caller || (heard.get() && code.is_ok()) {
        growing.keep();
    }
    if std::process::id() == caller && code.is_ok() && !options.tool.quiet {
        crate::verb::print(&format!("'{name}' is booted and saved in {}\n", to.display()))?;
    }
    code
}

/// Waits until it is ready, and saves it.
fn save(options: &ImagePrewarm, (name, to): (&str, &Path), deadline: Option<Instant>) -> Result<()> {
    let store = Store::default();
    let interrupt = Interrupt::watch().context(|| "cannot watch for signals")?;
    loop {
        match store.read(name).map(|record| record.state) {
            Some(Stage::Running) => break,
            None | Some(Stage::Stopping) => {
                return Err(Error::new(Kind::Failed, "it ended before it was ready")
                    .hint(format!("osier logs {name}")));
            }
            Some(_) => {}
        }
        if interrupt.check().is_err() {
            return Err(Error::new(Kind::Failed, "it was interrupted"));
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Error::new(Kind::Failed, "it is not ready").because("the time is over"));
        }
        thread::sleep(PACE);
    }
    let options = Checkpoint {
        name: name.to_owned(),
        to: Some(to.to_owned()),
        leave_running: false,
        content: Content { compress: false, with_tree: false },
        tool: Tool { criu: options.tool.criu.clone(), quiet: true },
    };
    checkpoint::make(&options, &store, checkpoint::Tree::Copy)
}

/// Where it is to be, whose directory is there.
fn target(options: &ImagePrewarm, name: &str) -> Result<PathBuf> {
    let target = match &options.to {
        Some(target) => std::path::absolute(target).context(|| "cannot find the current directory")?,
        None => {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(DIRECTORY);
            made.context(|| format!("cannot make {DIRECTORY}"))?;
            Path::new(DIRECTORY).join(name)
        }
    };
    if target.extension().is_some_and(|extension| extension == "osier") {
        return Err(Error::usage("--to").because("what is prewarmed is a directory, with a tree in it"));
    }
    match target.symlink_metadata() {
        Ok(_) => Err(Error::new(Kind::InUse, format!("cannot make '{}'", target.display()))
            .because("there is something of that name")
            .hint("remove it first, or --to names another place")),
        Err(_) => Ok(target),
    }
}

/// Where it grows: a rename away.
fn beside(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default();
    target.with_file_name(format!(".{}.prewarm", name.display()))
}
