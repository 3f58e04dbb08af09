//! Where a machine's clocks were, kept beside its image: `--clock=continue`, checkpoints, clones and archives.
//!
//! `.#NAME.osier-clocks.json` is beside the tree NAME, as its lock is, so that it goes where the directory goes and is in
//! nobody's way inside. While the machine runs, its supervisor writes the file anew every [`PACE`]. A machine whose
//! supervisor was killed has been seen to be anywhere between the last writing and the next: it goes on from as late as that,
//! for a clock that jumps ahead by a second is one, and a clock that runs backwards is none.
//!
//! Only at the end is the file forced to the disk: a supervisor that waits for a disk serves no console. So after a power
//! cut the file may be as old as the file system lets what is written be ([`UNSYNCED`]), and that much is added.
//!
//! Who writes holds the tree alone ([`crate::image`]'s lock).

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;
use serde::{Deserialize, Serialize};

use super::{Clock, MAX, Offsets, nanoseconds};
use crate::error::reason;

/// How often the file of a machine that runs is written.
pub const PACE: Duration = Duration::from_millis(500);
/// By so much at most the clocks of a machine go ahead whose supervisor was killed, in nanoseconds: twice [`PACE`], for a
/// busy host writes late.
const GRACE: i64 = 1_000_000_000;
/// So old may a file be after a power cut, in nanoseconds: what is written reaches the disk after
/// vm.dirty_expire_centisecs (30 s) and a turn of vm.dirty_writeback_centisecs and of the journal (Documentation/admin-guide/
/// sysctl/vm.rst).
const UNSYNCED: i64 = 60_000_000_000;
/// Larger is no such file, in bytes.
const LARGEST: u64 = 64 << 10;

/// Where a machine's clocks were, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The version of these keys: 1.
    pub version: u64,
    /// The machine that ran.
    pub machine: String,
    /// Its machine ID, 32 hexadecimal digits.
    pub id: String,
    /// CLOCK_MONOTONIC inside, in nanoseconds.
    pub monotonic_ns: i64,
    /// CLOCK_BOOTTIME inside, in nanoseconds.
    pub boottime_ns: i64,
    /// CLOCK_REALTIME then, in nanoseconds since 1970; for people, and for who wants to count the time in between.
    pub realtime_ns: i64,
    /// Whether the machine was running then, so that its clocks have gone on since.
    pub running: bool,
    /// The host's boot, as /proc/sys/kernel/random/boot_id names it.
    pub host_boot_id: String,
    /// CLOCK_BOOTTIME of the host's initial time namespace then, in nanoseconds.
    pub host_boottime_ns: i64,
}

/// Whether a machine's clocks go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It runs.
    Running,
    /// It has ended: the file is to last.
    Stopped,
}

/// What of the host is in a [`State`]: read once, for it does not change while a machine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostBoot {
    id: String,
    own: Offsets,
}

/// Why the clocks that a file holds cannot be used.
#[derive(Debug)]
pub enum StateError {
    /// It could not be read.
    Unreadable(PathBuf, io::Error),
    /// It is not what osier writes.
    Corrupt(PathBuf, String),
    /// A later osier wrote it, with keys of this version.
    Newer(PathBuf, u64),
}

impl StateError {
    /// The file.
    pub fn path(&self) -> &Path {
        let (Self::Unreadable(path, _) | Self::Corrupt(path, _) | Self::Newer(path, _)) = self;
        path
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(_, error) => f.write_str(&reason(error)),
            Self::Corrupt(_, why) => write!(f, "it is not what osier writes: {why}"),
            Self::Newer(_, version) => {
                write!(f, "a later osier wrote it (version {version}; this one knows {})", State::VERSION)
            }
        }
    }
}

impl std::error::Error for StateError {}

impl HostBoot {
    /// Reads it.
    ///
    /// # Errors
    /// What reading /proc gives.
    pub fn read() -> io::Result<Self> {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { id, own: Offsets::own()? })
    }

    /// CLOCK_BOOTTIME of the initial time namespace, in nanoseconds.
    fn boottime(&self) -> i64 {
        super::read_here(Clock::Boottime).saturating_sub(self.own.boottime)
    }
}

impl State {
    /// The layout described here. A key may be added; none is renamed, removed or given another type without a new number.
    pub const VERSION: u64 = 1;

    /// The file of the tree at `tree`; `None` for a root, which has nothing beside it.
    pub fn path(tree: &Path) -> Option<PathBuf> {
        let mut name = OsString::from(".#");
        name.push(tree.file_name()?);
        name.push(".osier-clocks.json");
        Some(tree.with_file_name(name))
    }

    /// What the clocks of a machine with these offsets show at this moment.
    pub fn now(machine: (&str, &str), offsets: Offsets, host: &HostBoot, course: Course) -> Self {
        let initial = |clock, own| super::read_here(clock).saturating_sub(own);
        let realtime = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        // In the order of Now::read, so that what passes in between does not add up with every life.
        let monotonic = initial(Clock::Monotonic, host.own.monotonic);
        let boottime = initial(Clock::Boottime, host.own.boottime);
        Self {
            version: Self::VERSION,
            machine: machine.0.to_owned(),
            id: machine.1.to_owned(),
            monotonic_ns: monotonic.saturating_add(offsets.monotonic),
            boottime_ns: boottime.saturating_add(offsets.boottime),
            realtime_ns: nanoseconds(realtime.tv_sec, realtime.tv_nsec).unwrap_or(i64::MAX),
            running: course == Course::Running,
            host_boot_id: host.id.clone(),
            host_boottime_ns: boottime,
        }
    }

    /// From where the clocks go on: monotonic and boottime, in nanoseconds. Never before what the machine has seen.
    pub fn next(&self, host: &HostBoot) -> (i64, i64) {
        let ahead = match self.running {
            false => 0,
            // It cannot have run for longer than there was time.
            true if self.host_boot_id == host.id => (host.boottime() - self.host_boottime_ns).clamp(0, GRACE),
            true => UNSYNCED,
        };
        (self.monotonic_ns.saturating_add(ahead), self.boottime_ns.saturating_add(ahead))
    }

    /// The same of a machine that has ended where its clocks go on from: for a copy, which is read who knows where.
    #[must_use]
    pub fn settled(&self, host: &HostBoot) -> Self {
        let (monotonic_ns, boottime_ns) = self.next(host);
        Self { monotonic_ns, boottime_ns, running: false, ..self.clone() }
    }

    /// What the file at `path` says; `None` where there is none.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn read(path: &Path) -> Result<Option<Self>, StateError> {
        match read_bytes(path) {
            Ok(Some(bytes)) => Self::parse(&bytes, path).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(StateError::Unreadable(path.to_owned(), error)),
        }
    }

    /// What the content of a file says, which is called `path` where it is not understood.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        let corrupt = |why: String| StateError::Corrupt(path.to_owned(), why);
        let version = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()));
        match version.map(|Version { version }| version)? {
            Self::VERSION => {}
            0 => return Err(corrupt("there is no version 0".to_owned())),
            version => return Err(StateError::Newer(path.to_owned(), version)),
        }
        let state: Self = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        for (clock, value) in [("monotonic_ns", state.monotonic_ns), ("boottime_ns", state.boottime_ns)] {
            if !(0..=MAX).contains(&value) {
                return Err(corrupt(format!("{clock} is {value}, and no clock can show that")));
            }
        }
        Ok(state)
    }

    /// The content of a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Makes it the content of the file at `path`, all at once; of a machine that has ended, so that it lasts.
    ///
    /// # Errors
    /// What the file system gives; the file is as before.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        replace(path, &self.to_bytes(), if self.running { Course::Running } else { Course::Stopped })
    }
}

/// Whether files can be written beside the tree.
///
/// # Errors
/// What the kernel says why not, `EROFS` above all.
pub fn check_place(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    Ok(rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// The content of the file at `path`; `None` where there is none.
///
/// # Errors
/// What the file system gives; `InvalidInput` for what is no regular file, or a large one.
pub fn read_bytes(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(Some(bytes)) }
}

/// Makes `bytes` the content of the file at `path`, all at once; in place where there is no room for another.
///
/// # Errors
/// What the file system gives; the file is as before.
pub fn replace(path: &Path, bytes: &[u8], course: Course) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = create(&new, bytes, course).and_then(|()| fs::rename(&new, path));
    if let Err(error) = &written {
        let _ = fs::remove_file(&new);
        // The old file's block is there, on most file systems, and what it says is a step back by now.
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if full && overwrite(path, bytes, course).is_ok() {
            return Ok(());
        }
    } else if course == Course::Stopped {
        // The name is to last as well.
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    }
    written
}

/// In place: whole for who reads it afterwards, but after a power cut in between.
fn overwrite(path: &Path, bytes: &[u8], course: Course) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    if course == Course::Stopped { file.sync_all() } else { Ok(()) }
}

fn create(new: &Path, bytes: &[u8], course: Course) -> io::Result<()> {
    let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(new);
    let mut file = match open() {
        // Of one who was killed between the two.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(new)?;
            open()?
        }
        file => file?,
    };
    file.write_all(bytes)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    if course == Course::Stopped { file.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    const SECOND: i64 = 1_000_000_000;

    fn host() -> HostBoot {
        HostBoot::read().unwrap()
    }

    fn state(course: Course) -> State {
        let offsets = Offsets { monotonic: 5 * SECOND, boottime: 7 * SECOND };
        State::now(("web", "0123456789abcdef0123456789abcdef"), offsets, &host(), course)
    }

    #[test]
    fn it_is_beside_the_tree_and_nowhere_else() {
        assert_eq!(State::path(Path::new("/m/web")), Some("/m/.#web.osier-clocks.json".into()));
        assert_eq!(State::path(Path::new("/")), None);
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_is_there() {
        let place = TestDir::new("state-write");
        let path = place.join(".#web.osier-clocks.json");
        assert_eq!(State::read(&path).unwrap(), None);
        fs::write(place.join(".#web.osier-clocks.json.new"), "half").unwrap();
        for course in [Course::Running, Course::Stopped] {
            let state = state(course);
            state.write(&path).unwrap();
            assert_eq!(State::read(&path).unwrap(), Some(state));
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\n  \"monotonic_ns\": "), "{text}");
    }

    #[test]
    fn clocks_go_on_from_where_they_stopped_and_never_from_before_what_was_seen() {
        let host = host();
        let stopped = state(Course::Stopped);
        assert_eq!(stopped.next(&host), (stopped.monotonic_ns, stopped.boottime_ns));
        // Whose supervisor was killed: as much as there was time for, and no more than can have passed unseen.
        let mut killed = state(Course::Running);
        std::thread::sleep(Duration::from_millis(20));
        let ahead = killed.next(&host).0 - killed.monotonic_ns;
        assert!((20_000_000..GRACE).contains(&ahead), "{ahead}");
        killed.host_boottime_ns -= 3600 * SECOND;
        assert_eq!(killed.next(&host), (killed.monotonic_ns + GRACE, killed.boottime_ns + GRACE));
        // And on a host that has been booted since.
        killed.host_boot_id = "another".to_owned();
        assert_eq!(killed.next(&host).0, killed.monotonic_ns + UNSYNCED);
    }

    #[test]
    fn what_osier_did_not_write_is_refused() {
        let place = TestDir::new("state-refuse");
        let path = place.join("state");
        let whole = serde_json::to_string(&state(Course::Stopped)).unwrap();
        let with = |key: &str, value: &str| {
            let mut value_of: serde_json::Value = serde_json::from_str(&whole).unwrap();
            value_of[key] = serde_json::from_str(value).unwrap();
            value_of.to_string()
        };
        for (text, words) in [
            (String::new(), "not what osier writes"),
            (whole[..whole.len() / 2].to_owned(), "not what osier writes"),
            ("{}".to_owned(), "version"),
            (with("version", "0"), "no version 0"),
            (with("version", "2"), "a later osier wrote it (version 2; this one knows 1)"),
            (with("monotonic_ns", "-1"), "monotonic_ns is -1"),
            (with("boottime_ns", "9223372036854775807"), "no clock can show that"),
            (with("boottime_ns", "\"soon\""), "not what osier writes"),
            (with("boottime_ns", "1e300"), "not what osier writes"),
        ] {
            fs::write(&path, &text).unwrap();
            let error = State::read(&path).unwrap_err();
            assert!(error.to_string().contains(words), "{text}: {error}");
        }
        // A key of a later osier that changes nothing is no obstacle.
        fs::write(&path, with("colour", "\"blue\"")).unwrap();
        assert!(State::read(&path).unwrap().is_some());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(State::read(&path).is_err(), "a link is not followed");
    }
}
