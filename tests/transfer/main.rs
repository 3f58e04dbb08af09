//! Files into running machines and out of them: what a copy keeps, what it refuses, and that a machine that means harm
//! gains nothing by it; and what is bound into one. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../support/mod.rs"]
mod support;

mod bind;
mod cut_short;
mod hostile;
mod kept;
mod target;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use rustix::fs::XattrFlags;

use support::machine::{Machine, code, osier, output};
use support::tree::Tree;

/// A machine from a minimal tree of its own.
struct Running {
    tree: Tree,
    machine: Machine,
}

impl Running {
    fn new(options: &[&str]) -> Self {
        let tree = Tree::minimal();
        let machine = Machine::minimal(&tree, &[&["--network=none"], options].concat());
        Self { tree, machine }
    }

    fn name(&self) -> &str {
        self.tree.name()
    }

    /// A path inside, as the host sees it where nothing is mounted over.
    fn inside(&self, path: &str) -> PathBuf {
        self.tree.path().join(path.trim_start_matches('/'))
    }

    #[track_caller]
    fn copy_to(&self, options: &[&str], source: &Path, target: &str) {
        let mut osier = osier(["copy-to"]);
        osier.args(options).arg(self.name()).arg(source).arg(target);
        succeed(&mut osier);
    }

    #[track_caller]
    fn copy_from(&self, options: &[&str], source: &str, target: &Path) {
        let mut osier = osier(["copy-from"]);
        osier.args(options).arg(self.name()).arg(source).arg(target);
        succeed(&mut osier);
    }

    #[track_caller]
    fn refused_to(&self, options: &[&str], source: &Path, target: &str) -> String {
        let mut osier = osier(["copy-to"]);
        osier.args(options).arg(self.name()).arg(source).arg(target);
        fail(&mut osier)
    }

    #[track_caller]
    fn refused_from(&self, options: &[&str], source: &str, target: &Path) -> String {
        let mut osier = osier(["copy-from"]);
        osier.args(options).arg(self.name()).arg(source).arg(target);
        fail(&mut osier)
    }

    /// Ends it; nothing may be left of it, nor of any copy.
    fn end(self) {
        assert_eq!(hidden(&self.tree.path()), Vec::<PathBuf>::new());
        self.machine.signal(Signal::SIGTERM);
        assert_eq!(self.machine.end().0, 0);
    }
}

#[track_caller]
fn succeed(command: &mut std::process::Command) {
    let output = output(command);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

#[track_caller]
fn fail(command: &mut std::process::Command) -> String {
    let output = output(command);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(code(output.status), 1, "{said}");
    assert!(said.starts_with("osier: ") && output.stdout.is_empty(), "{said}");
    said
}

/// What half a copy would be called, anywhere below a directory.
fn hidden(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b".osier-copy-") {
            found.push(entry.path());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(hidden(&entry.path()));
        }
    }
    found
}

/// All that a copy keeps of what is below a directory, as text.
fn describe(directory: &Path) -> String {
    let mut text = String::new();
    let mut names: Vec<_> = vec![PathBuf::new()];
    names.extend(below(directory, Path::new("")));
    names.sort();
    for name in &names {
        let path = directory.join(name);
        let stat = path.symlink_metadata().unwrap();
        let _ = write!(text, "{name:?} {:o} {}:{} ", stat.mode(), stat.uid(), stat.gid());
        let _ = write!(text, "{}.{} ", stat.mtime(), stat.mtime_nsec());
        if !stat.is_dir() {
            let _ = write!(text, "{} links {} device {} ", stat.len(), stat.nlink(), stat.rdev());
        }
        if stat.is_symlink() {
            let _ = write!(text, "-> {:?}", fs::read_link(&path).unwrap());
        }
        if stat.is_file() {
            let _ = write!(text, "{:?}", fs::read(&path).unwrap());
        }
        let mut list = vec![0; 4096];
        let length = rustix::fs::llistxattr(&path, &mut list[..]).unwrap();
        let mut attributes: Vec<_> = list[..length].split(|byte| *byte == 0).collect();
        attributes.sort_unstable();
        for attribute in attributes.into_iter().filter(|attribute| !attribute.is_empty()) {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(&path, attribute, &mut value[..]).unwrap();
            let _ = write!(text, " {}={:?}", String::from_utf8_lossy(attribute), &value[..length]);
        }
        text.push('\n');
    }
    text
}

fn below(directory: &Path, name: &Path) -> Vec<PathBuf> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory.join(name)).unwrap() {
        let entry = entry.unwrap();
        let name = name.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            names.extend(below(directory, &name));
        }
        names.push(name);
    }
    names
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}
