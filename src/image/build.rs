//! Making a tree from a recipe: all of it or nothing.
//!
//! The tree grows in a scratch directory beside its final place (`.#NAME.osier-PID/tree`) and gets its name by one
//! rename(2) when it is complete. Whatever ends the build before that, the scratch directory goes with it: a failure, a
//! full disk, SIGINT or SIGTERM at once; SIGKILL and a power cut with the next build of that name.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::bootstrap::{self, Tools};
use super::finish;
use super::os::Tree;
use super::recipe::Recipe;
use super::scratch::Scratch;
use crate::interrupt::{Interrupt, Interrupted};

/// Where trees are built when nothing else is said.
pub const MACHINES: &str = "/var/lib/machines";

/// Who is told how a build goes on.
pub trait Progress {
    /// Something else is being done from now on.
    fn stage(&mut self, stage: &str);

    /// Time has passed (called about ten times a second while a tool runs); `written` is about how many bytes the file
    /// system has grown by.
    fn tick(&mut self, written: u64);
}

/// A tree that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Where it is.
    pub path: PathBuf,
    /// How much space its files take, in bytes.
    pub size: u64,
    /// How long it took.
    pub took: Duration,
}

/// Why there is no tree.
#[derive(Debug)]
pub enum BuildError {
    /// Only root can make files that belong to others, and device nodes.
    NotRoot,
    /// There is something at the final place.
    Exists(PathBuf),
    /// The directory that the tree is to be made in is not there.
    NoParent(PathBuf),
    /// That path has no last component to be the tree's name.
    NoName(PathBuf),
    /// A program is missing.
    MissingTool {
        /// What is missing.
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program failed.
    Tool {
        /// The program.
        tool: String,
        /// How it ended.
        ended: String,
        /// The last lines that it wrote.
        said: Vec<String>,
    },
    /// A signal ended the build.
    Interrupted,
    /// A step failed.
    Io {
        /// The step, as in `cannot {step}`.
        step: String,
        /// Why.
        cause: io::Error,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRoot => write!(f, "only root can make images"),
            Self::Exists(path) => write!(f, "'{}' exists already", path.display()),
            Self::NoParent(path) => write!(f, "there is no directory '{}'", path.display()),
            Self::NoName(path) => write!(f, "'{}' does not end in a name", path.display()),
            Self::MissingTool { tool, .. } => write!(f, "there is no {tool} on this host"),
            Self::Tool { tool, ended, said } => {
                write!(f, "{tool} {ended}")?;
                said.iter().try_for_each(|line| write!(f, "\n  {line}"))
            }
            Self::Interrupted => write!(f, "interrupted"),
            Self::Io { step, cause } => write!(f, "cannot {step}: {}", crate::error::reason(cause)),
        }
    }
}

impl std::error::Error for BuildError {}

impl From<Interrupted> for BuildError {
    fn from(Interrupted: Interrupted) -> Self {
        Self::Interrupted
    }
}

impl BuildError {
    /// Turns an I/O error of the step `what` (as in "cannot {what}") into this.
    pub(super) fn at<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |cause| Self::Io { step: step.into(), cause: cause.into() }
    }

    /// What the operator can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists(_) => Some("remove it first, or give another path with --to".to_owned()),
            Self::NoParent(path) => Some(format!("make it: mkdir -p '{}'", path.display())),
            Self::MissingTool { package, .. } => {
                Some(format!("install the package {package} (apt-get install {package})"))
            }
            _ => None,
        }
    }
}

/// Builds `recipe` as the tree `to`.
///
/// While it runs, SIGINT, SIGTERM and SIGHUP end the build instead of the process.
///
/// # Errors
/// [`BuildError`]; nothing is left then, under the final name or any other.
pub fn build(recipe: &Recipe, to: &Path, progress: &mut dyn Progress) -> Result<Built, BuildError> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let started = Instant::now();
    if !rustix::process::geteuid().is_root() {
        return Err(BuildError::NotRoot);
    }
    let (parent, name) = place(to)?;
    let target = parent.join(&name);
    if exists(&target)? {
        return Err(BuildError::Exists(target));
    }
    let tools = Tools::find(recipe, &search)?;
    let interrupt = Interrupt::watch().map_err(BuildError::at("watch for signals"))?;

    let made = make_parent(&parent)?;
    let done = grow(recipe, &target, &mut Growing { tools, interrupt, progress });
    if done.is_err() && made {
        // Whoever else found it meanwhile keeps it: it is not empty then.
        let _ = fs::remove_dir(&parent);
    }
    let size = done?;
    Ok(Built { path: target, size, took: started.elapsed() })
}

/// What the steps of a build share.
pub(super) struct Growing<'a> {
    /// The programs that the recipe needs.
    pub(super) tools: Tools,
    /// Whether a signal came.
    pub(super) interrupt: Interrupt,
    /// Who is told.
    pub(super) progress: &'a mut dyn Progress,
}

fn grow(recipe: &Recipe, target: &Path, growing: &mut Growing<'_>) -> Result<u64, BuildError> {
    let beside = || format!("make a directory beside '{}'", target.display());
    Scratch::remove_stale(target).map_err(BuildError::at("remove what an earlier build left"))?;
    let scratch = Scratch::make(target).map_err(BuildError::at(beside()))?;
    let done = fill(recipe, &scratch, growing)
        .and_then(|size| put_in_place(&scratch.tree(), target, &growing.interrupt).map(|()| size));
    if done.is_ok() {
        // Of an image of this name that is gone; the new one is there, whatever becomes of this.
        let _ = super::fresh::set_clocks(target, None);
    }
    // Also when the build failed: that is what the operator has to know, unless something is left behind as well.
    match (done, scratch.close()) {
        (Ok(size), _) => Ok(size),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(cause)) => {
            let step = format!("remove what is left of the failed build ({error})");
            Err(BuildError::Io { step, cause })
        }
    }
}

fn fill(recipe: &Recipe, scratch: &Scratch, growing: &mut Growing<'_>) -> Result<u64, BuildError> {
    bootstrap::fill(recipe, scratch, growing)?;
    growing.progress.stage("applying the recipe");
    let tree = Tree::open(&scratch.tree()).map_err(BuildError::at("open the new tree"))?;
    finish::apply(recipe, &tree, scratch, growing)?;
    growing.progress.stage("writing it to the disk");
    sync(&scratch.tree()).map_err(BuildError::at("write the tree to the disk"))?;
    scratch.size().map_err(BuildError::at("measure the tree"))
}

/// A name that survives a power cut must not name a tree that does not.
pub(super) fn sync(tree: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::syncfs(rustix::fs::openat(CWD, tree, flags, Mode::empty())?)?)
}

pub(super) fn put_in_place(tree: &Path, target: &Path, interrupt: &Interrupt) -> Result<(), BuildError> {
    interrupt.check()?;
    let renamed = match rustix::fs::renameat_with(CWD, tree, CWD, target, RenameFlags::NOREPLACE) {
        // Some file systems do not know the flag (man 2 rename). A plain rename of a directory replaces nothing but an
        // empty directory.
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::rename(tree, target),
        done => done,
    };
    match renamed {
        Err(Errno::EXIST | Errno::NOTEMPTY) => Err(BuildError::Exists(target.to_owned())),
        done => done.map_err(BuildError::at(format!("give the tree its name '{}'", target.display()))),
    }
}

/// The directory that `to` is in and its name there.
pub(super) fn place(to: &Path) -> Result<(PathBuf, PathBuf), BuildError> {
    let absolute = std::path::absolute(to).map_err(BuildError::at("find the current directory"))?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok((parent.to_owned(), name.into())),
        _ => Err(BuildError::NoName(to.to_owned())),
    }
}

/// Also when it is a dangling symlink.
pub(super) fn exists(path: &Path) -> Result<bool, BuildError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BuildError::at(format!("look at '{}'", path.display()))(error)),
    }
}

/// Makes [`MACHINES`] as systemd's tmpfiles.d does, if that is `parent`; says whether it was made. Any other directory has
/// to be there: a path that was mistyped is not to be made.
pub(super) fn make_parent(parent: &Path) -> Result<bool, BuildError> {
    if parent.is_dir() {
        return Ok(false);
    }
    if parent != Path::new(MACHINES) {
        return Err(BuildError::NoParent(parent.to_owned()));
    }
    let made = DirBuilder::new().mode(0o700).create(parent);
    made.map_err(BuildError::at(format!("make '{MACHINES}'"))).map(|()| true)
}
