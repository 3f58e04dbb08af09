//! A directory for one test, gone with it.

use std::fs;
use std::path::{Path, PathBuf};

/// A new directory under the system's temporary directory, removed when dropped.
pub(crate) struct TestDir(PathBuf);

impl TestDir {
    /// Makes it; `name` says whose it is.
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("osier-test-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the temporary directory can be written to");
        Self(fs::canonicalize(path).expect("it was just made"))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Its own name.
    pub(crate) fn name(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A path in it.
    pub(crate) fn join(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
