//! A tree that is in use stays with its machine, whichever program runs it.
//!
//! The two lock files are systemd-nspawn's, so that osier and systemd-nspawn refuse each other's trees: one beside the
//! tree (`.#NAME.lck`, which also works where the tree is on a network file system) and one under /run by device and
//! inode number (which also works for a tree that is a mount point or has several paths).

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Pid, getpid};

pub use crate::lockfile::Access;
use crate::lockfile::LockFile;

/// Where systemd-nspawn keeps the locks by inode, from the outermost directory that it makes itself, with their modes.
const LOCKS: [(&str, u32); 3] =
    [("/run/systemd", 0o755), ("/run/systemd/nspawn", 0o755), ("/run/systemd/nspawn/locks", 0o700)];

/// A tree held against other machines; given back by [`TreeLock::close`] or when dropped.
///
/// A forked child shares the lock with its parent for as long as it has the descriptors (they are close-on-exec), and
/// never removes the files.
#[derive(Debug)]
pub struct TreeLock {
    files: Vec<LockFile>,
    made: Vec<PathBuf>,
    owner: Pid,
}

impl TreeLock {
    /// Takes the tree at `path` (absolute, canonical); `None` when another process has it.
    ///
    /// The host's own root can be shared and is never had exclusively: it is always in use.
    ///
    /// # Errors
    /// What open(2), mkdir(2) and fcntl(2) give. A read-only file system around the tree is none for
    /// [`Access::Shared`]: nobody can write there.
    pub fn take(path: &Path, access: Access) -> io::Result<Option<Self>> {
        let mut lock = Self { files: Vec::new(), made: Vec::new(), owner: getpid() };
        let Some(name) = path.file_name() else {
            return Ok((access == Access::Shared).then_some(lock));
        };
        let stat = fs::metadata(path)?;
        let beside = path.with_file_name(format!(".#{}.lck", name.display()));
        match LockFile::take(&beside, access) {
            Ok(Some(file)) => lock.files.push(file),
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && access == Access::Shared => {}
            Err(error) => return Err(error),
        }
        match lock.take_by_inode(&inode_lock(&stat), access)? {
            Some(file) => lock.files.push(file),
            None => return Ok(None),
        }
        Ok(Some(lock))
    }

    /// Gives the tree back and removes the lock files, and the directories that were made for them.
    ///
    /// # Errors
    /// The first of what unlink(2) gave; everything is tried.
    pub fn close(mut self) -> io::Result<()> {
        self.release()
    }

    /// Removes the lock files of the tree at `path` that nobody holds any more; gives their paths.
    ///
    /// # Errors
    /// What open(2), fcntl(2) and unlink(2) give.
    pub fn remove_stale(path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut files: Vec<_> = path
            .file_name()
            .map(|name| path.with_file_name(format!(".#{}.lck", name.display())))
            .into_iter()
            .collect();
        // A tree that is gone has no number any more.
        if let Ok(stat) = fs::metadata(path) {
            files.push(Path::new(LOCKS[LOCKS.len() - 1].0).join(inode_lock(&stat)));
        }
        let mut removed = Vec::new();
        for path in files.into_iter().filter(|path| path.symlink_metadata().is_ok()) {
            if let Some(file) = LockFile::take(&path, Access::Exclusive)? {
                file.release()?;
                removed.push(path);
            }
        }
        Ok(removed)
    }

    fn take_by_inode(&mut self, name: &str, access: Access) -> io::Result<Option<LockFile>> {
        let directory = LOCKS[LOCKS.len() - 1].0;
        // Whoever gives the last tree back removes the directories again, perhaps between these two steps.
        for _ in 0..32 {
            for (path, mode) in LOCKS {
                match DirBuilder::new().mode(mode).create(path) {
                    Ok(()) => self.made.push(path.into()),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) => return Err(error),
                }
            }
            match LockFile::take(&Path::new(directory).join(name), access) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => return done,
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn release(&mut self) -> io::Result<()> {
        let (files, made) = (std::mem::take(&mut self.files), std::mem::take(&mut self.made));
        if getpid() != self.owner {
            return Ok(());
        }
        let mut first = Ok(());
        for file in files.into_iter().rev() {
            first = first.and(file.release());
        }
        // Fails where another lock lives in it, which is as it should be.
        for directory in made.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
        first
    }
}

impl Drop for TreeLock {
    fn drop(&mut self) {
        let _ = self.release();
    }
}

fn inode_lock(stat: &fs::Metadata) -> String {
    format!("inode-{}:{}", stat.dev(), stat.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    fn locks_of(tree: &Path) -> [PathBuf; 2] {
        let stat = fs::metadata(tree).unwrap();
        let name = tree.file_name().unwrap().to_str().unwrap();
        [
            tree.with_file_name(format!(".#{name}.lck")),
            PathBuf::from(format!("/run/systemd/nspawn/locks/inode-{}:{}", stat.dev(), stat.ino())),
        ]
    }

    #[test]
    fn exclusive_excludes_and_shared_shares() {
        let dir = TestDir::new("lock-modes");
        let tree = dir.join("tree");
        fs::create_dir(&tree).unwrap();
        let take = |access| TreeLock::take(&tree, access).unwrap();

        let held = take(Access::Exclusive).unwrap();
        assert!(locks_of(&tree).iter().all(|path| path.exists()));
        assert!(take(Access::Exclusive).is_none() && take(Access::Shared).is_none());
        held.close().unwrap();
        assert!(!locks_of(&tree).iter().any(|path| path.exists()));

        let (one, two) = (take(Access::Shared).unwrap(), take(Access::Shared).unwrap());
        assert!(take(Access::Exclusive).is_none());
        drop(one);
        assert!(locks_of(&tree).iter().all(|path| path.exists()), "the other still holds it");
        drop(two);
        assert!(!locks_of(&tree).iter().any(|path| path.exists()));
        assert!(take(Access::Exclusive).is_some());
    }

    #[test]
    fn the_same_tree_by_another_path_is_the_same_tree() {
        let dir = TestDir::new("lock-paths");
        fs::create_dir(dir.join("tree")).unwrap();
        let held = TreeLock::take(&dir.join("tree"), Access::Exclusive).unwrap().unwrap();
        // What a bind mount or a rename shows: another name, the same inode.
        fs::rename(dir.join("tree"), dir.join("other")).unwrap();
        assert!(TreeLock::take(&dir.join("other"), Access::Exclusive).unwrap().is_none());
        assert!(!dir.join(".#other.lck").exists(), "the half-taken lock is given back");
        drop(held);
    }

    #[test]
    fn the_hosts_root_is_always_in_use() {
        assert!(TreeLock::take(Path::new("/"), Access::Exclusive).unwrap().is_none());
        assert!(TreeLock::take(Path::new("/"), Access::Shared).unwrap().is_some());
    }

    /// A tree with no more than systemd-nspawn asks for and a static program to run.
    fn tree_for_nspawn(dir: &TestDir) -> PathBuf {
        let tree = dir.join("tree");
        for path in ["bin", "usr", "etc", "proc", "sys", "dev", "run", "tmp", "root"] {
            fs::create_dir_all(tree.join(path)).unwrap();
        }
        fs::write(tree.join("etc/os-release"), "ID=test\n").unwrap();
        fs::copy("/usr/bin/busybox", tree.join("bin/busybox")).unwrap();
        tree
    }

    fn nspawn(tree: &Path) -> Command {
        let mut command = Command::new("systemd-nspawn");
        command.args(["--quiet", "--register=no", "--keep-unit", "--console=pipe", "-D"]).arg(tree);
        command.args(["/bin/busybox", "sh", "-c", "echo up; read line"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        command
    }

    #[test]
    fn systemd_nspawn_and_osier_refuse_each_others_trees() {
        let dir = TestDir::new("lock-nspawn");
        let tree = tree_for_nspawn(&dir);

        let held = TreeLock::take(&tree, Access::Exclusive).unwrap().unwrap();
        let refused = nspawn(&tree).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("busy"), "{said}");
        drop(held);

        let mut running = nspawn(&tree).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(running.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let taken = TreeLock::take(&tree, Access::Shared).unwrap();
        drop(running.stdin.take());
        let ended = running.wait_with_output().unwrap();
        assert_eq!(line.trim_end(), "up", "{}", String::from_utf8_lossy(&ended.stderr));
        assert!(taken.is_none());
        assert!(TreeLock::take(&tree, Access::Exclusive).unwrap().is_some());
    }
}
