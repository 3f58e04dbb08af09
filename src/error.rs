//! What an operator reads when something cannot be done: one sentence with its object, cause and a hint.
//!
//! `sys` and the subjects of floor 2 return [`std::io::Result`] or a small enum of their own noun. From the deciding floor
//! up there is this one type. It is printed once, in `main`, and never logged on the way.

pub mod failure;

use std::fmt;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

/// What sort of failure it is; decides the exit code together with the verb that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The command line or a settings file is wrong: exit code 2.
    Usage,
    /// The object named does not exist.
    NotFound,
    /// The object named is taken: a name, a tree.
    InUse,
    /// The caller lacks a privilege.
    Permission,
    /// This host cannot do it.
    Unsupported,
    /// A command inside was found and cannot be executed: exit code 126 where a status is relayed.
    CannotExecute,
    /// A command inside is not there: exit code 127 where a status is relayed.
    CommandNotFound,
    /// It was tried and failed.
    Failed,
}

/// An error as the operator sees it: `cannot VERB 'OBJECT': cause`, then a hint where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    kind: Kind,
    what: String,
    cause: Option<String>,
    hint: Option<String>,
}

/// The result of everything from the deciding floor up.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure of `kind`, said in `what`: lower case, the object named and quoted.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), cause: None, hint: None }
    }

    /// A refused command line or setting.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    /// What was tried and failed for `cause`; the kind follows from the errno.
    pub fn io(what: impl Into<String>, cause: &io::Error) -> Self {
        let kind = match cause.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::PermissionDenied => Kind::Permission,
            io::ErrorKind::Unsupported => Kind::Unsupported,
            _ => Kind::Failed,
        };
        Self::new(kind, what).because(reason(cause))
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds what the operator can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts a wider sentence in front: `cannot boot 'web'` before `cannot mount /proc: …`.
    #[must_use]
    pub fn within(self, what: impl Into<String>) -> Self {
        let cause = match self.cause {
            Some(cause) => format!("{}: {cause}", self.what),
            None => self.what,
        };
        Self { kind: self.kind, what: what.into(), cause: Some(cause), hint: self.hint }
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What can be done about it, if osier knows.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Writes to standard error. That nobody reads it any more is no reason to end a machine, as a panic of `eprint!` would.
pub fn say(text: impl fmt::Display) {
    let _ = write!(io::stderr().lock(), "{text}");
}

/// An I/O error's text as it stands in a sentence: lower case, without `(os error N)`.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if !text.starts_with("I/O") => first.to_lowercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
}

/// Adds to an [`io::Result`] the sentence that names its object.
pub trait Context<T> {
    /// Turns the error into [`Error::io`] with the sentence made by `what`.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::io(what(), &error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_reads_as_the_end_of_a_sentence() {
        let error = Error::io("cannot mount /proc", &io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(error.to_string(), "cannot mount /proc: operation not permitted");
        assert_eq!(error.kind(), Kind::Permission);
        let error = error.within("cannot boot 'web'");
        assert_eq!(error.to_string(), "cannot boot 'web': cannot mount /proc: operation not permitted");
    }
}
