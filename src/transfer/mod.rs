//! Copying files and trees between two places, either of which may be a root that somebody hostile writes to; and opening
//! mount points in such a root ([`Point`]).
//!
//! What is made grows under a hidden name beside its final one and gets that by one rename(2): a copy that fails, or is
//! stopped, leaves nothing. Nothing is followed: the two paths that the user names are resolved in their places
//! ([`place`]), from there on every name is opened from its directory's descriptor with `O_NOFOLLOW`, looked at through that
//! descriptor, and read or written through no other, so that whoever swaps a directory for a link meanwhile gains nothing.
//!
//! The umask of the process has to be zero.

mod attributes;
mod content;
mod place;
mod point;
mod remove;
mod translation;
mod walk;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use attributes::Owner;
pub use place::Place;
pub use point::{Missing, Point};
pub use translation::Translation;

use crate::error::{Kind, reason};
use place::{Goal, Made, Origin};
use walk::Walk;

/// How to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Who is to own the copy.
    pub owner: Owner,
    /// What IDs of the source are at the target.
    pub ids: Translation,
    /// What to do with what is there.
    pub existing: Existing,
    /// What to do with device nodes.
    pub devices: Devices,
}

/// What to do with what is at the target already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Nothing is overwritten: the copy fails.
    Refuse,
    /// Directories are merged, files and links replaced, each at once.
    Replace,
}

/// What to do with device nodes: where one is, whoever its mode allows reaches the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// The copy fails.
    Refuse,
    /// They are copied as nodes.
    Copy,
}

/// Who follows a copy, and can stop it.
pub trait Watch {
    /// `path` is being copied from now on; of a regular file, so many bytes.
    fn entry(&mut self, path: &Path, size: Option<u64>);

    /// So many more bytes of content are copied, those of holes included.
    fn bytes(&mut self, count: u64);

    /// Asked before each entry, each piece of content, and the last rename.
    ///
    /// # Errors
    /// Why the copy is to stop, as the end of a sentence.
    fn check(&mut self) -> Result<(), String>;
}

/// What was not copied, and why; nothing is left of it.
#[derive(Debug)]
pub struct CopyError {
    /// What was being copied.
    pub source: PathBuf,
    /// Why it cannot be.
    pub cause: Cause,
}

/// Why something cannot be copied.
#[derive(Debug)]
pub enum Cause {
    /// The kernel said so.
    Io(io::Error),
    /// The directory that it is to be in, or the mount point, could not be made or opened.
    Above(PathBuf, io::Error),
    /// There is something at the target.
    Exists(PathBuf),
    /// The target is a directory, and the source is none.
    IsDirectory(PathBuf),
    /// Of what is merged, this is a directory at the target, and none at the source.
    InTheWay(PathBuf),
    /// The source is a directory, and what is at the target is none.
    NotDirectory(PathBuf),
    /// It would cover the whole machine, for those alone who start later.
    Root,
    /// It is a device node.
    Device,
    /// A directory would be copied into itself.
    IntoItself,
    /// Directories are nested deeper than any absolute path could name.
    TooDeep,
    /// [`Watch::check`] said so.
    Stopped(String),
}

impl<E: Into<io::Error>> From<E> for Cause {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => f.write_str(&reason(error)),
            Self::Above(path, error) => write!(f, "cannot open '{}': {}", printable(path), reason(error)),
            Self::Exists(path) => write!(f, "'{}' exists already", printable(path)),
            Self::IsDirectory(path) | Self::InTheWay(path) => {
                write!(f, "'{}' is a directory", printable(path))
            }
            Self::NotDirectory(path) => write!(f, "'{}' is not a directory", printable(path)),
            Self::Root => f.write_str("it would cover the machine's root"),
            Self::Device => f.write_str("it is a device node"),
            Self::IntoItself => f.write_str("it would be copied into itself"),
            Self::TooDeep => f.write_str("directories are nested too deeply"),
            Self::Stopped(why) => f.write_str(why),
        }
    }
}

impl Cause {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io(error) | Self::Above(_, error) => match error.kind() {
                io::ErrorKind::NotFound => Kind::NotFound,
                io::ErrorKind::PermissionDenied => Kind::Permission,
                _ => Kind::Failed,
            },
            Self::Exists(_) => Kind::InUse,
            _ => Kind::Failed,
        }
    }

    /// What the operator can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists(_) => Some("--force replaces files and merges directories".to_owned()),
            Self::IsDirectory(path) => Some(format!("to copy into it, write '{}/'", printable(path))),
            Self::Device => Some("--devices copies device nodes as nodes".to_owned()),
            _ => None,
        }
    }
}

/// A path for the terminal: whoever names a file in a machine does not get to write escape sequences.
pub fn printable(path: &Path) -> String {
    path.to_string_lossy().chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// Copies `from` to `to`, with all that is below it.
///
/// A last link of `from` is copied as a link. `to` is the copy's own path; one that ends in a slash is the directory that it
/// goes into. Directories above that are missing are made.
///
/// # Errors
/// [`CopyError`]. Nothing is left then, but that with [`Existing::Replace`] files already replaced stay so.
pub fn copy(
    from: (Place<'_>, &Path),
    to: (Place<'_>, &Path),
    policy: Policy,
    watch: &mut dyn Watch,
) -> Result<(), CopyError> {
    let whole = |cause| CopyError { source: from.1.to_owned(), cause };
    watch.check().map_err(|why| whole(Cause::Stopped(why)))?;
    let origin = Origin::open(from.0, from.1).map_err(|error| whole(error.into()))?;
    let mut made = Made::default();
    let copied = Goal::open(to, &origin, policy.existing, &mut made)
        .map_err(whole)
        .and_then(|goal| Walk::run(&origin, from.1, &goal, policy, watch));
    if copied.is_err() {
        made.undo();
    }
    copied
}
