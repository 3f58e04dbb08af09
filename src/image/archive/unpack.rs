//! An archive becomes a tree: every member is made at its name, resolved beneath the root without following anything.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Timespec, Timestamps, UTIME_OMIT, Uid,
    chmod, chownat, fstat, ftruncate, linkat, makedev, mkdirat, mknodat, openat, openat2, seek, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::{Errno, retry_on_intr};
use tar::EntryType;

use super::member::{Member, Members};
use super::{ArchiveError, BUFFER, MOST_LEVELS, Watch, attributes};

/// A descriptor that stands for a directory and gives no right to read it.
const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// One for whatever has the name, be it a link.
const ANYTHING: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// What the archive says of itself ([`super::Packing::notes`]).
    pub notes: Vec<(String, Vec<u8>)>,
    /// How many objects.
    pub objects: u64,
    /// How much content of regular files, holes left out, in bytes.
    pub bytes: u64,
}

/// Makes what the archive `from` holds in the directory `into`; what is there under the same name is replaced, but that
/// directories are merged.
///
/// Owners and device nodes take root. The caller is alone in `into`: it is a new directory, or a tree that it holds
/// ([`crate::image::TreeLock`]).
///
/// # Errors
/// [`ArchiveError`]; what was made until then is left to the caller to remove.
pub fn unpack(from: impl Read, into: &Path, watch: Watch<'_>) -> Result<Unpacked, ArchiveError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, into, flags, Mode::empty()).map_err(ArchiveError::at(into))?;
    let mut making = Making {
        members: Members::open(from),
        root,
        watch,
        above: None,
        directories: Vec::new(),
        unpacked: Unpacked::default(),
        buffer: vec![0; BUFFER],
    };
    while let Some(member) = making.members.next()? {
        (making.watch)(0)?;
        making.make(member)?;
    }
    making.finish_directories()?;
    making.unpacked.notes = making.members.notes;
    Ok(making.unpacked)
}

struct Making<'a, R> {
    members: Members<R>,
    root: OwnedFd,
    watch: Watch<'a>,
    /// The directory that the last member was made in: most often the next one is too.
    above: Option<(PathBuf, OwnedFd)>,
    /// Directories as they are to be in the end: what is made in one changes its times, and could not be by its mode.
    directories: Vec<(PathBuf, Member)>,
    unpacked: Unpacked,
    buffer: Vec<u8>,
}

impl<R: Read> Making<'_, R> {
    fn make(&mut self, mut member: Member) -> Result<(), ArchiveError> {
        // As it was before there was a type for directories.
        if matches!(member.kind, EntryType::Regular) && member.path.as_bytes().ends_with(b"/") {
            member.kind = EntryType::Directory;
        }
        let path = beneath(&member.path)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return match member.kind {
                EntryType::Directory => {
                    self.directories.push((path, member));
                    Ok(())
                }
                _ => Err(ArchiveError::Refused(member.path.into(), "is the root, and no directory")),
            };
        };
        self.unpacked.objects += 1;
        let above = self.above(path.parent().unwrap_or(Path::new("")), &path)?;
        match member.kind {
            EntryType::Directory => {
                self.make_directory(above.as_fd(), &name, &path)?;
                self.directories.push((path.clone(), member));
            }
            EntryType::Link => self.make_link(above.as_fd(), &name, &path, &member)?,
            EntryType::Regular | EntryType::Continuous => {
                self.make_file(above.as_fd(), &name, &path, &member)?
            }
            _ => self.make_node(above.as_fd(), &name, &path, &member)?,
        }
        self.above = Some((path.parent().unwrap_or(Path::new("")).to_owned(), above));
        Ok(())
    }

    /// Opens the directory `above` that the member at `path` is in, and makes it where no member did.
    fn above(&mut self, above: &Path, path: &Path) -> Result<OwnedFd, ArchiveError> {
        if let Some((_, directory)) = self.above.take_if(|(last, _)| last == above) {
            return Ok(directory);
        }
        self.above = None;
        if above.components().count() > MOST_LEVELS {
            return Err(ArchiveError::Object(path.to_owned(), Errno::NAMETOOLONG.into()));
        }
        match self.open(above, DIRECTORY) {
            Err(Errno::NOENT) => {}
            opened => return opened.map_err(|error| on_the_way(path, error)),
        }
        let mut directory = self.open(Path::new(""), DIRECTORY).map_err(ArchiveError::at(path))?;
        for name in above.components() {
            match mkdirat(&directory, name.as_os_str(), Mode::from_raw_mode(0o755)) {
                Err(Errno::EXIST) => {}
                made => made.map_err(ArchiveError::at(path))?,
            }
            let next = openat(&directory, name.as_os_str(), DIRECTORY, Mode::empty());
            directory = next.map_err(|error| on_the_way(path, error))?;
        }
        Ok(directory)
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        retry_on_intr(|| openat2(&self.root, path, flags, Mode::empty(), resolve))
    }

    fn make_directory(
        &mut self,
        above: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), ArchiveError> {
        match mkdirat(above, name, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => return made.map_err(ArchiveError::at(path)),
        }
        if openat(above, name, DIRECTORY, Mode::empty()).is_ok() {
            return Ok(());
        }
        self.remove(above, name, path)?;
        mkdirat(above, name, Mode::RWXU).map_err(ArchiveError::at(path))
    }

    fn make_link(
        &mut self,
        above: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        member: &Member,
    ) -> Result<(), ArchiveError> {
        let target = beneath(&member.link)?;
        let found = self.open(&target, ANYTHING).map_err(|error| match error {
            Errno::NOENT => ArchiveError::Refused(path.to_owned(), "is another name of what is not there"),
            error => on_the_way(path, error),
        })?;
        let kind = FileType::from_raw_mode(fstat(&found).map_err(ArchiveError::at(path))?.st_mode);
        if kind.is_dir() {
            return Err(ArchiveError::Refused(path.to_owned(), "is another name of a directory"));
        }
        if target == path {
            return Ok(());
        }
        self.replacing(above, name, path, &mut || {
            linkat(CWD, by_descriptor(found.as_fd()), above, name, AtFlags::SYMLINK_FOLLOW)
        })
    }

    fn make_file(
        &mut self,
        above: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        member: &Member,
    ) -> Result<(), ArchiveError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut made = None;
        self.replacing(above, name, path, &mut || {
            made = Some(openat(above, name, flags, Mode::RUSR | Mode::WUSR)?);
            Ok(())
        })?;
        let Some(made) = made else { return Ok(()) };
        let mut file = File::from(made);
        for (start, length) in &member.regions {
            if *start > 0 {
                seek(&file, SeekFrom::Start(*start)).map_err(ArchiveError::at(path))?;
            }
            self.fill(&mut file, *length, path)?;
        }
        if member.regions != [(0, member.size)] {
            ftruncate(&file, member.size).map_err(ArchiveError::at(path))?;
        }
        finish(file.as_fd(), member).map_err(ArchiveError::at(path))?;
        // Where a file system is written to over a network, only now it says that there is no space.
        nix::unistd::close(file).map_err(ArchiveError::at(path))
    }

    fn fill(&mut self, file: &mut File, length: u64, path: &Path) -> Result<(), ArchiveError> {
        let mut left = length;
        while left > 0 {
            let most = self.buffer.len().min(usize::try_from(left).unwrap_or(BUFFER));
            let count = self.members.read(&mut self.buffer[..most])?;
            if count == 0 {
                return Err(ArchiveError::malformed("a file in it is not whole"));
            }
            file.write_all(&self.buffer[..count]).map_err(ArchiveError::at(path))?;
            left -= count as u64;
            self.unpacked.bytes += count as u64;
            (self.watch)(count as u64)?;
        }
        Ok(())
    }

    /// A symbolic link, a fifo or a device node.
    fn make_node(
        &mut self,
        above: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        member: &Member,
    ) -> Result<(), ArchiveError> {
        let node = |kind| {
            let device = makedev(member.device.0, member.device.1);
            move || mknodat(above, name, kind, Mode::RUSR | Mode::WUSR, device)
        };
        let mut make: Box<dyn FnMut() -> Result<(), Errno>> = match member.kind {
            EntryType::Symlink => Box::new(|| symlinkat(&*member.link, above, name)),
            EntryType::Fifo => Box::new(node(FileType::Fifo)),
            EntryType::Char => Box::new(node(FileType::CharacterDevice)),
            EntryType::Block => Box::new(node(FileType::BlockDevice)),
            _ => return Err(ArchiveError::Refused(path.to_owned(), "is of a type that osier does not know")),
        };
        self.replacing(above, name, path, &mut make)?;
        let made = openat(above, name, ANYTHING, Mode::empty()).map_err(ArchiveError::at(path))?;
        finish(made.as_fd(), member).map_err(ArchiveError::at(path))
    }

    fn replacing(
        &mut self,
        above: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        make: &mut dyn FnMut() -> Result<(), Errno>,
    ) -> Result<(), ArchiveError> {
        match make() {
            Err(Errno::EXIST) => {}
            made => return made.map_err(ArchiveError::at(path)),
        }
        self.remove(above, name, path)?;
        make().map_err(ArchiveError::at(path))
    }

    fn remove(&mut self, above: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), ArchiveError> {
        match unlinkat(above, name, AtFlags::empty()) {
            // POSIX has EPERM for a directory.
            Err(Errno::ISDIR | Errno::PERM) => {}
            done => return done.map_err(ArchiveError::at(path)),
        }
        self.directories.retain(|(directory, _)| !directory.starts_with(path));
        std::fs::remove_dir_all(Path::new(&by_descriptor(above)).join(name)).map_err(ArchiveError::at(path))
    }

    fn finish_directories(&mut self) -> Result<(), ArchiveError> {
        // Backwards, so that what is below comes before what is above; a directory that is there twice is what was said
        // last.
        let mut seen = std::collections::HashSet::new();
        for (path, member) in std::mem::take(&mut self.directories).into_iter().rev() {
            (self.watch)(0)?;
            if !seen.insert(path.clone()) {
                continue;
            }
            let directory = self.open(&path, DIRECTORY).map_err(|error| on_the_way(&path, error))?;
            finish(directory.as_fd(), &member).map_err(ArchiveError::at(&path))?;
        }
        Ok(())
    }
}

/// The path of a member below the root: without `.`, and with nothing that leads out.
fn beneath(name: &OsString) -> Result<PathBuf, ArchiveError> {
    let refused = |why| Err(ArchiveError::Refused(name.into(), why));
    let mut path = PathBuf::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => return refused("leads out of the tree with '..'"),
            Component::RootDir | Component::Prefix(_) => return refused("has an absolute name"),
        }
    }
    if name.is_empty() || name.as_bytes().contains(&0) {
        return refused("has a name that no file can have");
    }
    Ok(path)
}

/// What a failed resolution of `path` beneath the root means.
fn on_the_way(path: &Path, error: Errno) -> ArchiveError {
    match error {
        // ENOTDIR where the link itself was to be opened as a directory.
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR => {
            ArchiveError::Refused(path.to_owned(), "is below what is a link or a file")
        }
        error => ArchiveError::at(path)(error),
    }
}

/// Gives an object its owner, mode, extended attributes and time. In this order: chown(2) takes set-ID bits and file
/// capabilities away.
fn finish(object: BorrowedFd<'_>, member: &Member) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
    chownat(object, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    let path = by_descriptor(object);
    if member.kind != EntryType::Symlink {
        attributes::remove_others(&path, &member.attributes)?;
        chmod(&path, Mode::from_raw_mode(member.mode))?;
    }
    for (name, value) in &member.attributes {
        attributes::set(&path, name, value)?;
    }
    let out_of_range = |_| io::Error::from(Errno::INVAL);
    let modified = Timespec {
        tv_sec: i64::try_from(member.mtime.div_euclid(1_000_000_000)).map_err(out_of_range)?,
        tv_nsec: i64::try_from(member.mtime.rem_euclid(1_000_000_000)).map_err(out_of_range)?,
    };
    let times =
        Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: modified };
    Ok(utimensat(CWD, &path, &times, AtFlags::empty())?)
}

fn by_descriptor(object: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", object.as_raw_fd())
}
