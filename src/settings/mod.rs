//! What was said, and where: the text of each setting with its origin, so that an error can name it. The command line is
//! one place; a settings file, which [`search`] finds and [`nspawn`] reads, another; [`Settings::over`] makes one of both.
//!
//! Texts, not values: `spec` gives them meaning, and names [`Origin`] when it cannot.

pub mod bind;
pub mod edit;
pub mod ini;
pub mod nspawn;
pub mod search;

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cgroup::limits::Key;
use crate::error::Error;

/// Where a setting was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A flag of the command line, with its dashes.
    Flag(Cow<'static, str>),
    /// A line of a settings file.
    File {
        /// The file.
        path: PathBuf,
        /// Its line; 1 is the first.
        line: usize,
        /// The key there.
        key: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::File { path, line, key } => write!(f, "{}:{line}: {key}", path.display()),
        }
    }
}

/// A setting's text and origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// As it was written.
    pub text: String,
    /// Where.
    pub origin: Origin,
}

impl Setting {
    /// The setting of a flag.
    pub fn flag(flag: &'static str, text: impl Into<String>) -> Self {
        Self { text: text.into(), origin: Origin::Flag(Cow::Borrowed(flag)) }
    }

    /// The refusal of it: `--uptime=3x: REASON`, `FILE:LINE: Uptime: REASON`.
    pub fn refuse(&self, reason: impl fmt::Display) -> Error {
        let what = match &self.origin {
            Origin::Flag(flag) => format!("{flag}={}", self.text),
            Origin::File { .. } => self.origin.to_string(),
        };
        Error::usage(what).because(reason)
    }
}

/// What was said about a limit, and the way that its value is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitSetting {
    /// Which.
    pub key: Key,
    /// Its value.
    pub setting: Setting,
}

/// Everything that can be said about a machine that is to be launched. A checkpoint has them in JSON: what a later version
/// does not know any more is ignored, and what an earlier one did not know is not said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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
    pub private_users: Option<Setting>,
    pub private_users_ownership: Option<Setting>,
    pub api_vfs: Option<Setting>,
    pub checkpointable: Option<Setting>,
    pub process_two: Option<Setting>,
    /// What is to be run: the command, or the init's arguments.
    pub arguments: Vec<OsString>,
}

impl Settings {
    /// These, and what `below` says where these say nothing. Of what is a list the whole list counts, of mounts and of
    /// capabilities all lists together, as with systemd-nspawn; of limits each by itself.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        let mounts = [&self.bind, &self.bind_ro, &self.tmpfs, &self.inaccessible];
        let has_mounts = mounts.iter().any(|list| !list.is_empty());
        let has_capabilities = !self.capability.is_empty() || !self.drop_capability.is_empty();
        let list = |own: Vec<Setting>, below: Vec<Setting>, has_any: &dyn Fn(&[Setting]) -> bool| {
            if has_any(&own) { own } else { below }
        };
        let one = |own: &[Setting]| !own.is_empty();
        let starts = self.clock.is_some() || self.uptime.is_some();
        // A unit that is kept has its slice and its properties.
        let has_unit = self.keep_unit.is_some();
        Self {
            machine: self.machine.or(below.machine),
            uuid: self.uuid.or(below.uuid),
            hostname: self.hostname.or(below.hostname),
            setenv: list(self.setenv, below.setenv, &one),
            chdir: self.chdir.or(below.chdir),
            uid: self.uid.or(below.uid),
            kill_signal: self.kill_signal.or(below.kill_signal),
            notify_ready: self.notify_ready.or(below.notify_ready),
            read_only: self.read_only.or(below.read_only),
            ephemeral: self.ephemeral.or(below.ephemeral),
            bind: list(self.bind, below.bind, &|_| has_mounts),
            bind_ro: list(self.bind_ro, below.bind_ro, &|_| has_mounts),
            tmpfs: list(self.tmpfs, below.tmpfs, &|_| has_mounts),
            inaccessible: list(self.inaccessible, below.inaccessible, &|_| has_mounts),
            clock: self.clock.or(below.clock.filter(|_| !starts)),
            uptime: self.uptime.or(below.uptime.filter(|_| !starts)),
            clock_monotonic: self.clock_monotonic.or(below.clock_monotonic),
            clock_boottime: self.clock_boottime.or(below.clock_boottime),
            network: list(self.network, below.network, &one),
            console: self.console.or(below.console),
            register: self.register.or(below.register),
            slice: self.slice.or(below.slice.filter(|_| !has_unit)),
            property: list(self.property, below.property, &|own| has_unit || one(own)),
            keep_unit: self.keep_unit.or(below.keep_unit),
            // Later ones hold.
            limits: below.limits.into_iter().chain(self.limits).collect(),
            capability: list(self.capability, below.capability, &|_| has_capabilities),
            drop_capability: list(self.drop_capability, below.drop_capability, &|_| has_capabilities),
            private_users: self.private_users.or(below.private_users),
            private_users_ownership: self.private_users_ownership.or(below.private_users_ownership),
            api_vfs: self.api_vfs.or(below.api_vfs),
            checkpointable: self.checkpointable.or(below.checkpointable),
            process_two: self.process_two.or(below.process_two),
            arguments: if self.arguments.is_empty() { below.arguments } else { self.arguments },
        }
    }
}
