//! Images to be changed before a restore: links to those of a checkpoint, which stays as it is.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use super::cause::{At, Cause};
use super::scratch::Scratch;

/// Where they are: the links take no room to speak of.
pub const DIRECTORY: &str = "/run/osier/restore";

/// A directory of links. Removed when dropped, but not by a forked child; by the next restore where this one is killed.
#[derive(Debug)]
pub struct Working(Scratch);

impl Working {
    /// Links to everything in `images`.
    ///
    /// # Errors
    /// [`Cause::Io`].
    pub fn of(images: &Path) -> Result<Self, Cause> {
        Self::make(Path::new(DIRECTORY), images)
    }

    fn make(directory: &Path, images: &Path) -> Result<Self, Cause> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).at(directory)?;
        let working = Self(Scratch::make(directory)?);
        working.link(images).at(images)?;
        Ok(working)
    }

    fn link(&self, images: &Path) -> io::Result<()> {
        let up = up(&self.path().canonicalize()?);
        for entry in fs::read_dir(images.canonicalize()?)? {
            let entry = entry?;
            // A link to the round before leads from where it is.
            let target = entry.path().canonicalize()?;
            let target = up.join(target.strip_prefix("/").unwrap_or(&target));
            symlink(target, self.path().join(entry.file_name()))?;
        }
        Ok(())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// The way from a directory to the root. CRIU reads some images when it has another root already, through a descriptor of their
/// directory: from there a relative link still leads where it did.
fn up(directory: &Path) -> PathBuf {
    directory.components().skip(1).map(|_| "..").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    #[test]
    fn what_is_changed_is_not_the_checkpoints() {
        let dir = TestDir::new("working");
        let images = dir.join("images");
        fs::create_dir_all(dir.join("round-1")).unwrap();
        fs::create_dir(&images).unwrap();
        fs::write(images.join("a.img"), "a").unwrap();
        symlink("../round-1", images.join("parent")).unwrap();
        // Of one that was killed.
        let stale = dir.join("working/.osier-checkpoint-killed");
        fs::create_dir_all(&stale).unwrap();
        let working = Working::make(&dir.join("working"), &images).unwrap();
        assert!(!stale.exists());
        fs::remove_file(working.path().join("a.img")).unwrap();
        fs::write(working.path().join("a.img"), "b").unwrap();
        assert_eq!(fs::read_to_string(images.join("a.img")).unwrap(), "a");
        assert!(working.path().join("parent").is_dir());
        drop(working);
        assert_eq!(fs::read_dir(dir.join("working")).unwrap().count(), 0);
        assert!(images.join("a.img").exists());
    }
}
