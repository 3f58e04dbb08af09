//! What was said, and where: the text of each setting with its origin, so that an error can name it.
//!
//! Texts, not values: `spec` gives them meaning, and names [`Origin`] when it cannot.

pub mod bind;

use std::ffi::OsString;
use std::fmt;

use crate::cgroup::limits::Key;
use crate::error::Error;

/// Where a setting was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command line, with its dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A setting's text and origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As it was written.
    pub text: String,
    /// Where.
    pub origin: Origin,
}

impl Setting {
    /// The setting of a flag.
    pub fn flag(flag: &'static str, text: impl Into<String>) -> Self {
        Self { text: text.into(), origin: Origin::Flag(flag) }
    }

    /// The refusal of it: `--uptime=3x: REASON`.
    pub fn refuse(&self, reason: impl fmt::Display) -> Error {
        Error::usage(format!("{}={}", self.origin, self.text)).because(reason)
    }
}

/// What was said about a limit, and the way that its value is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSetting {
    /// Which.
    pub key: Key,
    /// Its value.
    pub setting: Setting,
}

/// Everything that can be said about a machine that is to be launched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the options of the same name in cli.rs and osier(1)")]
pub struct Settings {
    pub machine: Option<Setting>,
    pub uuid: Option<Setting>,
    pub hostname: Option<Setting>,
    pub setenv: Vec<Setting>,
    pub chdir: Option<Setting>,
    pub uid: Option<Setting>,
    pub kill_signal: Option<Setting>,
    pub notify_ready: Option<Setting>,
    pub read_only: Option<Setting>,
    pub ephemeral: Option<Setting>,
    pub bind: Vec<Setting>,
    pub bind_ro: Vec<Setting>,
    pub tmpfs: Vec<Setting>,
    pub inaccessible: Vec<Setting>,
    pub clock: Option<Setting>,
    pub uptime: Option<Setting>,
    pub clock_monotonic: Option<Setting>,
    pub clock_boottime: Option<Setting>,
    pub network: Vec<Setting>,
    pub console: Option<Setting>,
    pub register: Option<Setting>,
    pub slice: Option<Setting>,
    pub property: Vec<Setting>,
    pub keep_unit: Option<Setting>,
    pub limits: Vec<LimitSetting>,
    pub capability: Vec<Setting>,
    pub drop_capability: Vec<Setting>,
    pub api_vfs: Option<Setting>,
    pub process_two: Option<Setting>,
    /// What is to be run: the command, or the init's arguments.
    pub arguments: Vec<OsString>,
}
