//! The log of a console that nobody looks at: bounded, one old one kept beside it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Where logs are.
pub const DIRECTORY: &str = "/var/log/osier";
/// So long a log gets before it becomes the old one.
pub const LONGEST: u64 = 1024 * 1024;

/// The log of the machine `name`'s console.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{name}.log"))
}

/// The one before it.
pub fn old(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// A log that is written.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Log {
    /// Goes on with the log at `path`.
    ///
    /// # Errors
    /// What mkdir(2) and open(2) give.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        let file = open(&path)?;
        let length = file.metadata()?.len();
        Ok(Self { path, file, length })
    }

    /// The file that is written at present.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Adds what the console has written. What cannot be written (a full disk) is lost: no machine waits for its log.
    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.length >= LONGEST && self.turn_over().is_err() {
                return;
            }
            let room = usize::try_from(LONGEST - self.length).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if self.file.write_all(now).is_err() {
                return;
            }
            self.length += now.len() as u64;
            bytes = later;
        }
    }

    /// The log becomes the old one.
    fn turn_over(&mut self) -> io::Result<()> {
        match fs::rename(&self.path, old(&self.path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.file = open(&self.path)?;
        self.length = self.file.metadata()?.len();
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_log_is_bounded_and_loses_nothing_of_the_last() {
        let directory = std::env::temp_dir().join(format!("osier-log-{}", std::process::id()));
        let path = directory.join("web.log");
        let mut log = Log::open(path.clone()).unwrap();
        let line = "0123456789abcde\n";
        for _ in 0..200 {
            log.write(line.repeat(1000).as_bytes());
        }
        let (new, before) = (fs::read(&path).unwrap(), fs::read(old(&path)).unwrap());
        assert_eq!(before.len() as u64, LONGEST);
        assert_eq!(before.len() + new.len() + 2 * 1024 * 1024, 200 * 1000 * line.len());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        drop(log);
        Log::open(path.clone()).unwrap().write(b"and on");
        assert!(fs::read(&path).unwrap().ends_with(b"and on"));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        fs::remove_dir_all(&directory).unwrap();
    }
}
