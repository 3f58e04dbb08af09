//! Where a machine's settings file is, and how far it is trusted (man 5 systemd.nspawn, .nspawn File Discovery).

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// The administrator's directories, in the order in which they are looked at.
pub const DIRECTORIES: [&str; 2] = ["/etc/systemd/nspawn", "/run/systemd/nspawn"];

/// More than any settings file has.
const LIMIT: u64 = 1 << 20;

/// Whether a file may give a machine more than it has by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It may.
    Full,
    /// Privileged settings in it are left out: it came with the image.
    Limited,
}

/// A settings file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// Whether all of it counts.
    pub trust: Trust,
    /// What is in it.
    pub text: String,
}

/// The settings file of the machine `name` that runs from `image`: the first of the administrator's, else the one that
/// stands beside the image.
///
/// # Errors
/// A file that is there and cannot be read, or is no text.
pub fn find(name: &str, image: &Path) -> Result<Option<Found>> {
    find_in(&DIRECTORIES.map(Path::new), name, image)
}

/// As [`find`], with the administrator's directories given.
///
/// # Errors
/// As [`find`].
pub fn find_in(directories: &[&Path], name: &str, image: &Path) -> Result<Option<Found>> {
    let file = format!("{name}.nspawn");
    let trusted = directories.iter().map(|directory| (directory.join(&file), Trust::Full));
    // None beside the host's own root, which has nothing beside it.
    let beside = image.parent().map(|parent| (parent.join(&file), Trust::Limited));
    for (path, trust) in trusted.chain(beside) {
        if let Some(text) = read(&path)? {
            return Ok(Some(Found { path, trust, text }));
        }
    }
    Ok(None)
}

/// The text of a settings file; none where there is no file.
///
/// # Errors
/// As [`find`].
pub fn read(path: &Path) -> Result<Option<String>> {
    let what = || format!("cannot read '{}'", path.display());
    // What is there may be a fifo with nobody at its other end.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
    {
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(None);
        }
        file => file.map_err(|error| Error::io(what(), &error))?,
    };
    let bytes = read_regular(file).map_err(|error| Error::io(what(), &error))?;
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| Error::new(Kind::Usage, what()).because("it is not a text in UTF-8"))
}

fn read_regular(file: File) -> io::Result<Vec<u8>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > LIMIT {
        return Err(io::Error::other("not a file of less than a mebibyte"));
    }
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}
