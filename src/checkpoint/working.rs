//! Images to be changed before a restore: links to those of a checkpoint, which stays as it is.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use crate::ids::MachineId;

/// Where they are: the links take no room to speak of.
const DIRECTORY: &str = "/run/osier/restore";

/// A directory of links. Removed when dropped, but not by a forked child.
#[derive(Debug)]
pub struct Working {
    path: PathBuf,
    owner: u32,
}

impl Working {
    /// Links to everything in `images`.
    ///
    /// # Errors
    /// What mkdir(2) and symlink(2) give.
    pub fn of(images: &Path) -> io::Result<Self> {
        Self::make(Path::new(DIRECTORY), images)
    }

    fn make(directory: &Path, images: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let path = directory.join(MachineId::random()?.to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        let working = Self { path, owner: std::process::id() };
        let up = up(&working.path.canonicalize()?);
        for entry in fs::read_dir(images.canonicalize()?)? {
            let entry = entry?;
            // A link to the round before leads from where it is.
            let target = entry.path().canonicalize()?;
            let target = up.join(target.strip_prefix("/").unwrap_or(&target));
            symlink(target, working.path.join(entry.file_name()))?;
        }
        Ok(working)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The way from a directory to the root. CRIU reads some images when it has another root already, through a descriptor of their
/// directory: from there a relative link still leads where it did.
fn up(directory: &Path) -> PathBuf {
    directory.components().skip(1).map(|_| "..").collect()
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.owner == std::process::id() {
            let _ = fs::remove_dir_all(&self.path);
            // Fails where another one is in it.
            let _ = self.path.parent().map(fs::remove_dir);
        }
    }
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
        let working = Working::make(&dir.join("working"), &images).unwrap();
        fs::remove_file(working.path().join("a.img")).unwrap();
        fs::write(working.path().join("a.img"), "b").unwrap();
        assert_eq!(fs::read_to_string(images.join("a.img")).unwrap(), "a");
        assert!(working.path().join("parent").is_dir());
        drop(working);
        assert!(!dir.join("working").exists() && images.join("a.img").exists());
    }
}
