//! Trees: the minimal one, a fresh copy for each test, and the Debian one, which all share and nobody writes to.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{leftovers, program, unique};

/// A directory that is removed with all that is in it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    pub(crate) fn below(directory: &Path) -> Self {
        let path = directory.join(format!("osier-{}", unique("dir")));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it with this text.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Never into what a bug may have left mounted here.
        let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(&self.0).status();
    }
}

/// A minimal tree of one's own; its directory's name is unique, and so is the machine's that runs from it.
pub(crate) struct Tree {
    scratch: Scratch,
    name: String,
}

impl Tree {
    pub(crate) fn minimal() -> Self {
        let tree = Self { scratch: Scratch::new(), name: unique("min") };
        copy(base(), &tree.path());
        tree
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.scratch.path().join(&self.name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The directory that the tree is in, with nothing else in it.
    pub(crate) fn outside(&self) -> &Path {
        self.scratch.path()
    }

    /// Writes a file inside.
    pub(crate) fn file(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        self.scratch.file(&format!("{}/{path}", self.name), text);
        self
    }

    /// Writes a program inside.
    pub(crate) fn executable(&self, path: &str, text: &str) -> &Self {
        self.file(path, text);
        fs::set_permissions(self.path().join(path), fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// Everything in it, as text that differs when anything does.
    pub(crate) fn fingerprint(&self) -> String {
        let listing =
            "find . -printf '%p %m %U %G %s %l %T@\\n' | sort; find . -type f -exec sha256sum {} + | sort";
        let output = Command::new("sh").args(["-c", listing]).current_dir(self.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A tree that can be written to over one that all share. Not `--ephemeral`: CRIU needs to find the same root again.
pub(crate) struct Layered {
    pub(crate) scratch: Scratch,
    pub(crate) name: String,
}

impl Layered {
    pub(crate) fn over(lower: &Path) -> Self {
        let layered = Self { scratch: Scratch::new(), name: unique("able") };
        let [upper, work] = ["upper", "work"].map(|name| layered.scratch.path().join(name));
        for directory in [&upper, &work, &layered.path()] {
            fs::create_dir(directory).unwrap();
        }
        // Without an index and handles inotify watches have nothing by which to find their files again.
        let options = format!(
            "index=on,nfs_export=on,lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        mount(Some("overlay"), &layered.path(), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .unwrap();
        layered
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.scratch.path().join(&self.name)
    }

    /// Fails with the list of what there is of the machine `name` but this tree.
    pub(crate) fn assert_only(&self, name: &str) {
        let mut left = leftovers::of(name, &self.path());
        left.retain(|left| !left.starts_with("mount ") || !left.contains(" - overlay "));
        assert_eq!(left, Vec::<String>::new(), "left behind by {name}");
    }
}

impl Drop for Layered {
    fn drop(&mut self) {
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--reflink=auto"]).args([from, to]).status().unwrap();
    assert!(status.success());
}

/// The tree that the minimal ones are copies of: built once, kept where tests/run keeps trees.
fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let mut hasher = DefaultHasher::new();
        include_str!("../../images/minimal.toml").hash(&mut hasher);
        let path = cache().join(format!("tests-minimal-{:x}", hasher.finish()));
        if !path.exists() {
            fs::create_dir_all(cache()).unwrap();
            let new = cache().join(unique("building"));
            let built = Command::new(program())
                .args(["image", "build", "minimal", "--to"])
                .arg(&new)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert!(built.status.success(), "{built:?}");
            // Of several test programs at once the first one wins.
            if fs::rename(&new, &path).is_err() {
                fs::remove_dir_all(&new).unwrap();
            }
        }
        path
    })
}

fn cache() -> PathBuf {
    std::env::var_os("OSIER_CACHE").map_or_else(|| "/var/cache/osier".into(), PathBuf::from)
}

/// The Debian 13 tree, to be used ephemeral or read-only.
pub(crate) fn debian() -> PathBuf {
    if let Some(tree) = std::env::var_os("OSIER_TREE") {
        return tree.into();
    }
    let found = cached("debian").or_else(|| Some("/var/lib/machines/debian".into()));
    let found = found.filter(|path: &PathBuf| path.join("etc/os-release").exists());
    found.expect("there is no Debian tree: start the tests with tests/run, or set OSIER_TREE")
}

/// The tree of images/NAME.toml, to be used ephemeral or read-only.
pub(crate) fn of(name: &str) -> PathBuf {
    let given = std::env::var_os("OSIER_TREES").map(|trees| Path::new(&trees).join(name));
    let found = given.or_else(|| cached(name)).and_then(|path| path.canonicalize().ok());
    found.unwrap_or_else(|| {
        panic!(
            "there is no tree '{name}': start the tests with tests/run, or set OSIER_TREES to a directory in which \
             `osier image build ./images/{name}.toml --to DIRECTORY/{name}` has made it"
        )
    })
}

/// The newest one that tests/tiers/trees.sh has made, NAME and twelve digits.
fn cached(name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(cache()).into_iter().flatten().flatten();
    let made = entries.filter(|entry| {
        let file = entry.file_name();
        let key = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('-'));
        key.is_some_and(|key| key.len() == 12 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))
    });
    made.map(|entry| entry.path()).max_by_key(|path| path.metadata().unwrap().modified().unwrap())
}
