//! What clone, export and import have in common: the image that is read, the one that is made, and how far it is.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock::state::{HostBoot, State};
use crate::error::{Context, Error, Kind, Result};
use crate::image::archive::ArchiveError;
use crate::image::{self, Access, BuildError, MACHINES, TreeLock};
use crate::interrupt::{Interrupt, Interrupted};
use crate::name::MachineName;
use crate::transfer::{Watch, printable};

/// An image that nobody writes to meanwhile.
pub(super) struct Source {
    /// Its tree.
    pub(super) path: PathBuf,
    /// Its name.
    pub(super) name: String,
    /// Given back when this is dropped.
    _lock: TreeLock,
}

impl Source {
    /// Takes the image that `argument` names.
    pub(in crate::verb) fn take(argument: &OsStr) -> Result<Self> {
        let image = image::find(&argument.to_string_lossy()).map_err(|error| super::no_image(&error))?;
        let what = || format!("cannot read '{}'", image.path.display());
        let lock = TreeLock::take(&image.path, Access::Shared).context(what)?.ok_or_else(|| {
            Error::new(Kind::InUse, what())
                .because("a machine runs from it, and may be writing to it")
                .hint("end the machine first: osier poweroff NAME")
        })?;
        if let Some(point) = image::mounted_below(&image.path).context(what)? {
            return Err(Error::new(Kind::InUse, what())
                .because(format!("something is mounted at '{}'", printable(&point)))
                .hint(format!("unmount it first: umount '{}'", printable(&point))));
        }
        Ok(Self { path: image.path, name: image.name, _lock: lock })
    }

    /// Where the clocks of a machine that runs from it would go on from.
    pub(super) fn clocks(&self) -> Result<State> {
        let none = || {
            Error::new(Kind::NotFound, format!("there are no clocks of '{}'", self.path.display()))
                .because("no machine with --clock=continue has run from it")
                .hint("leave out --with-clocks")
        };
        let path = State::path(&self.path).ok_or_else(none)?;
        let read = State::read(&path).map_err(|error| {
            Error::new(Kind::Failed, format!("cannot use the clocks in '{}'", path.display())).because(&error)
        });
        let state = read?.ok_or_else(none)?;
        let host = HostBoot::read().context(|| "cannot read the host's clocks")?;
        Ok(state.settled(&host))
    }
}

/// Where the image goes that `argument` names: a path, or a name in the directory of machines.
pub(super) fn target(argument: &OsStr) -> Result<PathBuf> {
    if argument.as_encoded_bytes().contains(&b'/') {
        let path = PathBuf::from(argument);
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        return match hidden {
            true => Err(Error::usage(format!("'{}' would be hidden", printable(&path)))
                .because("a name that begins with a dot is none of an image")),
            false => Ok(path),
        };
    }
    let name: MachineName = argument.to_string_lossy().parse().map_err(|reason| {
        Error::usage(format!("cannot name an image '{}'", printable(Path::new(argument)))).because(reason)
    })?;
    Ok(Path::new(MACHINES).join(name.as_ref()))
}

/// A refusal of a new image's place.
pub(in crate::verb) fn no_place(error: &BuildError) -> Error {
    let kind = match error {
        BuildError::NotRoot => Kind::Permission,
        BuildError::Exists(_) => Kind::InUse,
        BuildError::NoParent(_) => Kind::NotFound,
        BuildError::NoName(_) => Kind::Usage,
        _ => Kind::Failed,
    };
    let refused = Error::new(kind, error.to_string());
    match (error, error.hint()) {
        (BuildError::Exists(_), _) => refused.hint("remove it first, or give another name"),
        (_, Some(hint)) => refused.hint(hint),
        (_, None) => refused,
    }
}

/// What went wrong with an archive.
pub(in crate::verb) fn not_archived(error: &ArchiveError) -> Error {
    let kind = match error {
        ArchiveError::Stream(error) | ArchiveError::Object(_, error)
            if error.kind() == io::ErrorKind::PermissionDenied =>
        {
            Kind::Permission
        }
        _ => Kind::Failed,
    };
    let failed = Error::new(kind, error.to_string());
    match error.hint() {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
}

/// Shows on a terminal how far it is, and ends it when the user wants that.
pub(super) struct Follower<'a> {
    interrupt: &'a Interrupt,
    bar: Option<ProgressBar>,
}

impl<'a> Follower<'a> {
    pub(super) fn new(interrupt: &'a Interrupt, quiet: bool) -> Self {
        // No steady tick: that would be a thread. The work calls often enough.
        let bar = (!quiet && io::stderr().is_terminal())
            .then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
        let style = ProgressStyle::with_template(
            "{spinner} {wide_msg} {binary_bytes:>10} {binary_bytes_per_sec:>12}",
        );
        // A template that cannot be parsed leaves the style that there is.
        if let (Some(bar), Ok(style)) = (&bar, style) {
            bar.set_style(style);
        }
        Self { interrupt, bar }
    }

    /// So many more bytes of content are done.
    pub(super) fn proceed(&mut self, count: u64) -> std::result::Result<(), Interrupted> {
        self.bytes(count);
        self.interrupt.check()
    }
}

impl Watch for Follower<'_> {
    fn entry(&mut self, path: &Path, _size: Option<u64>) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(path));
        }
    }

    fn bytes(&mut self, count: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(count);
        }
    }

    fn check(&mut self) -> std::result::Result<(), String> {
        self.interrupt.check().map_err(|Interrupted| "interrupted".to_owned())
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
