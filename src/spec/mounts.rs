//! The mounts that were asked for beyond the ones that every machine has: checked, absolute, in the order to make them.

use std::path::{Path, PathBuf};

use super::Users;
use crate::error::{Error, Kind, Result};
use crate::mount::op::{Access, Depth, Owners, TmpfsLimits};
use crate::settings::bind::{Size, TmpfsOptions, parse_tmpfs_options, split};
use crate::settings::{Setting, Settings};

/// A mount that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtraMount {
    /// A host path seen inside.
    Bind {
        /// On the host; absolute.
        source: PathBuf,
        /// Inside; absolute.
        target: PathBuf,
        /// Whether it can be written to.
        access: Access,
        /// Whether what is mounted below comes along.
        depth: Depth,
        /// Whose its files are.
        owners: Owners,
    },
    /// An empty tmpfs.
    Tmpfs {
        /// Inside; absolute.
        target: PathBuf,
        /// Its options.
        options: TmpfsOptions,
    },
    /// An empty node of mode 0 over what is there.
    Inaccessible {
        /// Inside; absolute.
        target: PathBuf,
    },
}

/// Parses all mounts, outer ones first.
pub(super) fn resolve(settings: &Settings, users: Users) -> Result<Vec<ExtraMount>> {
    let mut mounts = Vec::new();
    let has_users = users != Users::Host;
    for setting in &settings.bind {
        mounts.push(parse_bind(setting, Access::ReadWrite, has_users)?);
    }
    for setting in &settings.bind_ro {
        mounts.push(parse_bind(setting, Access::ReadOnly, has_users)?);
    }
    for setting in &settings.tmpfs {
        let parts = split(&setting.text);
        let options = parts.get(1..).map_or(String::new(), |rest| rest.join(":"));
        let options = parse_tmpfs_options(&options).map_err(|reason| setting.refuse(reason))?;
        mounts.push(ExtraMount::Tmpfs { target: inside(setting, &parts[0])?, options });
    }
    for setting in &settings.inaccessible {
        mounts.push(ExtraMount::Inaccessible { target: parse_inside(setting)? });
    }
    // An outer mount first, or it would cover the inner one.
    mounts.sort_by_key(|mount| mount.target().components().count());
    Ok(mounts)
}

impl ExtraMount {
    /// Where it is mounted.
    pub fn target(&self) -> &Path {
        match self {
            Self::Bind { target, .. } | Self::Tmpfs { target, .. } | Self::Inaccessible { target } => target,
        }
    }
}

impl TmpfsOptions {
    /// Its limits on a host with this much memory, where any were given.
    pub fn limits(self, memory: u64) -> Option<TmpfsLimits> {
        (self.size.is_some() || self.inodes.is_some()).then(|| TmpfsLimits {
            size: self.size.unwrap_or(Size::Percent(10)).bytes(memory),
            inodes: self.inodes.unwrap_or(1 << 20),
        })
    }
}

fn parse_bind(setting: &Setting, access: Access, has_users: bool) -> Result<ExtraMount> {
    let parts = split(&setting.text);
    let (source, target, options) = match parts.as_slice() {
        [source] => (source, source, ""),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options.as_str()),
        _ => return Err(setting.refuse("more than SRC:DST:OPTIONS; a colon in a path is written \\:")),
    };
    let (mut depth, mut owners) = (Depth::Recursive, Owners::AsTheyAre);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rbind" => depth = Depth::Recursive,
            "norbind" => depth = Depth::Single,
            "noidmap" => owners = Owners::AsTheyAre,
            "idmap" => owners = Owners::Mapped,
            "rootidmap" => owners = Owners::Root,
            "owneridmap" => owners = Owners::Target,
            _ => {
                return Err(setting.refuse(format!(
                    "'{option}' is not one of the options rbind, norbind, idmap, noidmap, rootidmap, owneridmap"
                )));
            }
        }
    }
    if owners != Owners::AsTheyAre && !has_users {
        return Err(setting
            .refuse("the machine has the host's users")
            .hint("--private-users=pick gives it its own"));
    }
    let source = PathBuf::from(source);
    if !source.is_absolute() {
        return Err(setting.refuse("the source is not an absolute path"));
    }
    match source.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::new(Kind::NotFound, format!("{}={}", setting.origin, setting.text))
                .because(format!("there is no '{}' on the host", source.display())))
        }
        _ => Ok(ExtraMount::Bind { target: inside(setting, target)?, source, access, depth, owners }),
    }
}

/// The setting of a path inside.
///
/// # Errors
/// One that is not absolute, or has `..` in it.
pub fn parse_inside(setting: &Setting) -> Result<PathBuf> {
    inside(setting, &setting.text)
}

/// An absolute path inside the machine, without `..`.
fn inside(setting: &Setting, path: &str) -> Result<PathBuf> {
    let path = Path::new(path);
    let plain = path.components().all(|part| part != std::path::Component::ParentDir);
    if path.is_absolute() && plain && !path.as_os_str().as_encoded_bytes().contains(&0) {
        return Ok(path.components().collect());
    }
    Err(setting
        .refuse(format!("'{}' is not an absolute path without '..' inside the machine", path.display())))
}
