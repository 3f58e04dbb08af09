//! `osier copy-to` and `osier copy-from`: files and trees into a running machine, and out of it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::stat::{Mode, umask};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::may::may;
use super::running;
use crate::cli::{CopyFrom, CopyOptions, CopyTo};
use crate::error::{Context, Error, Kind, Result};
use crate::image::Tree;
use crate::interrupt::{Interrupt, Interrupted};
use crate::machine::Door;
use crate::machine::record::Store;
use crate::transfer::{self, Devices, Existing, Owner, Place, Policy, Translation, Watch, printable};
use crate::user::{User, find_group};

/// `osier copy-to`.
///
/// # Errors
/// Whatever keeps the copy from being made; nothing is left of it then.
pub fn copy_to(options: &CopyTo, store: &Store) -> Result<()> {
    let CopyTo { name, source, target, options } = options;
    let target = target_inside(target.as_deref(), source)?;
    let door = open(store, name, "copy to")?;
    let owner = owner(options, &door.root, &format!("in machine '{name}'"))?;
    let to = (Place::Beneath(&door.root), target.as_path());
    let ids = door.ids.map_or(Translation::None, Translation::Into);
    door.make_files_as_its_root()?;
    copy((Place::Host, source), to, policy(options, owner, ids), options, &door)
        .map_err(|error| failed(&error, "to", name))
}

/// `osier copy-from`.
///
/// # Errors
/// As [`copy_to`].
pub fn copy_from(options: &CopyFrom, store: &Store) -> Result<()> {
    let CopyFrom { name, source, target, options } = options;
    be_absolute(source)?;
    let target = target.clone().unwrap_or_else(|| plain(source));
    let door = open(store, name, "copy from")?;
    let host = Tree::open(Path::new("/")).context(|| "cannot open '/'")?;
    let owner = owner(options, &host, "on this host")?;
    let from = (Place::Beneath(&door.root), source.as_path());
    let ids = door.ids.map_or(Translation::None, Translation::OutOf);
    copy(from, (Place::Host, &target), policy(options, owner, ids), options, &door)
        .map_err(|error| failed(&error, "from", name))
}

/// A path without the slash or dot at its end that would say more than where it is.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

/// Where something goes in a machine: where that was said, or else at the path that it has on the host.
pub(super) fn target_inside(said: Option<&Path>, source: &Path) -> Result<PathBuf> {
    let target = match said {
        Some(target) => target.to_owned(),
        None => plain(
            &std::path::absolute(source)
                .context(|| format!("cannot make '{}' absolute", printable(source)))?,
        ),
    };
    be_absolute(&target)?;
    Ok(target)
}

fn be_absolute(path: &Path) -> Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    let what = format!("'{}' is not an absolute path", printable(path));
    Err(Error::usage(what).hint("paths in a machine begin with '/'"))
}

/// Opens a machine for who may; `action` as it stands after "cannot".
pub(super) fn open(store: &Store, name: &str, action: &str) -> Result<Door> {
    let record = running(store, &[name.to_owned()])?.remove(0);
    may(&record, action)?;
    Door::open(store, &record)
}

fn policy(options: &CopyOptions, owner: Owner, ids: Translation) -> Policy {
    Policy {
        owner,
        ids,
        existing: if options.consent.force { Existing::Replace } else { Existing::Refuse },
        devices: if options.consent.devices { Devices::Copy } else { Devices::Refuse },
    }
}

/// Names are those of the side that the copy goes to, out of its own files.
fn owner(options: &CopyOptions, tree: &Tree, place: &str) -> Result<Owner> {
    let read = |path: &str| tree.read_text(path).context(|| format!("cannot read {path} {place}"));
    let missing = |sort: &str, name: &str| {
        Error::new(Kind::NotFound, format!("no {sort} '{name}' {place}"))
            .hint("numbers are taken as they are")
    };
    let uid = options.uid.as_deref().map(|wanted| -> Result<u32> {
        let passwd = if is_number(wanted) { None } else { read("/etc/passwd")? };
        let user = User::find(wanted, &passwd.unwrap_or_default(), "");
        Ok(user.map_err(|_| missing("user", wanted))?.uid)
    });
    let gid = options.gid.as_deref().map(|wanted| -> Result<u32> {
        let group = if is_number(wanted) { None } else { read("/etc/group")? };
        find_group(wanted, &group.unwrap_or_default()).map_err(|_| missing("group", wanted))
    });
    let owner = Owner { uid: uid.transpose()?, gid: gid.transpose()? };
    // (uid_t) -1 means "leave it" to chown(2).
    if [owner.uid, owner.gid].contains(&Some(u32::MAX)) {
        return Err(Error::usage(format!("{} is no user or group ID", u32::MAX)));
    }
    Ok(owner)
}

fn is_number(text: &str) -> bool {
    text.parse::<u32>().is_ok()
}

fn copy(
    from: (Place<'_>, &Path),
    to: (Place<'_>, &Path),
    policy: Policy,
    options: &CopyOptions,
    door: &Door,
) -> std::result::Result<(), transfer::CopyError> {
    umask(Mode::empty());
    raise_descriptors();
    let interrupt = Interrupt::watch()
        .map_err(|error| transfer::CopyError { source: from.1.to_owned(), cause: error.into() })?;
    let bar = (!options.quiet && std::io::stderr().is_terminal()).then(bar);
    let mut follower = Follower { interrupt, door, bar, begun: false };
    transfer::copy(from, to, policy, &mut follower)
}

/// A deep tree takes two descriptors for each level. A limit that cannot be raised is one that deep trees meet.
pub(super) fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn failed(error: &transfer::CopyError, way: &str, name: &str) -> Error {
    let what = format!("cannot copy '{}' {way} '{name}'", printable(&error.source));
    let failed = Error::new(error.cause.kind(), what).because(&error.cause);
    match error.cause.hint() {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
}

/// Shows how far the copy is, and ends it when the user wants that or the machine is gone.
struct Follower<'a> {
    interrupt: Interrupt,
    door: &'a Door,
    bar: Option<ProgressBar>,
    /// Whether the first entry was seen: of one that is no directory, all is known.
    begun: bool,
}

impl Watch for Follower<'_> {
    fn entry(&mut self, path: &Path, size: Option<u64>) {
        let first = !std::mem::replace(&mut self.begun, true);
        let Some(bar) = &self.bar else { return };
        if let (true, Some(size)) = (first, size) {
            bar.set_length(size);
            set_style(
                bar,
                "{wide_bar} {binary_bytes:>10} of {binary_total_bytes} {binary_bytes_per_sec:>12}",
            );
        }
        bar.set_message(printable(path));
    }

    fn bytes(&mut self, count: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(count);
        }
    }

    fn check(&mut self) -> std::result::Result<(), String> {
        self.interrupt.check().map_err(|Interrupted| "interrupted".to_owned())?;
        self.door.check().map_err(|error| error.to_string())
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    // No steady tick: that would be a thread. The copy calls often enough.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    set_style(&bar, "{spinner} {wide_msg} {binary_bytes:>10} {binary_bytes_per_sec:>12}");
    bar
}

fn set_style(bar: &ProgressBar, template: &str) {
    // A template that cannot be parsed leaves the style that there is.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}
