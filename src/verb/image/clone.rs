//! `osier image clone`: an image that is a copy of another.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::carried::{Follower, Source, no_place, target};
use crate::cli::ImageClone;
use crate::clock::state::State;
use crate::error::{Context, Error, Result, reason};
use crate::image::{self, FreshError};
use crate::interrupt::Interrupt;
use crate::settings::search::DIRECTORIES;
use crate::transfer::{self, CopyError, Devices, Existing, Owner, Place, Policy, Translation};
use crate::verb::copy::raise_descriptors;

/// All that makes the tree; where the file system can share the content of files, it is shared.
const POLICY: Policy = Policy {
    owner: Owner { uid: None, gid: None },
    ids: Translation::None,
    existing: Existing::Refuse,
    devices: Devices::Copy,
};

/// `osier image clone`.
///
/// # Errors
/// Whatever keeps the image from being made; nothing is left of it then.
pub(super) fn execute(options: &ImageClone) -> Result<()> {
    let what = format!("cannot clone '{}'", options.source.display());
    clone(options).map_err(|error| error.within(what))
}

fn clone(options: &ImageClone) -> Result<()> {
    let to = target(&options.target)?;
    let source = Source::take(&options.source)?;
    let clocks = options.along.with_clocks.then(|| source.clocks()).transpose()?;
    let interrupt = Interrupt::watch().context(|| "cannot watch for signals")?;
    let path = copy_tree((&source.path, clocks), &to, &interrupt, options.along.quiet)?;
    for (from, to) in settings_files(&source, &path) {
        if let Err(error) = copy_settings(&from, &to) {
            let from = from.display();
            let why = reason(&error);
            crate::error::say(format_args!("osier: the settings in '{from}' did not come along: {why}\n"));
        }
    }
    Ok(())
}

/// Makes the tree `to`, a copy of another, which nobody writes to meanwhile; its machine's clocks are to go on from what is given.
/// Gives its path, absolute.
///
/// # Errors
/// Whatever keeps it from being made; nothing is left of it then.
pub(in crate::verb) fn copy_tree(
    (from, clocks): (&Path, Option<State>),
    to: &Path,
    interrupt: &Interrupt,
    quiet: bool,
) -> Result<PathBuf> {
    let (mask, descriptors) = (umask(Mode::empty()), getrlimit(Resource::Nofile));
    raise_descriptors();
    let mut follower = Follower::new(interrupt, quiet);
    let made = image::make(to, interrupt, |tree| {
        // The copy is made under a name that nothing has.
        let removed = fs::remove_dir(tree);
        removed.map_err(|error| CopyError { source: from.to_owned(), cause: error.into() })?;
        transfer::copy((Place::Host, from), (Place::Host, tree), POLICY, &mut follower)?;
        Ok(clocks)
    });
    drop(follower);
    // A machine may be started next.
    umask(mask);
    let _ = setrlimit(Resource::Nofile, descriptors);
    made.map_err(|error| match error {
        FreshError::Place(error) => no_place(&error),
        FreshError::Content(error) => not_copied(from, &error),
    })
}

fn not_copied(tree: &Path, error: &CopyError) -> Error {
    let failed = Error::new(error.cause.kind(), error.cause.to_string());
    if error.source == tree {
        return failed;
    }
    failed.within(format!("cannot copy '{}'", transfer::printable(&error.source)))
}

/// Settings files of the source, and where a copy's would be: the administrator's, and the one beside the image.
fn settings_files(source: &Source, to: &Path) -> Vec<(PathBuf, PathBuf)> {
    let Some(name) = to.file_name().map(|name| name.to_string_lossy().into_owned()) else {
        return Vec::new();
    };
    let file = |directory: &Path, name: &str| directory.join(format!("{name}.nspawn"));
    let trusted = DIRECTORIES.iter().map(Path::new).map(|directory| (directory, directory));
    trusted
        .chain(source.path.parent().zip(to.parent()))
        .map(|(from, to)| (file(from, &source.name), file(to, &name)))
        .filter(|(from, to)| from.is_file() && to.symlink_metadata().is_err())
        .collect()
}

fn copy_settings(from: &Path, to: &Path) -> io::Result<()> {
    let text = fs::read(from)?;
    let mut file = File::create_new(to)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(&text)
}
