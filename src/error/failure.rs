//! A step that failed in a process on its way into a machine, as data: its parent says it in words.
//!
//! Such a process has no standard error to speak on, and its exit status is too narrow for a step and an errno.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use super::{Error, Kind, reason};

/// As many characters of a step are said.
const LONGEST: usize = 1000;

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What could not be done, with its object: `mount proc on /proc`.
    pub step: String,
    /// Why: an errno, or words where there is none.
    pub cause: Cause,
    /// What sort of step it was.
    pub phase: Phase,
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The kernel's errno.
    Errno(i32),
    /// In words.
    Words(String),
}

/// What sort of step failed: decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Setting up.
    SetUp,
    /// Executing the payload: 126 or 127.
    Execute,
}

impl Failure {
    /// A step of setting up that failed with `error`.
    pub fn set_up(step: impl fmt::Display, error: &io::Error) -> Self {
        Self { step: shortened(step), cause: Cause::of(error), phase: Phase::SetUp }
    }

    /// A step of setting up that cannot be, for this reason.
    pub fn refused(step: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self { step: shortened(step), cause: Cause::Words(reason.to_string()), phase: Phase::SetUp }
    }

    /// Executing `program` failed with `error`.
    pub fn execute(program: impl fmt::Display, error: &io::Error) -> Self {
        Self {
            step: shortened(format_args!("execute '{program}'")),
            cause: Cause::of(error),
            phase: Phase::Execute,
        }
    }
}

/// The text of a step, which has to fit into one packet of the wire whatever the operator has typed.
fn shortened(step: impl fmt::Display) -> String {
    let text = step.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

impl Cause {
    fn of(error: &io::Error) -> Self {
        error.raw_os_error().map_or_else(|| Self::Words(reason(error)), Self::Errno)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let cause = match &failure.cause {
            Cause::Errno(errno) => reason(&io::Error::from_raw_os_error(*errno)),
            Cause::Words(words) => words.clone(),
        };
        let kind = match (failure.phase, &failure.cause) {
            (Phase::SetUp, _) => Kind::Failed,
            (Phase::Execute, Cause::Errno(libc::ENOENT | libc::ENOTDIR)) => Kind::CommandNotFound,
            (Phase::Execute, _) => Kind::CannotExecute,
        };
        let error = Self::new(kind, format!("cannot {}", failure.step)).because(cause);
        match failure.cause {
            Cause::Errno(libc::EROFS) => error.hint("the tree lacks this mount point, and it is read-only"),
            _ => error,
        }
    }
}

/// Names the step that failed.
///
/// # Errors
/// The failure of `result`, as that of `what`.
pub fn step<T, E: Into<io::Error>>(what: impl fmt::Display, result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(|error| Failure::set_up(what, &error.into()))
}
