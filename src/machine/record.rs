//! The record: the file under /run/osier/machines that tells other osier commands about a machine.
//!
//! `NAME.json` exists from the moment the name is taken (empty until the leader runs) until the machine is gone. Its
//! supervisor holds two open file description locks on it (man 2 F_OFD_SETLK): on the first byte, "the name is mine", and on
//! the second, "what stands in this very file is mine". So a file whose name is locked and whose record is not was
//! left by a dead supervisor and is being taken over; with neither lock it describes what the next boot has to clean up.
//!
//! Locks of this kind because F_OFD_GETLK asks without taking: a reader can never make a claim fail, as a shared flock(2)
//! of its would. They are shared with forked children until these close the descriptor: it is close-on-exec, and a child
//! that never calls execve(2) (a stub init) has to close it, or the name stays taken while that child lives.
//!
//! Writers replace the file by rename(2); the new file is locked before it gets the name. Whoever opens the file just
//! before sees that its link count is zero and opens again.

mod checkpointable;
mod kept;
mod locks;
mod writing;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::XattrFlags;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::idrange::IdRange;
use crate::image::Init;
pub use checkpointable::Checkpointable;
use locks::{State, lock_name, state};
use writing::{fill, is_full, open, overwrite, remove_if_there, write_locked};

/// Where records are.
pub const DIRECTORY: &str = "/run/osier/machines";

/// How often an open is repeated that met a file just replaced; each round takes another writer's rename.
const ROUNDS: u32 = 100;

/// Everything that other commands may know about a machine. `osier show NAME --json` prints it and more: each of these
/// keys is in osier-json(5), which the tests of `verb::schema` write from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Record {
    /// The version of these keys: 1.
    pub version: u32,
    /// The machine's name.
    pub name: String,
    /// Its machine ID, 32 hexadecimal digits.
    pub id: String,
    /// `container`, as machined names it.
    pub class: String,
    /// `boot` or `run`.
    pub verb: String,
    /// Which init it boots with; none of a `run`.
    #[serde(default)]
    pub init: Option<Init>,
    /// Where it is in its life.
    #[serde(default)]
    pub state: Stage,
    /// Host pid of the leader (PID 1 inside).
    pub leader: u32,
    /// Host pid of the supervisor.
    pub supervisor: u32,
    /// Uid of who started it, who may act on it beside root. Root's in the records of osier 0.1.0.
    #[serde(default)]
    pub owner: u32,
    /// The tree or image that it runs from, absolute.
    pub root: PathBuf,
    /// `PRETTY_NAME` of the tree's os-release, where it has one.
    pub os: Option<String>,
    /// The systemd unit that holds it, where systemd is PID 1 on the host.
    pub unit: Option<String>,
    /// Whether machined knows it.
    pub registered: bool,
    /// Absolute path of its cgroup (above `payload`), as mounted on the host.
    pub cgroup: Option<PathBuf>,
    /// Its user IDs and group IDs, of a machine with users of its own.
    #[serde(default)]
    pub users: Option<IdRange>,
    /// Inode number of each namespace by its name in /proc/PID/ns.
    pub namespaces: BTreeMap<String, u64>,
    /// The offsets of its time namespace.
    pub clocks: Clocks,
    /// How it can be saved and restored; nothing of a machine that cannot be.
    #[serde(default)]
    pub checkpointable: Option<Checkpointable>,
    /// Host network interfaces that belong to it.
    pub links: Vec<String>,
    /// When its leader ran, microseconds of CLOCK_REALTIME since the epoch.
    pub started: u64,
    /// The moment of `started`, microseconds of the host's CLOCK_MONOTONIC. Zero in the records of osier 0.1.0.
    #[serde(default)]
    pub started_monotonic: u64,
}

/// Where a machine is in its life, as other commands see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Its init runs and has not said yet that it is ready.
    Starting,
    /// It is ready, or its first process is none that would say so.
    #[default]
    Running,
    /// It was asked to end, or its init has said that it goes down.
    Stopping,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        })
    }
}

/// Offsets of a time namespace against the host's initial one, in nanoseconds (man 7 time_namespaces).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Clocks {
    /// Added to CLOCK_MONOTONIC.
    pub monotonic_offset_ns: i64,
    /// Added to CLOCK_BOOTTIME.
    pub boottime_offset_ns: i64,
}

impl Record {
    /// The layout described here. A key may be added; none is renamed, removed or given another type without a new number.
    pub const VERSION: u32 = 1;

    /// Which boot of the machine it tells of: two records of one boot have the same.
    pub fn boot(&self) -> (u32, u32) {
        (self.supervisor, self.leader)
    }
}

/// The directory of records.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Self::at(DIRECTORY)
    }
}

impl Store {
    /// The records in `directory`; [`DIRECTORY`] but in tests.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Takes `name` for a machine of this process. Atomic: of two at once one gets it.
    ///
    /// # Errors
    /// [`Kind::InUse`] while a living supervisor has the name; what open(2) and mkdir(2) give otherwise.
    pub fn claim(&self, name: &str) -> Result<Claim> {
        let Some(path) = self.path(name) else {
            return Err(Error::usage(format!("'{name}' is not a machine name")));
        };
        self.make_directory().context(|| format!("cannot make {}", self.directory.display()))?;
        let file = match take(&path).context(|| format!("cannot take {}", path.display()))? {
            Taken::Mine(file) => file,
            Taken::Others => return Err(in_use(name, self.read(name).as_ref())),
        };
        let leftover = content(&file);
        let owner = std::process::id();
        let claim = Claim { path, file, leftover, kept: None, owner };
        // Of a writer that died between open and rename.
        let stale = claim.replacement();
        remove_if_there(&stale).context(|| format!("cannot remove {}", stale.display()))?;
        Ok(claim)
    }

    /// The record of a living machine.
    pub fn read(&self, name: &str) -> Option<Record> {
        self.look(name).filter(|(_, state)| *state == State::Living).map(|(record, _)| record)
    }

    /// The records of all living machines, by name.
    ///
    /// # Errors
    /// What opendir(3) gives; a directory that is not there holds no machine.
    pub fn list(&self) -> Result<Vec<Record>> {
        self.all(State::Living)
    }

    /// The records that dead supervisors left and nobody is taking over, by name.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn dead(&self) -> Result<Vec<Record>> {
        self.all(State::Dead)
    }

    /// The names of which a dead supervisor left a file: a record, an empty one, one that was to replace it.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn ownerless(&self) -> Result<Vec<String>> {
        let listed = || format!("cannot list {}", self.directory.display());
        let mut names = self.files(".json").context(listed)?;
        let halves = self.files(".json.new").context(listed)?;
        names.extend(halves.iter().filter_map(|half| half.strip_prefix('.')).map(str::to_owned));
        names.retain(|name| self.path(name).is_some_and(|path| is_ownerless(&path)));
        Ok(names)
    }

    /// Whether there is a file of this name, whatever is in it.
    pub fn has_file(&self, name: &str) -> bool {
        self.path(name).is_some_and(|path| path.symlink_metadata().is_ok())
    }

    fn all(&self, wanted: State) -> Result<Vec<Record>> {
        let names = self.names().context(|| format!("cannot list {}", self.directory.display()))?;
        let found = names.iter().filter_map(|name| self.look(name));
        Ok(found.filter(|(_, state)| *state == wanted).map(|(record, _)| record).collect())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = self.files(".json")?;
        names.retain(|name| !name.starts_with('.'));
        names.sort_unstable();
        Ok(names)
    }

    /// The files that end so, without that end.
    fn files(&self, end: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let file = entry?.file_name();
            names.extend(file.to_str().and_then(|file| file.strip_suffix(end)).map(str::to_owned));
        }
        Ok(names)
    }

    fn look(&self, name: &str) -> Option<(Record, State)> {
        let path = self.path(name)?;
        for _ in 0..ROUNDS {
            let file = File::open(&path).ok()?;
            let state = state(&file).ok()?;
            let record = content(&file);
            let found = file.metadata().ok()?;
            // Just being written, when /run is full.
            let is_torn = record.is_none() && state == State::Living && found.len() > 0;
            // Replaced or removed meanwhile: its lock may have gone with the old file.
            if found.nlink() > 0 && !is_torn {
                return record.map(|record| (record, state));
            }
        }
        None
    }

    /// No path for what would leave the directory or hide in it.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
        plain.then(|| self.directory.join(format!("{name}.json")))
    }

    /// World-readable whatever the umask is: `osier list` needs no root.
    fn make_directory(&self) -> io::Result<()> {
        for directory in [self.directory.parent(), Some(self.directory.as_path())].into_iter().flatten() {
            match fs::create_dir(directory) {
                Ok(()) => fs::set_permissions(directory, Permissions::from_mode(0o755))?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What a supervisor is about to make or take, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Locks of a tree.
    Tree,
    /// A cgroup of its own, where there is none yet.
    Cgroup,
}

impl Intent {
    fn attribute(self) -> &'static str {
        match self {
            Self::Tree => "trusted.osier.tree",
            Self::Cgroup => "trusted.osier.cgroup",
        }
    }
}

/// A machine's name, taken: nobody else can take it until this is closed or the process ends.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    file: File,
    leftover: Option<Record>,
    /// What stays with the record, for root alone.
    kept: Option<Vec<u8>>,
    /// Forked children have a copy of this and must not remove the file when they drop it.
    owner: u32,
}

impl Claim {
    /// What a dead supervisor of a machine of this name wrote: what it names may still be there, for the caller to clean
    /// up. It stays in the file until the first [`Claim::write`].
    pub fn leftover(&self) -> Option<&Record> {
        self.leftover.as_ref()
    }

    /// Makes `record` what other commands see. They see the old one or the new one, never half of one.
    ///
    /// # Errors
    /// What open(2), write(2) and rename(2) give, such as `ENOSPC` when /run is full.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let failed = |error: &io::Error| Error::io(format!("cannot write {}", self.path.display()), error);
        if self.file.metadata().map_err(|error| failed(&error))?.len() == 0 {
            // The first record needs no other file: nobody takes an empty one for a machine, and what is not whole yet
            // is no record.
            let filled = kept::set(&self.file, self.kept.as_deref()).and_then(|()| fill(&self.file, record));
            return filled.map_err(|error| failed(&error));
        }
        let replacement = self.replacement();
        let written = write_locked(&replacement, record).and_then(|file| {
            kept::set(&file, self.kept.as_deref())?;
            fs::rename(&replacement, &self.path)?;
            Ok(file)
        });
        match written {
            Ok(file) => {
                // The old file's locks go only now, when it has no name any more.
                self.file = file;
                self.leftover = None;
                Ok(())
            }
            Err(error) if is_full(&error) && overwrite(&self.file, record).is_ok() => {
                let _ = fs::remove_file(&replacement);
                self.leftover = None;
                Ok(())
            }
            Err(error) => {
                // Already failing; a file that could not be made needs no removal.
                let _ = fs::remove_file(&replacement);
                Err(Error::io(format!("cannot write {}", self.path.display()), &error))
            }
        }
    }

    /// Notes what is about to be made or taken, before it is: without a record yet, who cleans up behind a supervisor that was
    /// killed finds it by that. An attribute, because an empty file is what nobody takes for a machine; where there can be
    /// none (man 7 xattr) the thing stays, which holds nobody up.
    pub fn note(&self, intent: Intent, path: &Path) {
        let value = path.as_os_str().as_bytes();
        let _ = rustix::fs::fsetxattr(&self.file, intent.attribute(), value, XattrFlags::empty());
    }

    /// What a dead supervisor noted in this very file.
    pub fn noted(&self, intent: Intent) -> Option<PathBuf> {
        let mut path = vec![0; libc::PATH_MAX as usize];
        let length = rustix::fs::fgetxattr(&self.file, intent.attribute(), path.as_mut_slice()).ok()?;
        Some(PathBuf::from(OsStr::from_bytes(path.get(..length)?)))
    }

    /// Gives the name back and leaves what a dead supervisor left as it is.
    pub fn leave(&mut self) {
        self.owner = 0;
    }

    /// Removes the record and gives the name back.
    ///
    /// # Errors
    /// What unlink(2) gives.
    pub fn close(mut self) -> Result<()> {
        self.remove().context(|| format!("cannot remove {}", self.path.display()))?;
        self.owner = 0;
        Ok(())
    }

    fn remove(&self) -> io::Result<()> {
        if self.owner == std::process::id() && is_at(&self.file, &self.path)? {
            fs::remove_file(&self.path)?;
        }
        Ok(())
    }

    fn replacement(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!(".{name}.new"))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Nobody to tell: `close` is the way that reports.
        let _ = self.remove();
    }
}

enum Taken {
    Mine(File),
    Others,
}

/// Opens and locks the file that has the name when this returns.
fn take(path: &Path) -> io::Result<Taken> {
    for _ in 0..ROUNDS {
        let file = open(OpenOptions::new().create(true), path)?;
        match lock_name(&file) {
            Ok(()) => match make_readable(&file, path) {
                Ok(true) => return Ok(Taken::Mine(file)),
                // Its owner removed or replaced it between open and lock.
                Ok(false) => {}
                Err(error) => {
                    // Locked, it is nobody else's.
                    if is_at(&file, path).unwrap_or(false) {
                        let _ = fs::remove_file(path);
                    }
                    return Err(error);
                }
            },
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(Taken::Others),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Taken::Others)
}

/// Whether it is the file that has the name; then everybody can read it.
fn make_readable(file: &File, path: &Path) -> io::Result<bool> {
    let named = is_at(file, path)?;
    if named {
        file.set_permissions(Permissions::from_mode(0o644))?;
    }
    Ok(named)
}

/// Whether `path` names this very file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The record in a file; none in one that is claimed only, or that another version wrote in another layout.
fn content(mut file: &File) -> Option<Record> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Whether nobody holds the name; a file that is not there is nobody's.
fn is_ownerless(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => state(&file).is_ok_and(|state| state == State::Dead),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn in_use(name: &str, known: Option<&Record>) -> Error {
    let error = Error::new(Kind::InUse, format!("the name '{name}' is in use"));
    match known {
        Some(record) => error
            .because(format!(
                "a machine runs from {}, supervised by process {}",
                record.root.display(),
                record.supervisor
            ))
            .hint("give this one another name with --machine=NAME"),
        None => error.because("a machine of that name is being started or cleaned up"),
    }
}

#[cfg(test)]
mod tests;
