//! Why a checkpoint cannot be written or used, in the operator's words.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::manifest::VERSION;
use crate::error::{Error, Kind, reason};

/// What was wanted of a checkpoint, and why it cannot be.
#[derive(Debug)]
pub struct CheckpointError {
    /// Where it is, or was to be.
    pub path: PathBuf,
    /// What was wanted.
    pub wanted: Wanted,
    /// Why it cannot be.
    pub cause: Cause,
}

/// What was wanted of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// To make it.
    Write,
    /// To read it.
    Read,
}

/// Why a checkpoint cannot be written or read.
#[derive(Debug)]
pub enum Cause {
    /// The kernel said so, of this path.
    Io(PathBuf, io::Error),
    /// There is something of that name already.
    Exists,
    /// The file system has not so many bytes left.
    NoRoom {
        /// About as many are needed.
        needed: u64,
        /// So many there are.
        free: u64,
    },
    /// There is nothing of that name.
    NotThere,
    /// It is something else; the end of a sentence that says why.
    Foreign(String),
    /// It has a version that this osier does not know.
    Version {
        /// Its version.
        found: u64,
        /// The osier that made it, as it says itself.
        osier: String,
    },
    /// The manifest is no manifest: in serde's words.
    Manifest(String),
    /// The manifest is not the one that was written: its own sum is another one.
    ManifestAltered,
    /// It ends after so many bytes, before its end.
    Cut(u64),
    /// There is more after its end.
    Trailing,
    /// Between its members there is what is none: in words.
    Garbled(String),
    /// This member has another size than the manifest says.
    Size {
        /// Which.
        name: String,
        /// Its size, bytes.
        found: u64,
        /// What the manifest says.
        wanted: u64,
    },
    /// The content of this member is not what was written.
    Altered(String),
    /// This member is not there.
    Missing(String),
    /// The manifest does not know this one.
    Unknown(String),
    /// This one is there twice.
    Twice(String),
    /// This is no name that a member can have.
    Name(String),
    /// This member is a link, a device or a directory, and no file.
    NotFile(String),
    /// Whoever followed it wanted it to stop, for this reason.
    Stopped(String),
}

impl Cause {
    /// The kernel's word on `path`.
    pub(super) fn io(path: &Path, error: impl Into<io::Error>) -> Self {
        Self::Io(path.to_owned(), error.into())
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Io(_, error) => match error.kind() {
                io::ErrorKind::NotFound => Kind::NotFound,
                io::ErrorKind::PermissionDenied => Kind::Permission,
                _ => Kind::Failed,
            },
            Self::Exists => Kind::InUse,
            Self::NotThere => Kind::NotFound,
            Self::Version { .. } => Kind::Unsupported,
            _ => Kind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Exists => "remove it, or give the checkpoint another name".to_owned(),
            Self::NoRoom { .. } => {
                "make room, or write it to another file system; nothing was written".to_owned()
            }
            Self::Foreign(_) => {
                "a checkpoint is what 'osier checkpoint' wrote: a directory with checkpoint.json in it, or a file"
                    .to_owned()
            }
            Self::Version { osier, .. } => format!("use osier {osier}, which made it, or a later one"),
            Self::Cut(_) => "it was not copied or written to its end: copy it anew".to_owned(),
            Self::Manifest(_)
            | Self::ManifestAltered
            | Self::Trailing
            | Self::Garbled(_)
            | Self::Size { .. }
            | Self::Altered(_)
            | Self::Missing(_)
            | Self::Unknown(_)
            | Self::Twice(_)
            | Self::Name(_)
            | Self::NotFile(_) => {
                "it was changed after it was written, and cannot be trusted: take another copy".to_owned()
            }
            Self::Io(..) | Self::NotThere | Self::Stopped(_) => return None,
        })
    }
}

/// A name out of a file, for the terminal: it is not the file's to write escape sequences there.
fn printable(name: &str) -> String {
    name.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// A size in words, to three digits.
pub(super) fn amount(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} bytes"),
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => {
                write!(f, "'{}': {}", printable(&path.to_string_lossy()), reason(error))
            }
            Self::Exists => f.write_str("it exists already"),
            Self::NoRoom { needed, free } => {
                write!(f, "no room: it needs about {}, and {} are free", amount(*needed), amount(*free))
            }
            Self::NotThere => f.write_str("it does not exist"),
            Self::Foreign(why) => write!(f, "it is no checkpoint: {why}"),
            Self::Version { found, .. } => {
                write!(f, "it has version {found}, and this osier knows version {VERSION}")
            }
            Self::Manifest(why) => write!(f, "checkpoint.json is not valid: {}", printable(why)),
            Self::ManifestAltered => f.write_str("checkpoint.json was altered"),
            Self::Cut(bytes) => write!(f, "it is cut short: it ends after {bytes} bytes"),
            Self::Trailing => f.write_str("there is something after its end"),
            Self::Garbled(why) => write!(f, "it is garbled: {}", printable(why)),
            Self::Size { name, found, wanted } => {
                write!(f, "'{}' has {found} bytes instead of {wanted}", printable(name))
            }
            Self::Altered(name) => write!(f, "'{}' was altered", printable(name)),
            Self::Missing(name) => write!(f, "'{}' is missing", printable(name)),
            Self::Unknown(name) => write!(f, "'{}' is no part of it", printable(name)),
            Self::Twice(name) => write!(f, "'{}' is there twice", printable(name)),
            Self::Name(name) => write!(f, "'{}' is no name for a part of it", printable(name)),
            Self::NotFile(name) => write!(f, "'{}' is no file", printable(name)),
            Self::Stopped(why) => f.write_str(why),
        }
    }
}

impl From<CheckpointError> for Error {
    fn from(error: CheckpointError) -> Self {
        let verb = match error.wanted {
            Wanted::Write => "write",
            Wanted::Read => "use",
        };
        let path = printable(&error.path.to_string_lossy());
        let said = Self::new(error.cause.kind(), format!("cannot {verb} the checkpoint '{path}'"));
        let said = said.because(&error.cause);
        match error.cause.hint() {
            Some(hint) => said.hint(hint),
            None => said,
        }
    }
}

/// Adds to a cause whose it is.
pub(super) trait Of<T> {
    /// As that of writing the checkpoint `path`.
    fn writing(self, path: &Path) -> Result<T, CheckpointError>;
    /// As that of reading the checkpoint `path`.
    fn reading(self, path: &Path) -> Result<T, CheckpointError>;
}

impl<T> Of<T> for Result<T, Cause> {
    fn writing(self, path: &Path) -> Result<T, CheckpointError> {
        self.map_err(|cause| CheckpointError { path: path.to_owned(), wanted: Wanted::Write, cause })
    }

    fn reading(self, path: &Path) -> Result<T, CheckpointError> {
        self.map_err(|cause| CheckpointError { path: path.to_owned(), wanted: Wanted::Read, cause })
    }
}

/// Adds to an [`io::Result`] the path that it is about.
pub(super) trait At<T> {
    /// As [`Cause::Io`] of `path`.
    fn at(self, path: &Path) -> Result<T, Cause>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, path: &Path) -> Result<T, Cause> {
        self.map_err(|error| Cause::io(path, error))
    }
}
