//! What stays with a record and is for root alone: the settings that a machine was launched with, which a checkpoint takes
//! along. Environment variables are among them, and a record can be read by everybody.
//!
//! An extended attribute of the record's file (man 7 xattr, trusted): it goes with the file, whoever removes it.

use std::fs::File;
use std::io;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::{Claim, Record, Store};

const ATTRIBUTE: &str = "trusted.osier.settings";
/// The longest value that the kernel takes (XATTR_SIZE_MAX, include/uapi/linux/limits.h).
const LONGEST: usize = 64 << 10;

pub(super) fn set(file: &File, kept: Option<&[u8]>) -> io::Result<()> {
    let Some(kept) = kept else { return Ok(()) };
    Ok(rustix::fs::fsetxattr(file, ATTRIBUTE, kept, XattrFlags::empty())?)
}

impl Claim {
    /// Has every record from now on accompanied by `kept`, at most 64 KiB.
    pub fn keep(&mut self, kept: Vec<u8>) {
        self.kept = Some(kept);
    }
}

impl Store {
    /// What the supervisor of the machine that `record` tells of has kept with it.
    ///
    /// # Errors
    /// What open(2) and getxattr(2) give; that nothing was kept is none.
    pub fn kept(&self, record: &Record) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(&record.name).ok_or(io::ErrorKind::InvalidInput)?;
        let mut kept = vec![0; LONGEST];
        match rustix::fs::getxattr(path, ATTRIBUTE, kept.as_mut_slice()) {
            Ok(length) => {
                kept.truncate(length);
                Ok(Some(kept))
            }
            Err(Errno::NODATA) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
