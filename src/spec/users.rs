//! Whose user and group IDs a machine has, and whose its tree's files are then (man 1 systemd-nspawn, User Namespacing Options).

use super::{Facts, is_yes};
use crate::error::{Error, Result};
use crate::idrange::{IdRange, WIDTH};
use crate::settings::{Setting, Settings};

/// Whose user and group IDs a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// The host's: it has no user namespace.
    Host,
    /// Its own, these.
    Fixed(IdRange, Ownership),
    /// Its own, whichever are free; nothing until they are looked for.
    Picked(Option<IdRange>, Ownership),
}

/// Whose files the tree has for a machine with IDs of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Those of the host's IDs that they belong to.
    AsItIs,
    /// ID 0 of the tree is the machine's 0, and so on: its mounts are mapped (man 2 mount_setattr, "ID-mapped mounts").
    Mapped,
    /// The same by a change of the tree, for good (chown(2)).
    Chowned,
    /// By what the tree's file system can.
    Auto,
}

impl Users {
    /// Its own IDs, where they are known.
    pub fn range(&self) -> Option<IdRange> {
        match self {
            Self::Host => None,
            Self::Fixed(range, _) => Some(*range),
            Self::Picked(range, _) => *range,
        }
    }
}

/// What the settings amount to.
pub(super) fn resolve(settings: &Settings, facts: &Facts) -> Result<Users> {
    let Some(setting) = &settings.private_users else {
        return match &settings.private_users_ownership {
            Some(ownership) if ownership.text != "off" => Err(ownership
                .refuse("the machine has the host's users")
                .hint("--private-users=pick gives it its own")),
            _ => Ok(Users::Host),
        };
    };
    let ownership = |default| match settings.private_users_ownership.as_ref() {
        None => Ok(default),
        Some(said) => match said.text.as_str() {
            "off" => Ok(Ownership::AsItIs),
            "map" => Ok(Ownership::Mapped),
            "chown" => Ok(Ownership::Chowned),
            "auto" => Ok(Ownership::Auto),
            _ => Err(said.refuse("not one of off, map, chown, auto")),
        },
    };
    Ok(match setting.text.as_str() {
        "pick" => Users::Picked(None, ownership(Ownership::Auto)?),
        "identity" => Users::Fixed(IdRange::IDENTITY, Ownership::AsItIs),
        _ if is_yes(setting) == Some(false) => Users::Host,
        _ if is_yes(setting) == Some(true) => {
            Users::Fixed(of_tree(setting, facts)?, ownership(Ownership::AsItIs)?)
        }
        _ => Users::Fixed(parse_range(setting)?, ownership(Ownership::AsItIs)?),
    })
}

/// The range that the tree's owner is the first of, as systemd-nspawn takes it: the upper 16 bits say which.
fn of_tree(setting: &Setting, facts: &Facts) -> Result<IdRange> {
    let first = facts.owner & !(WIDTH - 1);
    if first != facts.owner {
        return Err(setting
            .refuse(format!("the tree belongs to {}, which begins no range of {WIDTH}", facts.owner))
            .hint("--private-users=pick takes a free range, and maps the tree's files to it"));
    }
    IdRange::new(first, WIDTH).map_err(|reason| setting.refuse(reason))
}

/// `UID`, `UID:NUMBER`.
fn parse_range(setting: &Setting) -> Result<IdRange> {
    let (first, count) = setting
        .text
        .split_once(':')
        .map_or((setting.text.as_str(), None), |(first, count)| (first, Some(count)));
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let bad = || -> Error { setting.refuse("not one of yes, no, pick, identity, UID, UID:NUMBER") };
    let first = number(first).ok_or_else(bad)?;
    let count = count.map_or(Some(WIDTH), number).ok_or_else(bad)?;
    IdRange::new(first, count).map_err(|reason| setting.refuse(reason))
}
