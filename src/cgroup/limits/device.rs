//! Block devices, as `io.max` wants them: the whole disk, by its numbers.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{major, minor};

use crate::error::reason;

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    path: String,
    numbers: (u32, u32),
}

impl Device {
    /// The device at a path, the one that a file there is on, or the one of the numbers `MAJOR:MINOR`. Of a partition
    /// it is the disk: the kernel limits no less (`ENODEV`; cgroup-v2.rst, io.max).
    ///
    /// # Errors
    /// Why it is none.
    pub fn find(text: &str) -> Result<Self, String> {
        // Where udev makes links by number; not every host has them.
        if let Some((major, minor)) = text.strip_prefix("/dev/block/").unwrap_or(text).split_once(':')
            && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
        {
            return Ok(Self { path: format!("/dev/block/{major}:{minor}"), numbers: (major, minor) });
        }
        if !text.starts_with('/') {
            return Err(format!("'{text}' is neither an absolute path nor a device's numbers MAJOR:MINOR"));
        }
        let found = fs::metadata(text).map_err(|error| format!("'{text}': {}", reason(&error)))?;
        let device = if found.file_type().is_block_device() { found.rdev() } else { found.dev() };
        if major(device) == 0 {
            return Err(format!("'{text}' is not on a block device"));
        }
        Ok(Self { path: text.to_owned(), numbers: whole(major(device), minor(device)) })
    }

    /// A path of it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its major and minor number.
    pub fn numbers(&self) -> (u32, u32) {
        self.numbers
    }
}

/// The disk that a partition is on: sysfs has the partition's directory in the disk's.
fn whole(major: u32, minor: u32) -> (u32, u32) {
    let own = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let of_disk = || {
        own.join("partition").exists().then_some(())?;
        let text = fs::read_to_string(fs::canonicalize(&own).ok()?.parent()?.join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    of_disk().unwrap_or((major, minor))
}
