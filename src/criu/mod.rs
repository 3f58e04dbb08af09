//! CRIU: checkpointing a process tree, and bringing it back.
//!
//! CRIU is a program, found in `PATH` or where it is said to be, and driven by `criu swrk` ([`worker`]): one process per
//! request, protobuf messages over a socket ([`message`]), in which CRIU also says at which point it is and waits to be told
//! to go on ([`Hook`]). What its log says of a failure is made a sentence in [`log`], what its images hold is read and changed in
//! [`images`], and what is to be done about its defects stands in [`remedy`], each with the versions that have it.
//!
//! [`LazyPages`] is a CRIU of another kind: it stays until the memory that a restore did without has come.
//!
//! Nothing here knows of machines: the caller says which process, which directory, which terminal.

mod aftermath;
mod conversation;
mod dump;
mod failure;
pub mod images;
mod interception;
mod lazy;
pub mod log;
mod message;
mod netfilter;
mod pace;
mod remedy;
mod restore;
pub mod survey;
mod version;
mod worker;

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use dump::{Dump, Leave, Memory};
pub use failure::{Failed, Missing};
pub use lazy::{Asked, LazyPages};
pub use restore::{Lazy, Restore, Restored};
pub use version::Version;

use message::{FeatureFlags, Request, Type};
use worker::Worker;

/// Where programs of the administrator's are that the PATH of an ordinary user does not have.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A CRIU that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criu {
    program: PathBuf,
    version: Version,
    /// How long it took to start and to answer: how fast this host is just now.
    startup: Duration,
}

/// What this CRIU on this kernel can do beyond dump and restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Which pages were written to since the last dump: what `--precopy` needs (CONFIG_MEM_SOFT_DIRTY).
    pub dirty_pages: bool,
    /// Pages that are fetched when they are touched: what post-copy needs (userfaultfd(2)).
    pub lazy_pages: bool,
}

/// The points at which CRIU waits to be told to go on, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Nothing has been done yet to the tasks that are to be dumped.
    PreDump,
    /// All tasks are stopped, and the network is about to be locked.
    NetworkLock,
    /// Everything is in the images. The tasks are still stopped and go on after this, when they are to.
    PostDump,
    /// The network is about to be unlocked: the tasks are about to go on.
    NetworkUnlock,
    /// Nothing has been made yet of the tasks that are to be restored.
    PreRestore,
    /// The first task is there, in its namespaces, which are empty.
    SetupNamespaces,
    /// The namespaces are filled: the links are there.
    PostSetupNamespaces,
    /// All tasks are there and stopped; the network is still locked. The last point at which CRIU itself can give up.
    PostRestore,
    /// The tasks are about to run.
    PreResume,
    /// The tasks run.
    PostResume,
    /// Not CRIU's: it is restoring, and has had nothing to say for a moment. Whoever lets it go on no more has it killed.
    Waiting,
    /// One that osier has no use for.
    Other,
}

impl Hook {
    /// From the name in CRIU's notification (criu/action-scripts.c).
    fn from_name(name: &str) -> Self {
        match name {
            "pre-dump" => Self::PreDump,
            "network-lock" => Self::NetworkLock,
            "post-dump" => Self::PostDump,
            "network-unlock" => Self::NetworkUnlock,
            "pre-restore" => Self::PreRestore,
            "setup-namespaces" => Self::SetupNamespaces,
            "post-setup-namespaces" => Self::PostSetupNamespaces,
            "post-restore" => Self::PostRestore,
            "pre-resume" => Self::PreResume,
            "post-resume" => Self::PostResume,
            _ => Self::Other,
        }
    }
}

impl Criu {
    /// Finds CRIU at `given`, or in `PATH` and the administrator's directories, and asks it for its version.
    ///
    /// # Errors
    /// [`Missing`]: not there, too old, or it does not start.
    pub fn find(given: Option<&Path>) -> Result<Self, Missing> {
        let program = match given {
            Some(path) => path.to_owned(),
            None => search("criu").ok_or(Missing::NotFound(None))?,
        };
        let asked = Instant::now();
        let version = match ask(&program, |worker| worker.ask_version()) {
            Ok(answer) => Version::from(answer),
            Err(Unheard::Cannot(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Missing::NotFound(Some(program)));
            }
            Err(Unheard::Cannot(error)) => {
                return Err(Missing::DoesNotStart { program, reason: error.to_string() });
            }
            Err(Unheard::Killed(how)) => return Err(Missing::Killed { program, how }),
        };
        if version < Version::OLDEST {
            Err(Missing::TooOld { program, version })
        } else {
            Ok(Self { program, version, startup: asked.elapsed() })
        }
    }

    /// Where it is.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Finds out what it can do here. CRIU tries the kernel out for this, which takes some hundredths of a second.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn features(&self) -> io::Result<Features> {
        ask(&self.program, |worker| {
            let wanted = FeatureFlags { mem_track: Some(true), lazy_pages: Some(true), pidfd_store: None };
            let kind = Type::FeatureCheck.into();
            worker.send(&Request { kind, features: Some(wanted), ..Request::default() })?;
            let answer = worker.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let found = answer.features.filter(|_| answer.success).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Features {
                dirty_pages: found.mem_track.unwrap_or_default(),
                lazy_pages: found.lazy_pages.unwrap_or_default(),
            })
        })
        .map_err(|unheard| match unheard {
            Unheard::Cannot(error) => error,
            Unheard::Killed(how) => io::Error::other(format!("it {how}")),
        })
    }
}

/// Why there is no answer.
enum Unheard {
    /// The program does not start, or is no such program. What it said before it ended is in it.
    Cannot(io::Error),
    /// It was ended by a signal: how.
    Killed(String),
}

impl From<io::Error> for Unheard {
    fn from(error: io::Error) -> Self {
        Self::Cannot(error)
    }
}

/// One question to a worker of its own.
fn ask<T>(program: &Path, question: impl FnOnce(&Worker) -> io::Result<T>) -> Result<T, Unheard> {
    let mut worker = Worker::start(program, &[])?;
    let answer = question(&worker);
    let status = worker.end()?;
    answer.map_err(|error| match worker.last_words() {
        _ if status.signal().is_some() => Unheard::Killed(worker.obituary(status)),
        Some(words) => io::Error::other(words).into(),
        None => error.into(),
    })
}

/// The program of this name, as execvp(3) finds it.
fn search(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(SBIN.map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(|path| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}
