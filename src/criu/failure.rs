//! Why there is no CRIU, and why CRIU could not do it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Version;
use crate::error::{Error, Kind, reason};

/// What a host needs to have.
const INSTALL: &str = "install criu 4.1 or newer (Debian 13, Fedora 42 and later have it: package 'criu')";

/// There is no CRIU that can be used.
#[derive(Debug)]
pub enum Missing {
    /// It is not there; the path, where one was given.
    NotFound(Option<PathBuf>),
    /// It is older than [`Version::OLDEST`].
    TooOld {
        /// Where it is.
        program: PathBuf,
        /// What it is.
        version: Version,
    },
    /// It does not answer.
    DoesNotStart {
        /// Where it is.
        program: PathBuf,
        /// What it said, or why not.
        reason: String,
    },
    /// It was killed before it had answered.
    Killed {
        /// Where it is.
        program: PathBuf,
        /// How.
        how: String,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(None) => f.write_str("cannot find 'criu' in PATH"),
            Self::NotFound(Some(path)) => write!(f, "cannot find '{}'", path.display()),
            Self::TooOld { program, version } => {
                write!(
                    f,
                    "cannot use '{}': it is criu {version}, and osier needs {}",
                    program.display(),
                    Version::OLDEST
                )
            }
            Self::DoesNotStart { program, reason } => {
                write!(f, "cannot use '{}' as criu: {reason}", program.display())
            }
            Self::Killed { program, how } => write!(f, "cannot ask '{}': it {how}", program.display()),
        }
    }
}

impl std::error::Error for Missing {}

impl From<Missing> for Error {
    fn from(missing: Missing) -> Self {
        let (kind, hint) = match missing {
            // It is there, and may be as good as any.
            Missing::Killed { .. } => return Self::new(Kind::Failed, missing.to_string()),
            Missing::NotFound(Some(_)) => {
                (Kind::NotFound, format!("--criu=PATH names the program; or {INSTALL}"))
            }
            _ => (Kind::Unsupported, INSTALL.to_owned()),
        };
        Self::new(kind, missing.to_string()).hint(hint)
    }
}

/// What CRIU was to do and did not.
#[derive(Debug)]
pub enum Failed {
    /// It could not be started, or not be talked to.
    Start {
        /// What was tried, as the end of "cannot …".
        step: String,
        /// Why not.
        cause: io::Error,
    },
    /// It gave up.
    Refused {
        /// Its reason, with the culprit's name where the log has it.
        cause: String,
        /// Its log.
        log: PathBuf,
    },
    /// It ended without a word: it was killed. Of a dump's tasks, one in whose name it was just executing a system call is killed by
    /// its trap (SIGTRAP), a matter of some milliseconds for each task; all others go on as if nothing had been.
    Died {
        /// How.
        how: String,
        /// Its log, as far as it came.
        log: PathBuf,
    },
    /// The caller did not let it go on.
    Hook(io::Error),
    /// A signal asked osier to stop.
    Interrupted,
}

impl Failed {
    pub(super) fn start(step: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Start { step: step.to_string(), cause }
    }

    /// Whether it was for something that passes by itself: a message that was on its way, a file that was just being removed.
    pub fn passes(&self) -> bool {
        // CRIU's words (criu/sk-netlink.c, criu/proc_parse.c).
        const PASSING: [&str; 2] = ["socket has data to read", "error parsing [inotify"];
        let Self::Refused { cause, log } = self else { return false };
        let text = std::fs::read_to_string(log).unwrap_or_default();
        PASSING.iter().any(|words| cause.contains(words) || text.contains(words))
    }

    /// CRIU's log, where it says more.
    pub fn log(&self) -> Option<&std::path::Path> {
        match self {
            Self::Refused { log, .. } | Self::Died { log, .. } => Some(log),
            _ => None,
        }
    }

    /// As an operator's error: `what` is the sentence before the colon, `cannot checkpoint 'web'`.
    pub fn into_error(self, what: impl Into<String>) -> Error {
        let error = Error::new(Kind::Failed, what).because(&self);
        match self.log() {
            Some(log) => error.hint(format!("CRIU's own log is {}", log.display())),
            None => error,
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { step, cause } => write!(f, "cannot {step}: {}", reason(cause)),
            Self::Refused { cause, .. } => f.write_str(cause),
            Self::Died { how, .. } => write!(f, "criu {how}"),
            Self::Hook(cause) => f.write_str(&reason(cause)),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Failed {}
