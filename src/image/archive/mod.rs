//! A tree as one stream: tar as POSIX.1-2001 has it (`pax`, man 5 tar of libarchive; "pax Interchange Format" in POSIX).
//!
//! Kept is what makes the tree the same again: every kind of file but sockets, which mean nothing without the process that
//! listens; owners by number, modes with set-ID bits, times of modification to the nanosecond, several names of one file,
//! holes, extended attributes with file capabilities and access control lists (as GNU tar's `SCHILY.xattr.`). Security
//! labels are what the policy of the place says, and stay out. So do access times.
//!
//! An archive may be written by somebody hostile. Nothing is written outside the directory that it is unpacked into: names
//! are resolved beneath it, no symbolic link is followed on the way, absolute names and `..` are refused. Everything else is
//! the archive's to say, set-ID programs and device nodes included, as of any tree that a machine is booted from.
//!
//! The end is exact: after an archive, `unpack` has read to its last block and no further, so that other things may follow
//! in the same stream; an archive that stops before its end is refused.

mod attributes;
mod codec;
mod member;
mod pack;
mod pax;
mod sparse;
#[cfg(test)]
mod tests;
mod unpack;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use codec::{Begun, Compression, Decoder, Encoder};
pub use pack::{Packed, Packing, pack};
pub use unpack::{Unpacked, unpack};

use crate::error::reason;
use crate::interrupt::Interrupted;

/// The size of a block; everything in an archive starts at a multiple of it, in bytes.
const BLOCK: u64 = 512;
/// The size of a buffer, in bytes; what cp(1) found best.
const BUFFER: usize = 256 << 10;
/// So deep may directories be nested: what [`crate::transfer`] allows.
const MOST_LEVELS: usize = 1000;

/// Asked between two pieces of work, with how many bytes of content the last one was: whether to go on.
pub type Watch<'a> = &'a mut dyn FnMut(u64) -> Result<(), Interrupted>;

/// Why a tree did not become an archive, or an archive a tree.
#[derive(Debug)]
pub enum ArchiveError {
    /// The archive itself could not be read or written.
    Stream(io::Error),
    /// Something in the tree could not be: where it is below the tree's root.
    Object(PathBuf, io::Error),
    /// A member of the archive would do what no tree needs: its name there, and what it would do.
    Refused(PathBuf, &'static str),
    /// It is no archive, or one that is broken or of a kind that osier does not know.
    Malformed(String),
    /// It is compressed in a way that osier does not read: the program that does.
    Compressed(&'static str),
    /// Something else is mounted there, below the tree's root.
    MountPoint(PathBuf),
    /// A file changed while it was read: where it is below the tree's root.
    Changed(PathBuf),
    /// The watch said so.
    Interrupted,
}

impl From<Interrupted> for ArchiveError {
    fn from(Interrupted: Interrupted) -> Self {
        Self::Interrupted
    }
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the archive ends too early")
            }
            Self::Stream(error) => f.write_str(&reason(error)),
            Self::Object(path, error) => write!(f, "'{}': {}", printable(path), reason(error)),
            Self::Refused(path, why) => write!(f, "its member '{}' {why}", printable(path)),
            Self::Malformed(why) => f.write_str(why),
            Self::Compressed(program) => {
                write!(f, "it is compressed with {program}, which osier does not read")
            }
            Self::MountPoint(path) => write!(f, "something is mounted at '{}'", printable(path)),
            Self::Changed(path) => write!(f, "'{}' changed while it was read", printable(path)),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for ArchiveError {}

impl ArchiveError {
    /// Turns an error about what is at `path` below the tree's root into this.
    fn at<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> Self + '_ {
        move |error| Self::Object(path.to_owned(), error.into())
    }

    /// What the operator can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Compressed(program) => Some(format!("{program} -dc FILE | osier image import - NAME")),
            Self::MountPoint(path) => Some(format!("unmount it: umount '{}'", printable(path))),
            _ => None,
        }
    }

    fn malformed(why: impl Into<String>) -> Self {
        Self::Malformed(why.into())
    }
}

/// A path for the terminal: whoever names a file in an archive does not get to write escape sequences.
fn printable(path: &Path) -> String {
    path.to_string_lossy().chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}
