//! What a tree is like, object by object: whether it is still the one that a checkpoint was made with, and what another host
//! has to be sent to have the same.
//!
//! A file counts as the same when its kind, size, time of modification (to the nanosecond), owner, mode, extended attributes
//! and names are: rsync's quick check. Every write sets that time, the first one through a mapping too, and only who sets it
//! back by utimensat(2) is not seen; who does not trust that asks for the contents ([`Depth::Content`]), which costs the
//! reading of the whole tree. The time of change (`st_ctime`) would see more and is not used: nobody can set it, so that a copy
//! of a tree never has the one of the original. Nor are times of access, the sizes of directories, sockets, which mean
//! nothing without who listens, and security labels, which are the policy's: the archives of trees leave the same out.
//!
//! Who lists a tree sees to it that nothing writes there: a machine is frozen meanwhile. What is mounted in it is not in it.
//!
//! On disk and on the wire a listing is text, in the manner of mtree(5), sorted, one object a line.

mod text;
mod walk;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub use text::{escape, unescape};

use super::Watch;
use super::member::Sum;

/// How much of a tree is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What stat(2) and the extended attributes say.
    Quick,
    /// The contents of all files as well.
    Content,
}

/// A tree's objects, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    entries: Vec<Entry>,
}

/// An object of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the tree's root, bytes; empty for the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The permission bits.
    pub mode: u32,
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// When it was modified: seconds, and nanoseconds from there.
    pub modified: (i64, u32),
    /// What stands for its extended attributes, where it has any.
    pub attributes: Option<[u8; 16]>,
    /// The first of its names, of an object with several in this tree; not of that one.
    pub first: Option<Vec<u8>>,
}

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Its size, bytes.
        size: u64,
        /// The sum of its content, where that was asked for.
        content: Option<Sum>,
    },
    /// A directory.
    Directory,
    /// A symbolic link, and where it leads.
    Link(Vec<u8>),
    /// A character device: major and minor number.
    Character(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A FIFO.
    Fifo,
}

/// Why a tree cannot be listed, or a listing not be read.
#[derive(Debug)]
pub enum ListingError {
    /// The kernel said so, of this path.
    Io(PathBuf, io::Error),
    /// Directories are nested deeper than any absolute path could name.
    TooDeep(PathBuf),
    /// This line of a listing is none.
    Line(usize),
    /// A listing is longer than so many bytes.
    TooLong(u64),
    /// Whoever followed it wanted it to stop, for this reason.
    Stopped(String),
}

impl fmt::Display for ListingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => {
                write!(f, "'{}': {}", escape(path.as_os_str().as_bytes()), crate::error::reason(error))
            }
            Self::TooDeep(path) => {
                write!(f, "'{}' is nested too deeply", escape(path.as_os_str().as_bytes()))
            }
            Self::TooLong(bytes) => write!(f, "the listing is longer than {bytes} bytes"),
            Self::Line(number) => write!(f, "line {number} of the listing is not valid"),
            Self::Stopped(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ListingError {}

/// In which respect an object differs; the first of those that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is something else.
    Kind,
    /// A file has other content: another size, time of modification or, where both are known, sum.
    Content,
    /// It has other names, or is another object's name.
    Names,
    /// Owner, mode or extended attributes.
    Attributes,
    /// Nothing but the time at which a directory, a link or a node was modified.
    Time,
}

/// What one tree has and the other has not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Paths that are new, sorted.
    pub added: Vec<PathBuf>,
    /// Paths of what is not the same, sorted.
    pub changed: Vec<(PathBuf, Change)>,
    /// Paths that are gone, sorted: a directory before what was in it.
    pub removed: Vec<PathBuf>,
}

impl Difference {
    /// Whether both are the same.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    /// What has to be sent of `newer` to a tree that differs so, sorted: with whatever is added or changed all other names of
    /// it, which one archive has to hold to make them names again, and the directories above, the times of which come last.
    pub fn wanted(&self, newer: &Listing) -> Vec<PathBuf> {
        let changed = self.changed.iter().map(|(path, _)| path);
        let differs: Vec<_> = self.added.iter().chain(changed).collect();
        let name = |entry: &Entry| entry.first.clone().unwrap_or_else(|| entry.path.clone());
        let objects: BTreeSet<_> = differs.iter().filter_map(|path| newer.entry(path)).map(name).collect();
        let named = newer.entries.iter().filter(|entry| objects.contains(&name(entry))).map(path);
        let above = differs.iter().copied().chain(&self.removed).filter_map(|path| path.parent());
        let above = above.filter(|path| newer.entry(path).is_some()).map(Path::to_owned);
        let mut wanted: Vec<_> = named.chain(above).collect();
        wanted.sort_by(|one, other| order(one.as_os_str().as_bytes(), other.as_os_str().as_bytes()));
        wanted.dedup();
        wanted
    }

    /// The first few paths that differ, for a sentence; `None` where both are the same.
    pub fn named(&self) -> Option<String> {
        let changed = self.changed.iter().map(|(path, _)| path);
        let mut paths: Vec<_> = self.added.iter().chain(changed).chain(&self.removed).collect();
        paths.sort_by(|one, other| order(one.as_os_str().as_bytes(), other.as_os_str().as_bytes()));
        let named: Vec<_> =
            paths.iter().take(3).map(|path| format!("'/{}'", escape(path.as_os_str().as_bytes()))).collect();
        let more = paths.len().saturating_sub(named.len());
        match (named.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some(named.join(", ")),
            (false, more) => Some(format!("{} and {more} more", named.join(", "))),
        }
    }
}

/// The order of a listing: a directory before what is in it, and before whatever its name is the beginning of.
fn order(one: &[u8], other: &[u8]) -> Ordering {
    // No name has a zero byte.
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    one.iter().map(key).cmp(other.iter().map(key))
}

fn path(entry: &Entry) -> PathBuf {
    OsStr::from_bytes(&entry.path).into()
}

impl Listing {
    /// Lists the tree `root`.
    ///
    /// # Errors
    /// What the kernel says of an object; [`ListingError::TooDeep`], [`ListingError::Stopped`].
    pub fn read(root: &Path, depth: Depth, watch: &mut dyn Watch) -> Result<Self, ListingError> {
        Ok(Self { entries: walk::read(root, depth, watch)? })
    }

    /// The objects, sorted.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The object at that path below the root.
    pub fn entry(&self, path: &Path) -> Option<&Entry> {
        let path = path.as_os_str().as_bytes();
        let found = self.entries.binary_search_by(|entry| order(&entry.path, path));
        found.ok().and_then(|at| self.entries.get(at))
    }

    /// What `newer` has, in contrast to this one.
    pub fn difference(&self, newer: &Self) -> Difference {
        let mut found = Difference::default();
        let (mut old, mut new) = (self.entries.iter().peekable(), newer.entries.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return found,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => order(&old.path, &new.path),
            };
            let was = if order.is_le() { old.next() } else { None };
            let is = if order.is_ge() { new.next() } else { None };
            match (was, is) {
                (Some(was), None) => found.removed.push(path(was)),
                (None, Some(is)) => found.added.push(path(is)),
                (Some(was), Some(is)) => found.changed.extend(was.change(is).map(|what| (path(is), what))),
                (None, None) => {}
            }
        }
    }
}

impl Entry {
    /// In which respect `other`, of the same path, differs.
    fn change(&self, other: &Self) -> Option<Change> {
        let same_content = match (&self.kind, &other.kind) {
            (Kind::File { size, content }, Kind::File { size: other_size, content: other_content }) => {
                let sums = content.as_ref().zip(other_content.as_ref());
                let same = size == other_size && sums.is_none_or(|(one, other)| one == other);
                // A time alone says nothing where the contents are known.
                Some(same && (sums.is_some() || self.modified == other.modified))
            }
            (one, other) => (one == other).then_some(true),
        };
        let attributes = |entry: &Self| (entry.mode, entry.uid, entry.gid, entry.attributes);
        match same_content {
            None => Some(Change::Kind),
            Some(false) => Some(Change::Content),
            Some(true) if self.first != other.first => Some(Change::Names),
            Some(true) if attributes(self) != attributes(other) => Some(Change::Attributes),
            Some(true) if self.modified != other.modified => Some(Change::Time),
            Some(true) => None,
        }
    }
}

#[cfg(test)]
mod tests;
