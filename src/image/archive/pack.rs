//! A tree becomes an archive: every object is looked at through its own descriptor, opened from its directory's.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, fstat, major, minor, openat, openat2,
    readlinkat, seek,
};
use rustix::io::{Errno, read, retry_on_intr};
use tar::{EntryType, Header};

use super::sparse::{self, Region};
use super::{ArchiveError, BLOCK, BUFFER, MOST_LEVELS, Watch, attributes, pax};

/// One for whatever has the name, be it a link.
const ANYTHING: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What to pack, and who follows it.
pub struct Packing<'a> {
    /// Whether the object at this path below the root is packed (the root itself is ""); a directory that is not may still
    /// hold some that are. All where this is `None`.
    pub only: Option<&'a mut dyn FnMut(&Path) -> bool>,
    /// What is said of the whole archive, in its first header: names in capitals that begin with osier's (`OSIER.clocks`),
    /// and text. Other programs leave it alone.
    pub notes: &'a [(&'a str, &'a [u8])],
    /// Asked before each object and each piece of content.
    pub watch: Watch<'a>,
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packed {
    /// How many objects.
    pub objects: u64,
    /// How much content of regular files, holes left out, in bytes.
    pub bytes: u64,
    /// Sockets, which no archive can hold: where they are below the root.
    pub sockets: Vec<PathBuf>,
}

/// Writes the tree at `tree` to `out`, and the end of an archive.
///
/// # Errors
/// [`ArchiveError`]; what was written is no whole archive then, and [`super::unpack`] will say so.
pub fn pack(tree: &Path, out: impl Write, packing: Packing<'_>) -> Result<Packed, ArchiveError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, tree, flags, Mode::empty()).map_err(ArchiveError::at(tree))?;
    let stat = fstat(&root).map_err(ArchiveError::at(tree))?;
    let out = io::BufWriter::with_capacity(BUFFER, out);
    let mut walk = Walk { out, packing, packed: Packed::default(), links: HashMap::new(), levels: 0 };
    walk.notes()?;
    walk.object(root.as_fd(), &stat, Path::new(""))?;
    walk.write(&[0; 2 * BLOCK as usize])?;
    walk.out.flush().map_err(ArchiveError::Stream)?;
    Ok(walk.packed)
}

struct Walk<'a, W: Write> {
    out: io::BufWriter<W>,
    packing: Packing<'a>,
    packed: Packed,
    /// The first path that was packed of what has several, by device and inode number.
    links: HashMap<(u64, u64), PathBuf>,
    levels: usize,
}

/// What a member's header says.
struct Says<'a> {
    kind: EntryType,
    path: &'a Path,
    link: Option<&'a OsStr>,
    /// So many bytes follow the header.
    size: u64,
    /// The file's own size, where holes are left out.
    real_size: Option<u64>,
}

impl<W: Write> Walk<'_, W> {
    fn notes(&mut self) -> Result<(), ArchiveError> {
        let mut records = Vec::new();
        for (key, value) in self.packing.notes {
            pax::write(&mut records, key, value);
        }
        self.extended(EntryType::XGlobalHeader, "pax_global_header", &records)
    }

    fn object(&mut self, object: BorrowedFd<'_>, stat: &Stat, path: &Path) -> Result<(), ArchiveError> {
        (self.packing.watch)(0)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if self.packing.only.as_mut().is_none_or(|only| only(path)) {
            self.member(object, stat, path, kind)?;
        }
        if kind.is_dir() { self.children(object, path) } else { Ok(()) }
    }

    fn children(&mut self, directory: BorrowedFd<'_>, path: &Path) -> Result<(), ArchiveError> {
        if self.levels == MOST_LEVELS {
            return Err(ArchiveError::Object(path.to_owned(), Errno::NAMETOOLONG.into()));
        }
        self.levels += 1;
        for name in read_names(directory).map_err(ArchiveError::at(path))? {
            let path = path.join(&name);
            let object = open(directory, &name).map_err(|error| match error {
                Errno::XDEV => ArchiveError::MountPoint(path.clone()),
                error => ArchiveError::at(&path)(error),
            })?;
            let stat = fstat(&object).map_err(ArchiveError::at(&path))?;
            self.object(object.as_fd(), &stat, &path)?;
        }
        self.levels -= 1;
        Ok(())
    }

    fn member(
        &mut self,
        object: BorrowedFd<'_>,
        stat: &Stat,
        path: &Path,
        kind: FileType,
    ) -> Result<(), ArchiveError> {
        let mut says = Says { kind: EntryType::Regular, path, link: None, size: 0, real_size: None };
        if kind == FileType::Socket {
            self.packed.sockets.push(path.to_owned());
            return Ok(());
        }
        self.packed.objects += 1;
        if !kind.is_dir() && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)).cloned() {
                return self.header(
                    object,
                    stat,
                    &Says { kind: EntryType::Link, link: Some(first.as_os_str()), ..says },
                );
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        let target;
        says.kind = match kind {
            FileType::RegularFile => return self.file(object, stat, says),
            FileType::Directory => EntryType::Directory,
            FileType::Symlink => {
                target = readlinkat(object, "", Vec::new()).map_err(ArchiveError::at(path))?;
                says.link = Some(OsStr::from_bytes(target.to_bytes()));
                EntryType::Symlink
            }
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            FileType::Fifo => EntryType::Fifo,
            _ => return Err(ArchiveError::Object(path.to_owned(), Errno::INVAL.into())),
        };
        self.header(object, stat, &says)
    }

    fn file(&mut self, object: BorrowedFd<'_>, stat: &Stat, mut says: Says<'_>) -> Result<(), ArchiveError> {
        let path = says.path;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file =
            openat(CWD, by_descriptor(object), flags, Mode::empty()).map_err(ArchiveError::at(path))?;
        says.size = u64::try_from(stat.st_size).unwrap_or_default();
        // Without fewer blocks than its size needs there is nothing to look for.
        let has_holes = u64::try_from(stat.st_blocks).unwrap_or_default() < says.size.div_ceil(512);
        let regions = match has_holes {
            true => sparse::find(&file, says.size).map_err(ArchiveError::at(path))?,
            false => None,
        };
        let mut map = Vec::new();
        let regions = match regions {
            Some(regions) => {
                map = sparse::write(&regions, says.size);
                says.real_size = Some(says.size);
                says.size = map.len() as u64 + regions.iter().map(|(_, length)| length).sum::<u64>();
                regions
            }
            None => vec![(0, says.size)],
        };
        self.header(object, stat, &says)?;
        self.write(&map)?;
        for region in regions {
            self.content(&file, region, path)?;
        }
        let rest = says.size.next_multiple_of(BLOCK) - says.size;
        self.write(&[0; BLOCK as usize][..usize::try_from(rest).unwrap_or_default()])
    }

    fn content(&mut self, file: &OwnedFd, (start, length): Region, path: &Path) -> Result<(), ArchiveError> {
        seek(file, SeekFrom::Start(start)).map_err(ArchiveError::at(path))?;
        let mut buffer = vec![0; BUFFER.min(usize::try_from(length).unwrap_or(BUFFER))];
        let mut left = length;
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(BUFFER));
            let count = retry_on_intr(|| read(file, &mut buffer[..most])).map_err(ArchiveError::at(path))?;
            if count == 0 {
                return Err(ArchiveError::Changed(path.to_owned()));
            }
            self.write(&buffer[..count])?;
            left -= count as u64;
            self.packed.bytes += count as u64;
            (self.packing.watch)(count as u64)?;
        }
        Ok(())
    }

    fn header(&mut self, object: BorrowedFd<'_>, stat: &Stat, says: &Says<'_>) -> Result<(), ArchiveError> {
        let mut records = Vec::new();
        let mut header = Header::new_ustar();
        header.set_entry_type(says.kind);
        header.set_mode(stat.st_mode & 0o7777);
        let mut number = |key: &str, value: u64, most: u64, set: &mut dyn FnMut(u64)| {
            if value > most {
                pax::write(&mut records, key, value.to_string().as_bytes());
            }
            set(if value > most { 0 } else { value });
        };
        number("uid", stat.st_uid.into(), 0o777_7777, &mut |uid| header.set_uid(uid));
        number("gid", stat.st_gid.into(), 0o777_7777, &mut |gid| header.set_gid(gid));
        number("size", says.size, 0o777_7777_7777, &mut |size| header.set_size(size));
        if stat.st_mtime_nsec != 0 || !(0..=0o777_7777_7777).contains(&stat.st_mtime) {
            pax::write(&mut records, "mtime", time(stat).as_bytes());
        }
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or_default().min(0o777_7777_7777));
        if matches!(says.kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(major(stat.st_rdev)).map_err(ArchiveError::at(says.path))?;
            header.set_device_minor(minor(stat.st_rdev)).map_err(ArchiveError::at(says.path))?;
        }
        names(&mut header, says, &mut records);
        if says.kind != EntryType::Link {
            for (name, value) in
                attributes::read(&by_descriptor(object)).map_err(ArchiveError::at(says.path))?
            {
                pax::write(&mut records, &format!("SCHILY.xattr.{}", name.to_string_lossy()), &value);
            }
        }
        self.extended(EntryType::XHeader, "pax_header", &records)?;
        header.set_cksum();
        self.write(header.as_bytes())
    }

    /// An extended header, which is a member of its own; none for no records.
    fn extended(&mut self, kind: EntryType, name: &str, records: &[u8]) -> Result<(), ArchiveError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.write(header.as_bytes())?;
        self.write(records)?;
        let rest = records.len().next_multiple_of(BLOCK as usize) - records.len();
        self.write(&[0; BLOCK as usize][..rest])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.out.write_all(bytes).map_err(ArchiveError::Stream)
    }
}

/// Puts the two names into the header where they fit, and in any case where they do not into records.
fn names(header: &mut Header, says: &Says<'_>, records: &mut Vec<u8>) {
    let mut path = match says.path.as_os_str().as_bytes() {
        b"" => b"./".to_vec(),
        path => [b"./", path].concat(),
    };
    if says.kind == EntryType::Directory && !path.ends_with(b"/") {
        path.push(b'/');
    }
    let link = says.link.map(OsStr::as_bytes).map(|link| match says.kind {
        EntryType::Link => [b"./", link].concat(),
        _ => link.to_owned(),
    });
    let old = header.as_old_mut();
    let fits = |name: &[u8]| name.len() <= 100 && name.is_ascii();
    if path.iter().chain(link.iter().flatten()).any(|byte| !byte.is_ascii())
        && (std::str::from_utf8(&path).is_err()
            || link.as_ref().is_some_and(|link| std::str::from_utf8(link).is_err()))
    {
        // Names are UTF-8 by definition otherwise.
        pax::write(records, "hdrcharset", b"BINARY");
    }
    if let Some(size) = says.real_size {
        for (key, value) in [("major", "1"), ("minor", "0"), ("realsize", &size.to_string())] {
            pax::write(records, &format!("GNU.sparse.{key}"), value.as_bytes());
        }
        // Under its own name, who does not know the format would take the map for content.
        pax::write(records, "GNU.sparse.name", &path);
        path = b"./GNUSparseFile.0/".to_vec();
        path.extend(says.path.file_name().unwrap_or_default().as_bytes().iter().take(80));
    }
    if !fits(&path) && says.real_size.is_none() {
        pax::write(records, "path", &path);
    }
    let count = path.len().min(100);
    old.name[..count].copy_from_slice(&path[..count]);
    if let Some(link) = link {
        if !fits(&link) {
            pax::write(records, "linkpath", &link);
        }
        let count = link.len().min(100);
        old.linkname[..count].copy_from_slice(&link[..count]);
    }
}

/// The time of modification as a decimal number; a time before 1970 counts down to its whole second and up from there, and
/// that is not what its digits would say.
fn time(stat: &Stat) -> String {
    let total = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
    let sign = if total < 0 { "-" } else { "" };
    let (seconds, nanoseconds) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    format!("{sign}{seconds}.{nanoseconds:09}")
}

fn open(directory: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    retry_on_intr(|| openat2(directory, name, ANYTHING, Mode::empty(), ResolveFlags::NO_XDEV))
}

fn by_descriptor(object: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", object.as_raw_fd())
}

/// The names in a directory, but `.` and `..`, in order, so that the same tree is the same archive.
fn read_names(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in Dir::new(openat(directory, ".", flags, Mode::empty())?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort();
    Ok(names)
}
