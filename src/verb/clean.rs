//! `osier check --clean`: takes away what machines left whose supervisor was killed.

use super::schema::{self, Cleaned};
use super::{json, print, table};
use crate::cli::Check;
use crate::error::{Context, Error, Kind, Result};
use crate::machine::leftovers::{self, Removed};
use crate::machine::record::Store;
use crate::mount::table as mounts;

/// Removes it and prints what was removed.
///
/// # Errors
/// [`Kind::Permission`] for who is not root; the first thing that could not be removed, after the rest was; what standard
/// output gives.
pub(super) fn execute(options: &Check, store: &Store) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(Kind::Permission, "cannot clean up")
            .because("only root may")
            .hint("run it as root, with sudo for instance"));
    }
    let cgroup2 = mounts::read().and_then(|mountinfo| mounts::find_whole(&mountinfo, "cgroup2"));
    let cgroup2 = cgroup2.context(|| "cannot read /proc/self/mountinfo")?;
    let (removed, verdict) = leftovers::clean(store, cgroup2.as_deref());
    let cleaned: Vec<_> = removed.into_iter().map(cleaned).collect();
    print(&if options.json { json(&cleaned)? } else { text(&cleaned) })?;
    verdict
}

fn cleaned(removed: Removed) -> Cleaned {
    Cleaned {
        version: schema::VERSION,
        machine: removed.machine,
        what: removed.thing.name().to_owned(),
        object: removed.object,
    }
}

fn text(cleaned: &[Cleaned]) -> String {
    let rows: Vec<_> =
        cleaned.iter().map(|one| [one.machine.clone(), one.what.clone(), one.object.clone()]).collect();
    match rows.len() {
        0 => "Nothing was left.\n".to_owned(),
        1 => format!("{}\nRemoved.\n", table::columns(None, &rows)),
        count => format!("{}\n{count} things removed.\n", table::columns(None, &rows)),
    }
}
