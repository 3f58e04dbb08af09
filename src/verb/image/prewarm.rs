//! `osier image prewarm`: an image booted once and saved, for machines that start by going on from there.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::carried::Source;
use super::clone;
use crate::cli::{Checkpoint, Content, ImagePrewarm, Invocation, Terminate, Tool};
use crate::error::{Context, Error, Kind, Result};
use crate::image::{PREWARMED, Scratch};
use crate::interrupt::Interrupt;
use crate::machine::record::{Stage, Store};
use crate::settings::{Setting, Settings};
use crate::verb::boot::find_init;
use crate::verb::lifetime::{Company, Sources};
use crate::verb::prewarmed::{ROOT, SAVED};
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
    let scratch = beside(&to)?;
    let growing = scratch.tree();
    let tree = clone::copy_tree((&source.path, None), &growing.join(ROOT), &interrupt, options.tool.quiet)?;
    drop(source);
    interrupt.check().map_err(|_| Error::new(Kind::Failed, "it was interrupted"))?;
    let settings = Settings {
        machine: Some(Setting::flag("NAME", &name)),
        console: Some(Setting::flag("--console", "passive")),
        checkpointable: Some(Setting::flag("--checkpointable", "yes")),
        ..Settings::default()
    };
    let invocation = Invocation { dry_run: false, quiet: options.tool.quiet, settings: None };
    let sources = Sources::find(tree.as_os_str(), &settings, &invocation)?;
    let wanted = sources.decide(|image, tree| find_init(image, tree).map(Some))?;
    let caller = std::process::id();
    let code = start::in_background(wanted, Company::default(), &sources, |starter| {
        start::hear(starter)?;
        let saved = save(options, (&name, &growing.join(SAVED)), (deadline, &interrupt));
        if saved.is_err() {
            // It may have ended by itself.
            let _ =
                stop::terminate(&Terminate { names: vec![name.clone()], timeout: None }, &Store::default());
        }
        saved?;
        fs::rename(&growing, &to).context(|| format!("cannot make '{}'", to.display()))
    });
    if std::process::id() == caller && code.is_ok() && !options.tool.quiet {
        crate::verb::print(&format!("'{name}' is booted and saved in {}\n", to.display()))?;
    }
    code
}

/// Waits until it is ready, and saves it.
fn save(
    options: &ImagePrewarm,
    (name, to): (&str, &Path),
    (deadline, interrupt): (Option<Instant>, &Interrupt),
) -> Result<()> {
    let store = Store::default();
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
            let made = DirBuilder::new().recursive(true).mode(0o700).create(PREWARMED);
            made.context(|| format!("cannot make {PREWARMED}"))?;
            Path::new(PREWARMED).join(name)
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

/// Where it grows: a rename away. What was left there by others that were killed goes.
fn beside(target: &Path) -> Result<Scratch> {
    let what = || format!("cannot make a directory beside '{}'", target.display());
    Scratch::remove_stale(target).context(what)?;
    let scratch = Scratch::make(target).context(what)?;
    // A machine's memory has its secrets in it.
    fs::set_permissions(scratch.tree(), Permissions::from_mode(0o700)).context(what)?;
    Ok(scratch)
}
