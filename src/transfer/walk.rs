//! The walk: every object below the source, made anew at the target.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, linkat, mkdirat, mknodat, openat,
    openat2, readlinkat, renameat, renameat_with, statat, symlinkat,
};
use rustix::io::Errno;

use super::attributes::{self, by_descriptor};
use super::place::{ANYTHING, DIRECTORY, Goal, Identity, Origin, identity, is_directory};
use super::remove::{read_names, remove};
use super::{Cause, CopyError, Devices, Existing, Policy, Watch, content};
use crate::ids::MachineId;

/// So deep may directories be nested. Each level takes two descriptors and a stack frame; a path of twice as many could not
/// be said (`PATH_MAX`), but be made, by who means harm.
pub(super) const MOST_LEVELS: usize = 1000;

/// Something at the target that may get another name: where it is below the top, and which it is.
struct Linked {
    path: PathBuf,
    identity: Identity,
}

/// An object of the source.
#[derive(Clone, Copy)]
struct Entry<'a> {
    /// Opened with [`ANYTHING`].
    object: BorrowedFd<'a>,
    stat: &'a Stat,
}

impl<'a> Entry<'a> {
    fn of(origin: &'a Origin) -> Self {
        Self { object: origin.object.as_fd(), stat: &origin.stat }
    }
}

/// One copy under way.
pub(super) struct Walk<'a> {
    policy: Policy,
    watch: &'a mut dyn Watch,
    /// What is being copied, for messages.
    shown: PathBuf,
    /// The directory at the target that all paths below start from, and its path for messages.
    top: (BorrowedFd<'a>, &'a Path),
    /// The target of what is being copied, below the top; final names throughout.
    path: PathBuf,
    /// What has a hidden name for now: its final path below the top, and that name.
    hidden: Option<(PathBuf, OsString)>,
    /// What else has several names, by its identity in the source.
    links: HashMap<Identity, Linked>,
    /// The directory at the target that the copy is in: copied into itself it would never end.
    own: Option<Identity>,
    levels: usize,
}

impl<'a> Walk<'a> {
    /// Copies `origin`, which is called `source`, to `goal`.
    pub(super) fn run(
        origin: &Origin,
        source: &Path,
        goal: &'a Goal,
        policy: Policy,
        watch: &'a mut dyn Watch,
    ) -> Result<(), CopyError> {
        let (Goal::Named { above: top, above_path: path, .. } | Goal::Merge { directory: top, path }) = goal;
        let mut walk = Self {
            policy,
            watch,
            shown: source.to_owned(),
            top: (top.as_fd(), path),
            path: PathBuf::new(),
            hidden: None,
            links: HashMap::new(),
            own: None,
            levels: 0,
        };
        let copied = match goal {
            Goal::Named { above, name, taken, .. } => {
                walk.path = name.into();
                walk.make_whole(Entry::of(origin), above.as_fd(), name, *taken)
            }
            Goal::Merge { directory, .. } => walk.merge_top(Entry::of(origin), directory.as_fd()),
        };
        copied.map_err(|cause| CopyError { source: walk.shown, cause })
    }

    /// Makes a copy under a hidden name, and gives it its own when it is whole.
    fn make_whole(
        &mut self,
        entry: Entry<'_>,
        into: BorrowedFd<'_>,
        name: &OsStr,
        taken: Existing,
    ) -> Result<(), Cause> {
        let hidden = OsString::from(format!(".osier-copy-{}", MachineId::random()?));
        self.hidden = Some((self.path.clone(), hidden.clone()));
        let made = self.make(entry, into, &hidden).and_then(|()| {
            self.watch.check().map_err(Cause::Stopped)?;
            self.rename(into, &hidden, name, taken)
        });
        self.hidden = None;
        if made.is_err() {
            // The copy has failed already, and that is what is said.
            let _ = remove(into, &hidden);
        }
        made
    }

    fn rename(
        &self,
        directory: BorrowedFd<'_>,
        hidden: &OsStr,
        name: &OsStr,
        taken: Existing,
    ) -> Result<(), Cause> {
        if taken == Existing::Replace {
            return Ok(renameat(directory, hidden, directory, name)?);
        }
        match renameat_with(directory, hidden, directory, name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Err(Cause::Exists(self.target())),
            // Not every file system can; then somebody may be quicker by a hair.
            Err(Errno::INVAL | Errno::NOSYS) => match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => Ok(renameat(directory, hidden, directory, name)?),
                Err(error) => Err(error.into()),
                Ok(_) => Err(Cause::Exists(self.target())),
            },
            renamed => Ok(renamed?),
        }
    }

    fn target(&self) -> PathBuf {
        self.top.1.join(&self.path)
    }

    /// Makes a copy of anything.
    fn make(&mut self, entry: Entry<'_>, into: BorrowedFd<'_>, name: &OsStr) -> Result<(), Cause> {
        let stat = entry.stat;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let size = u64::try_from(stat.st_size).ok().filter(|_| kind.is_file());
        self.watch.entry(&self.shown, size);
        if kind.is_dir() {
            return self.make_directory(entry, into, name);
        }
        let has_others = stat.st_nlink > 1;
        if has_others && self.link(stat, into, name)? {
            return Ok(());
        }
        let made = match kind {
            FileType::RegularFile => self.make_file(entry, into, name)?,
            FileType::Symlink => {
                symlinkat(&readlinkat(entry.object, "", Vec::new())?, into, name)?;
                openat(into, name, ANYTHING, Mode::empty())?
            }
            FileType::BlockDevice | FileType::CharacterDevice if self.policy.devices == Devices::Refuse => {
                return Err(Cause::Device);
            }
            kind => {
                mknodat(into, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?;
                openat(into, name, ANYTHING, Mode::empty())?
            }
        };
        attributes::copy(entry.object, stat, made.as_fd(), self.policy)?;
        if has_others {
            let linked = Linked { path: self.path.clone(), identity: identity(&rustix::fs::fstat(&made)?) };
            self.links.insert(identity(stat), linked);
        }
        // Where a file system is written to over a network, only now it says that there is no space.
        Ok(nix::unistd::close(made).map_err(std::io::Error::from)?)
    }

    fn make_file(&mut self, entry: Entry<'_>, into: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Cause> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = openat(CWD, by_descriptor(entry.object), flags, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = openat(into, name, flags, Mode::RUSR | Mode::WUSR)?;
        let size = u64::try_from(entry.stat.st_size).unwrap_or_default();
        content::copy(&from, &to, size, self.watch)?;
        Ok(to)
    }

    fn make_directory(&mut self, entry: Entry<'_>, into: BorrowedFd<'_>, name: &OsStr) -> Result<(), Cause> {
        mkdirat(into, name, Mode::RWXU)?;
        let made = openat(into, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        if self.own.is_none() {
            self.own = Some(identity(&rustix::fs::fstat(&made)?));
        }
        self.children(entry, &mut |walk, child, name| walk.make(child, made.as_fd(), name))?;
        // Last, for what is made in it changes its times, and needs its mode.
        Ok(attributes::copy(entry.object, entry.stat, made.as_fd(), self.policy)?)
    }

    /// Gives what was copied under another name of its before this name too. Not where that is there no more, or on
    /// another file system.
    fn link(&self, stat: &Stat, into: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Cause> {
        let Some(linked) = self.links.get(&identity(stat)) else { return Ok(false) };
        let path = match &self.hidden {
            Some((path, hidden)) => match linked.path.strip_prefix(path) {
                Ok(below) => path.with_file_name(hidden).join(below),
                Err(_) => linked.path.clone(),
            },
            None => linked.path.clone(),
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let Ok(found) = openat2(self.top.0, path, ANYTHING, Mode::empty(), resolve) else { return Ok(false) };
        if identity(&rustix::fs::fstat(&found)?) != linked.identity {
            return Ok(false);
        }
        match linkat(CWD, by_descriptor(&found), into, name, AtFlags::SYMLINK_FOLLOW) {
            Err(Errno::MLINK | Errno::XDEV | Errno::PERM) => Ok(false),
            linked => Ok(linked.map(|()| true)?),
        }
    }

    /// Does `work` for each entry of a directory, with both paths one step further down meanwhile.
    fn children(
        &mut self,
        entry: Entry<'_>,
        work: &mut dyn FnMut(&mut Self, Entry<'_>, &OsStr) -> Result<(), Cause>,
    ) -> Result<(), Cause> {
        if self.own == Some(identity(entry.stat)) {
            return Err(Cause::IntoItself);
        }
        if self.levels == MOST_LEVELS {
            return Err(Cause::TooDeep);
        }
        self.levels += 1;
        for name in read_names(entry.object)? {
            // Not taken back when it fails: the error is about this one.
            self.shown.push(&name);
            self.path.push(&name);
            self.watch.check().map_err(Cause::Stopped)?;
            let object = openat(entry.object, &name, ANYTHING, Mode::empty())?;
            let stat = rustix::fs::fstat(&object)?;
            work(self, Entry { object: object.as_fd(), stat: &stat }, &name)?;
            self.shown.pop();
            self.path.pop();
        }
        self.levels -= 1;
        Ok(())
    }

    fn merge_top(&mut self, entry: Entry<'_>, into: BorrowedFd<'_>) -> Result<(), Cause> {
        self.own = Some(identity(&rustix::fs::fstat(into)?));
        self.merge(entry, into)
    }

    /// Copies what is in a directory into one that is there, which stays as it is.
    fn merge(&mut self, entry: Entry<'_>, into: BorrowedFd<'_>) -> Result<(), Cause> {
        self.children(entry, &mut |walk, child, name| walk.merge_child(child, into, name))
    }

    fn merge_child(&mut self, child: Entry<'_>, into: BorrowedFd<'_>, name: &OsStr) -> Result<(), Cause> {
        let found = match statat(into, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return self.make_whole(child, into, name, Existing::Refuse),
            found => found?,
        };
        match (is_directory(child.stat), is_directory(&found)) {
            (true, true) => {
                let below = openat(into, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
                self.merge(child, below.as_fd())
            }
            (true, false) => Err(Cause::NotDirectory(self.target())),
            (false, true) => Err(Cause::InTheWay(self.target())),
            (false, false) => self.make_whole(child, into, name, Existing::Replace),
        }
    }
}
