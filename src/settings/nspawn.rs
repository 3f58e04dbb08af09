//! What stands in a settings file, as [`Settings`]: systemd-nspawn's own keys (man 5 systemd.nspawn), and those of `[X-Osier]`,
//! which systemd leaves alone.
//!
//! [`KEYS`] has each key with what becomes of it. What osier cannot do yet is refused where a machine would be less
//! isolated without it, and otherwise left out with a warning.

use std::fmt;

use super::ini::{self, Assignment};
use super::search::{Found, Trust};
use super::{LimitSetting, Origin, Setting, Settings};
use crate::cgroup::limits::Key;
use crate::error::{Error, Result};

/// What becomes of a key.
#[derive(Debug, Clone, Copy)]
enum Use {
    /// One text.
    One(fn(&mut Settings) -> &mut Option<Setting>),
    /// One of these words.
    OneOf(&'static [&'static str], fn(&mut Settings) -> &mut Option<Setting>),
    /// A boolean.
    Switch(fn(&mut Settings) -> &mut Option<Setting>),
    /// A text for each assignment; an empty one drops those before it.
    Each(fn(&mut Settings) -> &mut Vec<Setting>),
    /// The words of all assignments.
    Words(fn(&mut Settings) -> &mut Vec<Setting>),
    /// What the init is given.
    Arguments,
    /// A private network, and a link.
    Network,
    /// A limit; an empty one drops those before it.
    Limit(Key),
    /// The verb decides it.
    Verb,
    /// Not there yet; a machine is none the less isolated.
    Later,
    /// Not there yet; without it a machine would have more than it should.
    Needed,
}

/// Whether a file that came with an image may say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privilege {
    None,
    Privileged,
}

use Privilege::{None as Plain, Privileged};

/// Sections and keys. `Limit` stands for LimitCPU= and all the others of setrlimit(2).
const KEYS: &[(&str, &str, Privilege, Use)] = &[
    ("Exec", "Boot", Plain, Use::Verb),
    ("Exec", "Ephemeral", Plain, Use::Switch(|all| &mut all.ephemeral)),
    ("Exec", "ProcessTwo", Plain, Use::Switch(|all| &mut all.process_two)),
    ("Exec", "Parameters", Plain, Use::Arguments),
    ("Exec", "Environment", Plain, Use::Words(|all| &mut all.setenv)),
    ("Exec", "User", Plain, Use::One(|all| &mut all.uid)),
    ("Exec", "WorkingDirectory", Plain, Use::One(|all| &mut all.chdir)),
    ("Exec", "Capability", Privileged, Use::Words(|all| &mut all.capability)),
    ("Exec", "DropCapability", Plain, Use::Words(|all| &mut all.drop_capability)),
    ("Exec", "KillSignal", Plain, Use::One(|all| &mut all.kill_signal)),
    ("Exec", "MachineID", Privileged, Use::One(|all| &mut all.uuid)),
    ("Exec", "Hostname", Plain, Use::One(|all| &mut all.hostname)),
    ("Exec", "NotifyReady", Plain, Use::Switch(|all| &mut all.notify_ready)),
    ("Exec", "AmbientCapability", Privileged, Use::Later),
    ("Exec", "CPUAffinity", Privileged, Use::Later),
    ("Exec", "LinkJournal", Privileged, Use::Later),
    ("Exec", "OOMScoreAdjust", Privileged, Use::Later),
    ("Exec", "Personality", Plain, Use::Later),
    ("Exec", "PivotRoot", Plain, Use::Later),
    ("Exec", "ResolvConf", Plain, Use::Later),
    ("Exec", "SuppressSync", Plain, Use::Later),
    ("Exec", "Timezone", Plain, Use::Later),
    ("Exec", "Limit", Privileged, Use::Needed),
    ("Exec", "NoNewPrivileges", Plain, Use::Needed),
    ("Exec", "PrivateUsers", Privileged, Use::One(|all| &mut all.private_users)),
    ("Exec", "SystemCallFilter", Plain, Use::Needed),
    ("Files", "ReadOnly", Plain, Use::Switch(|all| &mut all.read_only)),
    ("Files", "Bind", Privileged, Use::Each(|all| &mut all.bind)),
    ("Files", "BindReadOnly", Privileged, Use::Each(|all| &mut all.bind_ro)),
    ("Files", "TemporaryFileSystem", Privileged, Use::Each(|all| &mut all.tmpfs)),
    ("Files", "Inaccessible", Privileged, Use::Each(|all| &mut all.inaccessible)),
    ("Files", "BindUser", Privileged, Use::Later),
    ("Files", "BindUserShell", Privileged, Use::Later),
    ("Files", "OverlayReadOnly", Privileged, Use::Later),
    ("Files", "PrivateUsersChown", Privileged, Use::Later),
    ("Files", "PrivateUsersOwnership", Privileged, Use::One(|all| &mut all.private_users_ownership)),
    ("Files", "Overlay", Privileged, Use::Needed),
    ("Files", "Volatile", Plain, Use::Needed),
    ("Network", "Private", Privileged, Use::Network),
    ("Network", "VirtualEthernet", Privileged, Use::Network),
    ("Network", "Port", Privileged, Use::Later),
    ("Network", "Bridge", Privileged, Use::Needed),
    ("Network", "IPVLAN", Privileged, Use::Needed),
    ("Network", "Interface", Privileged, Use::Needed),
    ("Network", "MACVLAN", Privileged, Use::Needed),
    ("Network", "NamespacePath", Privileged, Use::Needed),
    ("Network", "VirtualEthernetExtra", Privileged, Use::Needed),
    ("Network", "Zone", Privileged, Use::Needed),
    (OWN, "Clock", Plain, Use::OneOf(&["host", "zero", "continue"], |all| &mut all.clock)),
    (OWN, "Uptime", Plain, Use::One(|all| &mut all.uptime)),
    (OWN, "ClockMonotonic", Plain, Use::One(|all| &mut all.clock_monotonic)),
    (OWN, "ClockBoottime", Plain, Use::One(|all| &mut all.clock_boottime)),
    (OWN, "Checkpointable", Plain, Use::Switch(|all| &mut all.checkpointable)),
    (OWN, "Slice", Privileged, Use::One(|all| &mut all.slice)),
    (OWN, "Property", Privileged, Use::Each(|all| &mut all.property)),
];

/// The section of what systemd has no key for.
pub const OWN: &str = "X-Osier";

/// Sections and keys, with the limits of `[X-Osier]`; for the manual page's test.
pub fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    let listed = KEYS.iter().map(|(section, key, ..)| (*section, *key));
    listed.chain(Key::properties().map(|(name, _)| (OWN, name)))
}

/// A word for the operator about what was left out: `FILE:LINE: KEY: reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a settings file says.
///
/// # Errors
/// A line that is none, a value that is none, what osier cannot do and may not leave out.
pub fn read(found: &Found) -> Result<(Settings, Vec<Warning>)> {
    let assignments = ini::parse(&found.text).map_err(|malformed| {
        Error::usage(format!("{}:{}", found.path.display(), malformed.line)).because(malformed.reason)
    })?;
    let mut reader =
        Reader { found, settings: Settings::default(), warnings: Vec::new(), network: (None, None) };
    for assignment in &assignments {
        reader.take(assignment)?;
    }
    reader.settings.network.extend(reader.network());
    Ok((reader.settings, reader.warnings))
}

struct Reader<'a> {
    found: &'a Found,
    settings: Settings,
    warnings: Vec<Warning>,
    /// Private= and VirtualEthernet=.
    network: (Option<Setting>, Option<Setting>),
}

impl Reader<'_> {
    fn take(&mut self, assignment: &Assignment) -> Result<()> {
        let Assignment { section, key, value, .. } = assignment;
        let Some((privilege, means)) = lookup(section, key) else {
            // systemd's own rule: X- is for others to use, without a word.
            if section != OWN && (section.starts_with("X-") || key.starts_with("X-")) {
                return Ok(());
            }
            self.warn(assignment, format!("is no key of [{section}] and is left out"));
            return Ok(());
        };
        if privilege == Privileged && self.found.trust == Trust::Limited {
            self.warn(assignment, "is left out: the file came with the image and is not trusted");
            return Ok(());
        }
        let setting = self.setting(assignment, value);
        match means {
            Use::One(field) => *field(&mut self.settings) = not_empty(setting),
            Use::OneOf(words, field) => {
                if !value.is_empty() && !words.contains(&value.as_str()) {
                    return Err(setting.refuse(format!("'{value}' is not one of {}", words.join(", "))));
                }
                *field(&mut self.settings) = not_empty(setting);
            }
            Use::Switch(field) => *field(&mut self.settings) = Some(switch(setting)?),
            Use::Each(field) => assign(field(&mut self.settings), [setting]),
            Use::Words(field) => {
                let words = ini::words(value).map_err(|reason| setting.refuse(reason))?;
                assign(
                    field(&mut self.settings),
                    words.into_iter().map(|word| Setting { text: word, ..setting.clone() }),
                );
            }
            Use::Arguments => {
                let words = ini::words(value).map_err(|reason| setting.refuse(reason))?;
                self.settings.arguments = words.into_iter().map(Into::into).collect();
            }
            Use::Network if key == "Private" => self.network.0 = Some(switch(setting)?),
            Use::Network => self.network.1 = Some(switch(setting)?),
            Use::Limit(key) if value.is_empty() => self.settings.limits.retain(|said| said.key != key),
            Use::Limit(key) => self.settings.limits.push(LimitSetting { key, setting }),
            Use::Verb => {}
            Use::Later => self.warn(assignment, "is something that osier cannot do yet; it is left out"),
            Use::Needed if is_off(value) => {}
            Use::Needed => {
                let reason = "osier cannot do this yet, and without it the machine would be less isolated";
                return Err(setting.refuse(reason).hint("--settings=no leaves the whole file out"));
            }
        }
        Ok(())
    }

    fn setting(&self, assignment: &Assignment, text: &str) -> Setting {
        let (path, key) = (self.found.path.clone(), assignment.key.clone());
        Setting { text: text.to_owned(), origin: Origin::File { path, line: assignment.line, key } }
    }

    fn warn(&mut self, assignment: &Assignment, what: impl fmt::Display) {
        let Assignment { key, line, .. } = assignment;
        self.warnings.push(Warning(format!("{}:{line}: {key} {what}", self.found.path.display())));
    }

    /// A link is a private network with something in it; VirtualEthernet=no alone is the host's network, as it is
    /// under systemd-nspawn@.service.
    fn network(&self) -> Option<Setting> {
        let is_on = |setting: &Option<Setting>| setting.as_ref().is_some_and(|setting| setting.text == "yes");
        let (private, link) = &self.network;
        let (kind, origin) = match (is_on(private), is_on(link)) {
            (_, true) => ("veth", link),
            (true, false) => ("none", private),
            (false, false) => ("host", if private.is_some() { private } else { link }),
        };
        Some(Setting { text: kind.to_owned(), ..origin.clone()? })
    }
}

fn lookup(section: &str, key: &str) -> Option<(Privilege, Use)> {
    if section == OWN
        && let Some(limit) = Key::of_property(key)
    {
        // A weight or a number of tasks may be more than a machine gets by itself.
        return Some((Privileged, Use::Limit(limit)));
    }
    let key = if key.starts_with("Limit") { "Limit" } else { key };
    let found = KEYS.iter().find(|(of, name, ..)| (*of, *name) == (section, key));
    found.map(|(_, _, privilege, means)| (*privilege, *means))
}

/// An empty value is as if nothing had been said.
fn not_empty(setting: Setting) -> Option<Setting> {
    (!setting.text.is_empty()).then_some(setting)
}

fn assign(field: &mut Vec<Setting>, more: impl IntoIterator<Item = Setting>) {
    let mut more = more.into_iter().filter(|setting| !setting.text.is_empty()).peekable();
    if more.peek().is_none() {
        field.clear();
    }
    field.extend(more);
}

/// The words for yes and no (man 7 systemd.syntax), written in one way.
fn switch(setting: Setting) -> Result<Setting> {
    let text = match setting.text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" | "y" | "t" => "yes",
        "no" | "false" | "off" | "0" | "n" | "f" => "no",
        text => return Err(setting.refuse(format!("'{text}' is neither yes nor no"))),
    };
    Ok(Setting { text: text.to_owned(), ..setting })
}

/// What is not asked for needs not be there.
fn is_off(value: &str) -> bool {
    ["", "no", "false", "off", "0", "n", "f"].contains(&value)
}

#[cfg(test)]
mod tests;
