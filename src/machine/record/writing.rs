//! Putting a record into a file: a new one beside the old one, or where there is no room for that into the old one.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::Record;
use super::locks::lock_both;

pub(super) fn write_locked(path: &Path, record: &Record) -> io::Result<File> {
    remove_if_there(path)?;
    let file = open(OpenOptions::new().create_new(true), path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    fill(&file, record)?;
    Ok(file)
}

/// Locks the record's byte, so that it reads as a living one's, and writes the record in one piece.
pub(super) fn fill(mut file: &File, record: &Record) -> io::Result<()> {
    lock_both(file)?;
    file.write_all(&encode(record)?)
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Writes the record into the room of the one before, where there is none for another file: a machine that goes on is worth
/// more than that a reader at this very moment sees half of each, which mostly is no JSON and read again.
pub(super) fn overwrite(file: &File, record: &Record) -> io::Result<()> {
    let mut text = encode(record)?;
    let before = file.metadata()?;
    if text.len() as u64 > before.blocks() * 512 {
        return Err(io::ErrorKind::StorageFull.into());
    }
    // Blanks at its end are no part of the object; cut off, the file would be short for a moment.
    text.resize(text.len().max(usize::try_from(before.len()).unwrap_or(0)), b'\n');
    file.write_all_at(&text, 0)?;
    Ok(lock_both(file)?)
}

fn encode(record: &Record) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(record)?;
    text.push(b'\n');
    Ok(text)
}

pub(super) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.read(true).write(true).mode(0o644).custom_flags(libc::O_NOFOLLOW).open(path)
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
