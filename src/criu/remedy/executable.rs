//! Executables that are in the images as O_PATH descriptors: as such they cannot be made a task's executable again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use crate::criu::images::file::{Image, Kind};

/// `file_entry.reg` (images/fdinfo.proto).
const REGULAR: u64 = 3;
/// `reg_file_entry.id` and `.flags` (images/regfile.proto).
const ID: u64 = 1;
const FLAGS: u64 = 2;
/// `mm_entry.exe_file_id` (images/mm.proto).
const EXECUTABLE: u64 = 12;

/// Takes O_PATH from every file that is a task's executable: descriptors that share its entry are plain ones after restore, which
/// can do all that those with O_PATH can.
///
/// # Errors
/// What reading and writing the images gives; `InvalidData` for what are none.
pub(super) fn mend(images: &Path) -> io::Result<()> {
    let executables = executables(images)?;
    let mut files = Image::read(&images.join("files.img"), Kind::Files)?;
    let mut changed = false;
    for record in files.records() {
        let Some(regular) = files.message(&record, REGULAR)? else { continue };
        let Some(flags) = files.number(&regular, FLAGS) else { continue };
        let path_only = flags & u64::from(libc::O_PATH.unsigned_abs());
        let is_executable = files.number(&regular, ID).is_some_and(|id| executables.contains(&id));
        let field = regular.iter().find(|field| field.number == FLAGS);
        if let Some(field) = field.filter(|_| is_executable && path_only != 0) {
            // A number that becomes smaller has room.
            changed |= files.set_number(field, flags & !path_only);
        }
    }
    if changed { files.write() } else { Ok(()) }
}

fn executables(images: &Path) -> io::Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(images)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| name.starts_with("mm-") && name.ends_with(".img")) {
            continue;
        }
        let image = Image::read(&entry.path(), Kind::Memory)?;
        for record in image.records() {
            found.extend(image.number(&image.fields(&record)?, EXECUTABLE));
        }
    }
    Ok(found)
}
