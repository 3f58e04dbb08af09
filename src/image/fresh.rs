//! A new image gets its name when it is whole: from a recipe, another image or an archive.
//!
//! It grows in a scratch directory beside its final place ([`Scratch`]) and gets that by one rename(2). What stood beside an
//! image of this name that is gone, the clocks of its machine, is none of the new one's: it gets its own or none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::build::{self, BuildError};
use super::scratch::Scratch;
use crate::clock::state::State;
use crate::interrupt::{Interrupt, Interrupted};

/// Why there is no new image.
#[derive(Debug)]
pub enum FreshError<E> {
    /// Its place.
    Place(BuildError),
    /// What was to be in it.
    Content(E),
}

impl<E> From<BuildError> for FreshError<E> {
    fn from(error: BuildError) -> Self {
        Self::Place(error)
    }
}

impl<E> From<Interrupted> for FreshError<E> {
    fn from(interrupted: Interrupted) -> Self {
        Self::Place(interrupted.into())
    }
}

/// Makes the tree `to` of what `fill` puts into the directory that it is given, which is there and empty. What `fill` gives
/// is where the clocks of the first machine from it go on from. Gives the tree's path, absolute.
///
/// # Errors
/// [`FreshError`]; nothing is left then, under the final name or any other.
pub fn make<E>(
    to: &Path,
    interrupt: &Interrupt,
    fill: impl FnOnce(&Path) -> Result<Option<State>, E>,
) -> Result<PathBuf, FreshError<E>> {
    if !rustix::process::geteuid().is_root() {
        return Err(BuildError::NotRoot.into());
    }
    let (parent, name) = build::place(to)?;
    let target = parent.join(&name);
    if build::exists(&target)? {
        return Err(BuildError::Exists(target).into());
    }
    let made = build::make_parent(&parent)?;
    let done = grow(&target, interrupt, fill);
    if done.is_err() && made {
        // Whoever else found it meanwhile keeps it: it is not empty then.
        let _ = fs::remove_dir(&parent);
    }
    done.map(|()| target)
}

fn grow<E>(
    target: &Path,
    interrupt: &Interrupt,
    fill: impl FnOnce(&Path) -> Result<Option<State>, E>,
) -> Result<(), FreshError<E>> {
    Scratch::remove_stale(target).map_err(BuildError::at("remove what an earlier attempt left"))?;
    let beside = format!("make a directory beside '{}'", target.display());
    let scratch = Scratch::make(target).map_err(BuildError::at(beside))?;
    let done = settle(&scratch, target, interrupt, fill);
    let closed = scratch.close();
    done?;
    // The image is there and whole.
    let _ = closed;
    Ok(())
}

fn settle<E>(
    scratch: &Scratch,
    target: &Path,
    interrupt: &Interrupt,
    fill: impl FnOnce(&Path) -> Result<Option<State>, E>,
) -> Result<(), FreshError<E>> {
    let tree = scratch.tree();
    let clocks = fill(&tree).map_err(FreshError::Content)?;
    build::sync(&tree).map_err(BuildError::at("write the tree to the disk"))?;
    interrupt.check()?;
    let what = || BuildError::at(format!("keep clocks beside '{}'", target.display()));
    set_clocks(target, clocks.as_ref()).map_err(what())?;
    let placed = build::put_in_place(&tree, target, interrupt);
    if placed.is_err() && clocks.is_some() {
        let _ = set_clocks(target, None);
    }
    Ok(placed?)
}

/// Makes `clocks` what stands beside the tree at `target`.
///
/// # Errors
/// What the file system gives.
pub(super) fn set_clocks(target: &Path, clocks: Option<&State>) -> io::Result<()> {
    let Some(path) = State::path(target) else { return Ok(()) };
    match clocks {
        Some(state) => state.write(&path),
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    #[test]
    fn what_is_not_whole_leaves_nothing() {
        let dir = TestDir::new("fresh");
        let interrupt = Interrupt::watch().unwrap();
        let target = dir.join("new");
        let failed = make(&target, &interrupt, |tree| {
            fs::write(tree.join("half"), "").unwrap();
            Err("no more")
        });
        assert!(matches!(failed, Err(FreshError::Content("no more"))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        // The clocks of one that was there before.
        fs::write(State::path(&target).unwrap(), "{}").unwrap();
        let made = make(&target, &interrupt, |tree| {
            fs::write(tree.join("file"), "").unwrap();
            Ok::<_, ()>(None)
        });
        assert_eq!(made.unwrap(), target);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let again = make(&target, &interrupt, |_| Ok::<_, ()>(None));
        assert!(matches!(again, Err(FreshError::Place(BuildError::Exists(_)))));
        let nowhere = make(&dir.join("a/b"), &interrupt, |_| Ok::<_, ()>(None));
        assert!(matches!(nowhere, Err(FreshError::Place(BuildError::NoParent(_)))));
    }
}
