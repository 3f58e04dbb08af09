//! A machine's whole subtree as data: read from one that is held still, made again before what was in it comes back.
//!
//! systemd inside has inotify watches on its cgroups, empty ones included, and knows its units by extended attributes; so
//! every directory is kept, and what is not the kernel's default in it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Uid, chown};
use rustix::fs::{XattrFlags, getxattr, listxattr, setxattr};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::reason;

/// What can be set in a directory, in the order in which it has to be, and what it is in a new one
/// (Documentation/admin-guide/cgroup-v2.rst, Interface Files). What is empty by default has a line for each device.
const FILES: &[(&str, &str)] = &[
    // Only a thread's cgroup takes threads; what the kernel calls the others follows from it.
    (TYPE, "domain"),
    ("cgroup.max.depth", "max"),
    ("cgroup.max.descendants", "max"),
    ("cgroup.pressure", "1"),
    ("cpuset.cpus", ""),
    ("cpuset.mems", ""),
    ("cpuset.cpus.partition", "member"),
    ("cpu.weight", "100"),
    ("cpu.idle", "0"),
    ("cpu.max", "max 100000"),
    ("cpu.max.burst", "0"),
    ("cpu.uclamp.min", "0.00"),
    ("cpu.uclamp.max", "max"),
    ("memory.min", "0"),
    ("memory.low", "0"),
    ("memory.high", "max"),
    ("memory.max", "max"),
    ("memory.oom.group", "0"),
    ("memory.swap.high", "max"),
    ("memory.swap.max", "max"),
    ("memory.zswap.max", "max"),
    ("memory.zswap.writeback", "1"),
    ("io.weight", "default 100"),
    ("io.bfq.weight", "default 100"),
    ("io.latency", ""),
    ("io.max", ""),
    ("pids.max", "max"),
    // The files of the directories below come with it.
    (CONTROL, ""),
];

const TYPE: &str = "cgroup.type";
const CONTROL: &str = "cgroup.subtree_control";
/// A file that nobody is given: its owner is who made the directory.
const UNDELEGATED: &str = "cgroup.events";
/// The longest list of names, and the longest value (linux/limits.h: `XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const LONGEST: usize = 64 << 10;

/// A directory of the subtree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Its path below the payload's; empty for that one itself.
    pub path: PathBuf,
    /// The directory's user and group ID.
    pub owner: (u32, u32),
    /// Its mode.
    pub mode: u32,
    /// The user and group ID of the files in it.
    #[serde(default)]
    pub files_owner: (u32, u32),
    /// Those of the files that belong to others: what it was delegated with.
    #[serde(default)]
    pub delegated: BTreeMap<String, (u32, u32)>,
    /// What is set in it other than by default.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Extended attributes, `user.` and `trusted.`, as far as they are text.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// Something that a directory had and this host does not take.
#[derive(Debug)]
pub struct Lost {
    /// The directory, below the payload's.
    pub path: PathBuf,
    /// The file or the attribute.
    pub name: String,
    /// What it was.
    pub value: String,
    /// Why it is not taken: `ENOENT` where the controller is not there.
    pub error: io::Error,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, name, value, error } = self;
        write!(f, "'{name}' of the cgroup '/{}' cannot be '{value}': {}", path.display(), reason(error))
    }
}

/// Why a subtree cannot be read or made.
#[derive(Debug)]
pub struct TreeError {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// Reads the subtree below `payload`, the outermost first.
///
/// # Errors
/// What reading the directories gives.
pub fn capture(payload: &Path) -> Result<Vec<Directory>, TreeError> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(relative) = left.pop() {
        let path = payload.join(&relative);
        let (directory, mut below) =
            capture_one(&path, &relative).map_err(|error| TreeError { path, error })?;
        found.push(directory);
        below.sort_by(|one, other| other.cmp(one));
        left.append(&mut below);
    }
    Ok(found)
}

fn capture_one(path: &Path, relative: &Path) -> io::Result<(Directory, Vec<PathBuf>)> {
    let owner = |metadata: &fs::Metadata| (metadata.uid(), metadata.gid());
    let metadata = fs::metadata(path)?;
    let files_owner = fs::metadata(path.join(UNDELEGATED)).map_or((0, 0), |file| owner(&file));
    let (mut below, mut delegated) = (Vec::new(), BTreeMap::new());
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let found = entry.metadata()?;
        if found.is_dir() {
            below.push(relative.join(entry.file_name()));
        } else if owner(&found) != files_owner
            && let Ok(name) = entry.file_name().into_string()
        {
            delegated.insert(name, owner(&found));
        }
    }
    let directory = Directory {
        path: relative.to_owned(),
        owner: owner(&metadata),
        mode: metadata.mode() & 0o7777,
        files_owner,
        delegated,
        files: FILES.iter().filter_map(|file| set_value(path, file)).collect(),
        attributes: attributes(path)?,
    };
    Ok((directory, below))
}

/// What is in a file, where it is there, can be read, and is not as by default.
fn set_value(directory: &Path, (name, default): &(&str, &str)) -> Option<(String, String)> {
    let text = fs::read_to_string(directory.join(name)).ok()?;
    let value = text.trim_end();
    let follows = match *name {
        "cgroup.type" => value != "threaded",
        // Of an idle group it is 0, which cannot be written.
        "cpu.weight" => value == "0",
        _ => false,
    };
    (!follows && value != *default).then(|| ((*name).to_owned(), value.to_owned()))
}

fn is_kept(name: &str) -> bool {
    name.starts_with("user.") || name.starts_with("trusted.")
}

fn attributes(path: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut names = Vec::with_capacity(LONGEST);
    match listxattr(path, rustix::buffer::spare_capacity(&mut names)) {
        Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        listed => listed?,
    };
    let mut found = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok()) {
        let mut value = Vec::with_capacity(if is_kept(name) { LONGEST } else { continue });
        match getxattr(path, name, rustix::buffer::spare_capacity(&mut value)) {
            Err(Errno::NODATA) => continue,
            got => got?,
        };
        if let Ok(value) = String::from_utf8(value) {
            found.insert(name.to_owned(), value);
        }
    }
    Ok(found)
}

/// Makes the directories below `payload`, which is there, as [`capture`] read them, without what is set in them: that is for [`set`].
/// What this host does not take is given back, and the rest made nevertheless.
///
/// # Errors
/// `InvalidInput` for a path that leads elsewhere, whoever wrote it; what mkdir(2), chmod(2) and chown(2) give.
pub fn make(directories: &[Directory], payload: &Path) -> Result<Vec<Lost>, TreeError> {
    let mut lost = Vec::new();
    for directory in directories {
        let path = payload.join(&directory.path);
        make_one(directory, &path, &mut lost).map_err(|error| TreeError { path, error })?;
    }
    give_all(directories, payload)?;
    Ok(lost)
}

/// Sets in the directories that [`make`] made what [`capture`] found set in them, outermost first: a file is there when its controller
/// is enabled above.
///
/// Not before the first process is in its own one: on its way there it is in `payload`, where none can be while a controller is
/// enabled for what is below (cgroup-v2.rst, No Internal Process Constraint). Nor later: memory stays charged to where it was asked for.
///
/// # Errors
/// What chmod(2) and chown(2) give.
pub fn set(directories: &[Directory], payload: &Path) -> Result<Vec<Lost>, TreeError> {
    let mut lost = Vec::new();
    for directory in directories {
        let known = |name: &str| FILES.iter().any(|(known, _)| *known == name);
        let (path, mut note) = (payload.join(&directory.path), notes(directory, &mut lost));
        for (name, value) in directory.files.iter().filter(|(name, _)| !known(name)) {
            note(name, value, Err(io::ErrorKind::InvalidInput.into()));
        }
        for (name, value) in FILES.iter().filter_map(|(name, _)| directory.files.get_key_value(*name)) {
            if name != TYPE {
                note(name, value, write(&path, name, value));
            }
        }
    }
    // The files of a controller have come with it.
    give_all(directories, payload)?;
    Ok(lost)
}

fn notes(directory: &Directory, lost: &mut Vec<Lost>) -> impl FnMut(&str, &str, io::Result<()>) {
    move |name, value, result| {
        let (path, name, value) = (directory.path.clone(), name.to_owned(), value.to_owned());
        lost.extend(result.err().map(|error| Lost { path, name, value, error }));
    }
}

fn make_one(directory: &Directory, path: &Path, lost: &mut Vec<Lost>) -> io::Result<()> {
    if !directory.path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    let mut note = notes(directory, lost);
    if let Some(value) = directory.files.get(TYPE) {
        note(TYPE, value, write(path, TYPE, value));
    }
    for (name, value) in &directory.attributes {
        let set = match is_kept(name) {
            true => setxattr(path, name.as_str(), value.as_bytes(), XattrFlags::empty()).map_err(Into::into),
            false => Err(io::ErrorKind::InvalidInput.into()),
        };
        note(name, value, set);
    }
    Ok(())
}

/// The innermost first, so that a directory is still root's while those below are looked at.
fn give_all(directories: &[Directory], payload: &Path) -> Result<(), TreeError> {
    for directory in directories.iter().rev() {
        let path = payload.join(&directory.path);
        give(directory, &path).map_err(|error| TreeError { path, error })?;
    }
    Ok(())
}

/// A device's line at a time, and a controller at a time: one that cannot be had must not take the others with it.
fn write(directory: &Path, name: &str, value: &str) -> io::Result<()> {
    let path = directory.join(name);
    if !path.exists() {
        // A plain directory would get a new file.
        return Err(io::ErrorKind::NotFound.into());
    }
    if name == CONTROL {
        let controllers = value.split_whitespace();
        return each(controllers.map(|controller| fs::write(&path, format!("+{controller}"))));
    }
    each(value.lines().map(|line| fs::write(&path, line)))
}

/// All of them, and the first error: what one lacks the others need not.
fn each(written: impl Iterator<Item = io::Result<()>>) -> io::Result<()> {
    written.fold(Ok(()), io::Result::and)
}

fn give(directory: &Directory, path: &Path) -> io::Result<()> {
    let chown = |path: &Path, (uid, gid): (u32, u32)| -> io::Result<()> {
        Ok(chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
    };
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let delegated = entry.file_name().to_str().and_then(|name| directory.delegated.get(name)).copied();
        let owner = delegated.unwrap_or(directory.files_owner);
        let metadata = entry.metadata()?;
        if !metadata.is_dir() && (metadata.uid(), metadata.gid()) != owner {
            chown(&entry.path(), owner)?;
        }
    }
    fs::set_permissions(path, fs::Permissions::from_mode(directory.mode & 0o7777))?;
    chown(path, directory.owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    fn put(path: &Path, value: &str) {
        fs::write(path, format!("{value}\n")).unwrap();
    }

    /// A plain directory is enough of a cgroup file system: the files of a new one are those that the test puts there.
    fn planted(dir: &TestDir) -> PathBuf {
        let payload = dir.join("payload");
        for (path, files) in [
            (
                "",
                &[("cgroup.events", "populated 1"), (CONTROL, "memory pids"), ("cgroup.type", "domain")][..],
            ),
            ("init.scope", &[("memory.max", "max"), ("cpu.idle", "1"), ("cpu.weight", "0")]),
            ("system.slice/empty.service", &[]),
            ("system.slice/x.service", &[("memory.max", "1048576"), ("io.max", "8:0 rbps=1\n8:16 wbps=2")]),
            ("user.slice", &[("cgroup.procs", ""), ("cgroup.events", "")]),
        ] {
            let path = payload.join(path);
            fs::create_dir_all(&path).unwrap();
            files.iter().for_each(|(name, value)| put(&path.join(name), value));
        }
        let service = payload.join("system.slice/x.service");
        setxattr(&service, "user.invocation_id", b"0f", XattrFlags::empty()).unwrap();
        chown(&payload.join("user.slice/cgroup.procs"), Some(Uid::from_raw(1000)), None).unwrap();
        chown(&payload.join("user.slice"), Some(Uid::from_raw(1000)), Some(Gid::from_raw(1000))).unwrap();
        payload
    }

    #[test]
    fn every_directory_is_kept_with_what_is_not_the_default() {
        let dir = TestDir::new("cgroup-capture");
        let found = capture(&planted(&dir)).unwrap();
        let paths: Vec<_> = found.iter().map(|directory| directory.path.to_str().unwrap()).collect();
        let empty = "system.slice/empty.service";
        assert_eq!(paths, ["", "init.scope", "system.slice", empty, "system.slice/x.service", "user.slice"]);
        let files =
            |at: usize| found[at].files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>();
        assert_eq!(files(0), [(CONTROL, "memory pids")]);
        assert_eq!(files(1), [("cpu.idle", "1")]);
        assert_eq!(files(4), [("io.max", "8:0 rbps=1\n8:16 wbps=2"), ("memory.max", "1048576")]);
        assert_eq!(found[4].attributes.get("user.invocation_id").unwrap(), "0f");
        assert_eq!((found[5].owner, found[5].files_owner), ((1000, 1000), (0, 0)));
        assert_eq!(found[5].delegated.get("cgroup.procs"), Some(&(1000, 0)));
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Directory>>(&text).unwrap(), found);
    }

    #[test]
    fn it_is_made_again_and_what_is_not_taken_is_told() {
        let dir = TestDir::new("cgroup-make");
        let found = capture(&planted(&dir)).unwrap();
        let again = dir.join("again");
        fs::create_dir(&again).unwrap();
        assert_eq!(make(&found, &again).unwrap().len(), 0);
        let lost = set(&found, &again).unwrap();
        // No file comes by itself in a plain directory.
        let lost: Vec<_> =
            lost.iter().map(|lost| (lost.path.to_str().unwrap(), lost.name.as_str())).collect();
        let service = "system.slice/x.service";
        let files = [("", CONTROL), ("init.scope", "cpu.idle"), (service, "memory.max"), (service, "io.max")];
        assert_eq!(lost, files);
        let made = capture(&again).unwrap();
        let without = |found: &[Directory]| -> Vec<_> {
            let bare = |one: &Directory| Directory {
                files: BTreeMap::new(),
                delegated: BTreeMap::new(),
                ..one.clone()
            };
            found.iter().map(bare).collect()
        };
        assert_eq!(without(&made), without(&found));
    }

    #[test]
    fn nothing_is_made_or_written_elsewhere() {
        let dir = TestDir::new("cgroup-hostile");
        let payload = dir.join("payload");
        fs::create_dir(&payload).unwrap();
        for path in ["../x", "/tmp/x", "a/../../x"] {
            let directory = Directory { path: path.into(), mode: 0o755, ..Directory::default() };
            let error = make(&[directory], &payload).unwrap_err();
            assert_eq!(error.error.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        put(&dir.join("x"), "as it was");
        let mut directory = Directory { mode: 0o755, ..Directory::default() };
        directory.files.insert("../x".to_owned(), "altered".to_owned());
        directory.files.insert("cgroup.kill".to_owned(), "1".to_owned());
        directory.attributes.insert("security.capability".to_owned(), "x".to_owned());
        let directory = [directory];
        assert_eq!(make(&directory, &payload).unwrap().len(), 1);
        assert_eq!(set(&directory, &payload).unwrap().len(), 2);
        assert_eq!(fs::read_to_string(dir.join("x")).unwrap(), "as it was\n");
        assert_eq!(fs::read_dir(&payload).unwrap().count(), 0);
    }

    /// On the real cgroup2, where the test is allowed to make a directory.
    #[test]
    fn the_kernel_takes_what_it_gave() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount =
            mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
        let mount = PathBuf::from(mount.expect("there is no cgroup2 here: the test cannot run"));
        let [one, other] =
            ["one", "other"].map(|name| mount.join(format!("osier-{name}-{}", std::process::id())));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&other).unwrap();
        let below = one.join("a.slice/b.service");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("cgroup.max.depth"), "3").unwrap();
        setxattr(&below, "trusted.invocation_id", b"0f", XattrFlags::empty()).unwrap();
        chown(&below, Some(Uid::from_raw(7)), Some(Gid::from_raw(8))).unwrap();
        chown(&below.join("cgroup.procs"), Some(Uid::from_raw(7)), Some(Gid::from_raw(8))).unwrap();
        let result = capture(&one).map(|found| {
            let made = make(&found, &other).map(|lost| lost.len());
            let lost = set(&found, &other).map(|lost| lost.len() + made.unwrap());
            (found, lost.ok(), capture(&other).ok())
        });
        for path in [&one, &other] {
            for directory in ["a.slice/b.service", "a.slice", ""] {
                let _ = fs::remove_dir(path.join(directory));
            }
        }
        let (found, lost, made) = result.unwrap();
        assert_eq!((lost, made), (Some(0), Some(found.clone())));
        assert_eq!(found[2].files.get("cgroup.max.depth").unwrap(), "3");
        assert_eq!(found[2].delegated.get("cgroup.procs"), Some(&(7, 8)));
    }
}
