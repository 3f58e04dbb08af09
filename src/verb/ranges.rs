//! Which user IDs a machine gets that wants any of its own, and how its tree's files become theirs.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::error::{Context, Error, Kind, Result};
use crate::idmap::pick::{self, Held, Taken};
use crate::idrange::IdRange;
use crate::image;
use crate::interrupt::{Interrupt, Interrupted};
use crate::launch::open_users;
use crate::mount::root::can_map;
use crate::spec::{Layer, MachineSpec, Ownership, Users};

/// Says which it would get at the moment, and what becomes of the tree's files.
///
/// # Errors
/// A tree whose files cannot become the machine's in the way that was asked for.
pub(super) fn look(spec: &mut MachineSpec) -> Result<()> {
    if let Users::Picked(range, _) = &mut spec.users {
        *range = pick::look(spec.name.as_str(), spec.root.owner, &taken());
    }
    decide(spec)
}

/// Gets them: nobody else does from now on.
///
/// # Errors
/// As [`look`].
pub(super) fn hold(spec: &mut MachineSpec) -> Result<Option<Held>> {
    let Users::Picked(range, _) = &mut spec.users else { return Ok(None) };
    let held = pick::hold(spec.name.as_str(), spec.root.owner, &taken());
    let held = held.context(|| "cannot hold a range of user IDs")?;
    let found = held.as_ref().map(Held::range);
    if std::mem::replace(range, found) != found {
        decide(spec)?;
    }
    Ok(held)
}

/// Makes the tree's files theirs, where that is to be done in the tree. The tree is held. ^C stops it, and the next time it goes on.
///
/// # Errors
/// What keeps it from being done to the end.
pub(super) fn give(spec: &MachineSpec) -> Result<()> {
    let (Some(range), Ownership::Chowned) = (spec.users.range(), spec.root.owners) else { return Ok(()) };
    let what = || format!("cannot give '{}' to the user IDs {range}", spec.root.tree.display());
    let interrupt = Interrupt::watch().context(what)?;
    let bar = std::io::stderr()
        .is_terminal()
        .then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
    let given = image::give(&spec.root.tree, range, &mut |seen| {
        if let Some(bar) = &bar {
            bar.set_position(seen);
        }
        interrupt.check().map_err(|Interrupted| "interrupted; the next start goes on from here".to_owned())
    });
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    given.map_err(|error| Error::new(Kind::Failed, what()).because(error))
}

/// How the tree's files become those of the machine's users.
fn decide(spec: &mut MachineSpec) -> Result<()> {
    let (Users::Fixed(range, wish) | Users::Picked(Some(range), wish)) = spec.users else { return Ok(()) };
    let tree = spec.root.tree.as_path();
    let refuse = |why: &str| {
        let what = format!("cannot give '{}' to the machine's users", tree.display());
        Error::new(Kind::Unsupported, what).because(why)
    };
    spec.root.owners = match wish {
        _ if spec.root.owner == range.first() => Ownership::AsItIs,
        Ownership::AsItIs => Ownership::AsItIs,
        Ownership::Mapped | Ownership::Auto if is_mappable(tree, range)? => Ownership::Mapped,
        Ownership::Mapped => {
            return Err(refuse("its file system has no ID-mapped mounts")
                .hint("--private-users-ownership=chown changes the owners in the tree"));
        }
        Ownership::Chowned | Ownership::Auto if spec.root.layer == Layer::Scratch => {
            return Err(refuse("what --ephemeral leaves as it is would have to be changed"));
        }
        Ownership::Chowned | Ownership::Auto => Ownership::Chowned,
    };
    Ok(())
}

fn is_mappable(tree: &Path, range: IdRange) -> Result<bool> {
    let users = open_users(range)?;
    can_map(tree, users.as_fd()).context(|| format!("cannot look whether '{}' can be mapped", tree.display()))
}

fn taken() -> Taken {
    Taken::read(Path::new("/etc"))
}
