//! The two paths that the user names: where they lead, and what of the way there has to be made.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, unlinkat};
use rustix::io::Errno;

use super::{Cause, Existing};
use crate::image::Tree;

/// Where a path is resolved.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// On the host, as for every program there.
    Host,
    /// Beneath a root that others write to, as if it were `/`.
    Beneath(&'a Tree),
}

impl Place<'_> {
    fn open(self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match self {
            Self::Host => {
                let open = || rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty());
                Ok(rustix::io::retry_on_intr(open)?)
            }
            Self::Beneath(tree) => tree.open_inside(path, flags),
        }
    }
}

/// A descriptor that stands for a directory and gives no right to read it.
pub(super) const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// One for whatever has the name, be it a link.
pub(super) const ANYTHING: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What is to be copied.
pub(super) struct Origin {
    /// Opened with [`ANYTHING`].
    pub(super) object: OwnedFd,
    pub(super) stat: Stat,
    /// None for `/` and for what ends in `.` or `..`.
    name: Option<OsString>,
}

impl Origin {
    pub(super) fn open(place: Place<'_>, path: &Path) -> io::Result<Self> {
        let object = place.open(path, ANYTHING)?;
        let stat = rustix::fs::fstat(&object)?;
        let name = match Written::parse(path) {
            Written::Named { name, .. } => Some(name),
            Written::Into(directory) => directory.file_name().map(OsStr::to_owned),
            Written::Itself(_) => None,
        };
        Ok(Self { object, stat, name })
    }

    pub(super) fn is_directory(&self) -> bool {
        is_directory(&self.stat)
    }
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_dir()
}

/// An object of a file system, as [`Stat`] tells one from another.
pub(super) type Identity = (u64, u64);

pub(super) fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// A path as its end says what is meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// `above/name`.
    Named { above: PathBuf, name: OsString },
    /// `directory/`.
    Into(PathBuf),
    /// `.`, `..`, `/.`: a directory that has no name of its own.
    Itself(PathBuf),
}

impl Written {
    // Not by Path::components, for which `a`, `a/` and `a/.` are the same.
    pub(super) fn parse(path: &Path) -> Self {
        let bytes = path.as_os_str().as_bytes();
        let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let os = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        if end < bytes.len() {
            return Self::Into(os(&bytes[..end.max(1)]).into());
        }
        let start = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        match (&bytes[..start], &bytes[start..]) {
            (_, b"." | b"..") => Self::Itself(path.to_owned()),
            (above, name) => Self::Named { above: os(above).into(), name: os(name) },
        }
    }
}

/// Where the copy goes.
pub(super) enum Goal {
    /// It gets this name in this directory; `taken` says whether something has it that is to be replaced.
    Named { above: OwnedFd, above_path: PathBuf, name: OsString, taken: Existing },
    /// It is merged into this directory.
    Merge { directory: OwnedFd, path: PathBuf },
}

impl Goal {
    pub(super) fn open(
        (place, path): (Place<'_>, &Path),
        origin: &Origin,
        existing: Existing,
        made: &mut Made,
    ) -> Result<Self, Cause> {
        let mut reach = |directory: &Path| {
            made.reach(place, directory).map_err(|error| Cause::Above(directory.to_owned(), error))
        };
        let (above, name) = match (Written::parse(path), &origin.name) {
            (Written::Named { above, name }, _) => (above, name),
            (Written::Into(above), Some(name)) => (above, name.clone()),
            (Written::Into(directory), None) => match Written::parse(&directory) {
                Written::Named { above, name } => (above, name),
                _ => return Self::merge(reach(&directory)?, directory, origin, existing),
            },
            (Written::Itself(directory), _) => {
                return Self::merge(reach(&directory)?, directory, origin, existing);
            }
        };
        let above_path = above;
        let path = above_path.join(&name);
        let above = reach(&above_path)?;
        let found = match rustix::fs::statat(&above, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                return Ok(Self::Named { above, above_path, name, taken: Existing::Refuse });
            }
            found => found?,
        };
        // A link to a directory is not replaced: a copy to /lib would take the whole machine down.
        match place.open(&path, DIRECTORY) {
            Ok(directory) => Self::merge(directory, path, origin, existing),
            Err(_) if existing == Existing::Refuse => Err(Cause::Exists(path)),
            Err(_) if origin.is_directory() || is_directory(&found) => Err(Cause::NotDirectory(path)),
            Err(_) => Ok(Self::Named { above, above_path, name, taken: existing }),
        }
    }

    fn merge(directory: OwnedFd, path: PathBuf, origin: &Origin, existing: Existing) -> Result<Self, Cause> {
        match existing {
            _ if !origin.is_directory() => Err(Cause::IsDirectory(path)),
            Existing::Refuse => Err(Cause::Exists(path)),
            Existing::Replace => Ok(Self::Merge { directory, path }),
        }
    }
}

/// What was made above the copy, or for a mount, the outermost first.
#[derive(Debug, Default)]
pub(super) struct Made(Vec<(OwnedFd, OsString)>);

impl Made {
    /// Opens a directory, and makes it and what is above it where it is not there.
    pub(super) fn reach(&mut self, place: Place<'_>, path: &Path) -> io::Result<OwnedFd> {
        match place.open(path, DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        let (above, name) = match Written::parse(path) {
            Written::Named { above, name } => (above, name),
            Written::Into(directory) => return self.reach(place, &directory),
            // `new/..` is there as soon as `new` is.
            Written::Itself(_) => {
                let above = path.as_os_str().as_bytes();
                let above = above.iter().rposition(|byte| *byte == b'/').map(|slash| &above[..slash]);
                self.reach(place, Path::new(OsStr::from_bytes(above.unwrap_or_default())))?;
                return place.open(path, DIRECTORY);
            }
        };
        let above = self.reach(place, &above)?;
        match rustix::fs::mkdirat(&above, &name, Mode::from_raw_mode(0o755)) {
            // Somebody else's, or a link that leads nowhere.
            Err(Errno::EXIST) => return place.open(path, DIRECTORY),
            made => made?,
        }
        let directory = rustix::fs::openat(&above, &name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        self.0.push((above, name));
        Ok(directory?)
    }

    /// Something else was made.
    pub(super) fn add(&mut self, above: OwnedFd, name: OsString) {
        self.0.push((above, name));
    }

    /// Removes it all again; what others put into a directory keeps that.
    pub(super) fn undo(self) {
        for (above, name) in self.0.into_iter().rev() {
            // What it was made for has failed already, and that is what is said.
            if unlinkat(&above, &name, AtFlags::empty()).is_err() {
                let _ = unlinkat(&above, &name, AtFlags::REMOVEDIR);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_path_says_what_is_meant() {
        let named =
            |above: &str, name: &str| Written::Named { above: above.into(), name: name.to_owned().into() };
        for (path, written) in [
            ("a", named("", "a")),
            ("/a", named("/", "a")),
            ("/a/b", named("/a/", "b")),
            ("/a//b", named("/a//", "b")),
            ("/a/...", named("/a/", "...")),
            ("a/", Written::Into("a".into())),
            ("/", Written::Into("/".into())),
            ("//", Written::Into("/".into())),
            ("/a/b//", Written::Into("/a/b".into())),
            (".", Written::Itself(".".into())),
            ("/a/..", Written::Itself("/a/..".into())),
            ("/.", Written::Itself("/.".into())),
        ] {
            assert_eq!(Written::parse(Path::new(path)), written, "{path}");
        }
    }
}
