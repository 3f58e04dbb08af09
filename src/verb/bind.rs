//! `osier bind`: a file or a directory of the host's, mounted in a machine that runs.

use std::os::fd::AsFd;

use super::copy::{open, target_inside};
use crate::cli::Bind;
use crate::error::{Context, Error, Kind, Result};
use crate::machine::record::Store;
use crate::mount::live;
use crate::mount::op::Access;
use crate::transfer::{Missing, Point, printable};

/// `osier bind`.
///
/// # Errors
/// Whatever keeps it from being mounted; no mount point that was made is left then.
pub fn execute(options: &Bind, store: &Store) -> Result<()> {
    let Bind { name, source, target, ro, mkdir } = options;
    let target = target_inside(target.as_deref(), source)?;
    let door = open(store, name, "bind in")?;
    let cannot = || format!("cannot bind '{}' in '{name}'", printable(source));
    if store.read(name).is_some_and(|record| record.checkpointable.is_some()) {
        return Err(Error::new(Kind::Failed, cannot())
            .because("a machine that was booted with --checkpointable could not be saved any more")
            .hint("`osier copy-to` puts a copy into it"));
    }
    let access = if *ro { Access::ReadOnly } else { Access::ReadWrite };
    let tree = live::clone(source, access).context(cannot)?;
    door.make_files_as_its_root()?;
    let missing = if *mkdir { Missing::Make } else { Missing::Refuse };
    let point = Point::open(&door.root, &target, tree.as_fd(), missing).map_err(|cause| {
        let failed = Error::new(cause.kind(), cannot()).because(&cause);
        match missing {
            Missing::Refuse if cause.kind() == Kind::NotFound => failed.hint("--mkdir makes it"),
            _ => failed,
        }
    })?;
    let attached = live::attach(tree.as_fd(), point.target(), door.leader());
    if let Err(error) = attached {
        point.undo();
        door.check()?;
        return Err(Error::io(cannot(), &error));
    }
    Ok(())
}
