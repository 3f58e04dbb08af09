//! From what the operator typed to the tree that is meant.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::error::reason;

/// Where images are looked up by name, first hit wins: systemd's own list for machines.
pub const SEARCH_PATH: [&str; 5] =
    ["/etc/machines", "/run/machines", "/var/lib/machines", "/usr/local/lib/machines", "/usr/lib/machines"];

/// An image that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What a machine made from it is called unless the operator says otherwise; not checked to be a machine name.
    pub name: String,
    /// Where it is: absolute, without symlinks.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
}

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory that holds an OS.
    Tree,
}

/// Why there is no image for an argument.
#[derive(Debug)]
pub enum LookupError {
    /// A name that no directory of the search path has.
    NoSuchImage {
        /// What was asked for.
        name: String,
        /// Names in the search path that it may have been meant to be, closest first.
        near: Vec<String>,
    },
    /// A path at which there is nothing.
    NoSuchPath(PathBuf),
    /// A path at which there is neither a directory nor something that can be a disk image.
    NotADirectory(PathBuf),
    /// A disk image, which osier cannot boot yet.
    DiskImage(PathBuf),
    /// It could not be looked at.
    Unreadable(PathBuf, io::Error),
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchImage { name, .. } => write!(f, "no image '{name}' in {}", SEARCH_PATH.join(", ")),
            Self::NoSuchPath(path) => write!(f, "there is no '{}'", path.display()),
            Self::NotADirectory(path) => write!(f, "'{}' is not a directory", path.display()),
            Self::DiskImage(path) => {
                write!(f, "'{}' is a disk image, and osier cannot boot those yet", path.display())
            }
            Self::Unreadable(path, cause) => {
                write!(f, "cannot look at '{}': {}", path.display(), reason(cause))
            }
        }
    }
}

impl std::error::Error for LookupError {}

impl LookupError {
    /// What the operator can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoSuchImage { near, .. } if !near.is_empty() => {
                let quoted: Vec<String> = near.iter().map(|name| format!("'{name}'")).collect();
                Some(format!("there is {}", quoted.join(" and ")))
            }
            Self::NoSuchImage { name, .. } if Path::new(name).exists() => {
                Some(format!("there is a path of that name; write './{name}' to mean it"))
            }
            Self::NoSuchImage { .. } => Some("'osier image build debian' makes one".to_owned()),
            Self::DiskImage(_) => Some("boot the directory that it is mounted at".to_owned()),
            _ => None,
        }
    }
}

/// The image that `arg` means: a path when there is a `/` in it, otherwise a name in [`SEARCH_PATH`].
///
/// # Errors
/// [`LookupError`] says which of the two it was taken for and what is wrong with it.
pub fn find(arg: &str) -> Result<Image, LookupError> {
    if arg.contains('/') { at_path(Path::new(arg)) } else { find_in(&SEARCH_PATH.map(Path::new), arg) }
}

/// The image `name` in the first of the directories `paths` that has it, as `NAME/` or `NAME.raw`.
///
/// # Errors
/// As [`find`] for a name.
pub fn find_in(paths: &[&Path], name: &str) -> Result<Image, LookupError> {
    // "." and ".." would name the search directories themselves and their parents; a leading dot is a hidden entry
    // such as a build that is under way.
    if !name.is_empty() && !name.starts_with('.') && !name.contains('/') {
        for directory in paths {
            let tree = directory.join(name);
            if exists(&tree)? {
                return Ok(Image { name: name.to_owned(), ..at_path(&tree)? });
            }
            let disk = directory.join(format!("{name}.raw"));
            if exists(&disk)? {
                return Err(LookupError::DiskImage(disk));
            }
        }
    }
    Err(LookupError::NoSuchImage { name: name.to_owned(), near: near(paths, name) })
}

/// Whether there is something at `path`, symlinks followed; a search directory that is not there holds nothing.
fn exists(path: &Path) -> Result<bool, LookupError> {
    path.try_exists().map_err(|cause| LookupError::Unreadable(path.to_owned(), cause))
}

fn at_path(path: &Path) -> Result<Image, LookupError> {
    let unreadable = |cause: io::Error| match cause.kind() {
        io::ErrorKind::NotFound => LookupError::NoSuchPath(path.to_owned()),
        io::ErrorKind::NotADirectory => LookupError::NotADirectory(path.to_owned()),
        _ => LookupError::Unreadable(path.to_owned(), cause),
    };
    let canonical = fs::canonicalize(path).map_err(unreadable)?;
    let kind = fs::metadata(&canonical).map_err(unreadable)?.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Err(LookupError::DiskImage(path.to_owned()));
    }
    if !kind.is_dir() {
        return Err(LookupError::NotADirectory(path.to_owned()));
    }
    Ok(Image { name: derive_name(path, &canonical), path: canonical, kind: Kind::Tree })
}

/// As systemd-nspawn: the last component as typed, not what a symlink there points to; for the host's own root the
/// host's name.
fn derive_name(typed: &Path, canonical: &Path) -> String {
    match typed.file_name().or_else(|| canonical.file_name()) {
        Some(last) => last.to_string_lossy().into_owned(),
        None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    }
}

/// At most three names in `paths` that a slip of the finger turns into `name`.
/// The names of all images in the directories `paths`, in order and each once.
pub fn names_in(paths: &[&Path]) -> Vec<String> {
    let entries = paths.iter().filter_map(|path| fs::read_dir(path).ok()).flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|found| !found.starts_with('.'))
        .map(|found| found.strip_suffix(".raw").map(ToOwned::to_owned).unwrap_or(found))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn near(paths: &[&Path], name: &str) -> Vec<String> {
    let mut close: Vec<(usize, String)> = names_in(paths)
        .into_iter()
        .filter_map(|found| {
            let distance = strsim::osa_distance(name, &found);
            let longer = !name.is_empty() && found.starts_with(name);
            (distance <= (name.chars().count() / 3).min(2) || longer).then_some((distance, found))
        })
        .collect();
    close.sort();
    close.into_iter().take(3).map(|(_, found)| found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    #[test]
    fn a_name_is_taken_from_the_first_directory_that_has_it() {
        let dir = TestDir::new("lookup-order");
        for tree in ["a/web", "b/web", "b/db"] {
            fs::create_dir_all(dir.join(tree)).unwrap();
        }
        let (a, b, gone) = (dir.join("a"), dir.join("b"), dir.join("gone"));
        let paths = [gone.as_path(), a.as_path(), b.as_path()];
        assert_eq!(find_in(&paths, "web").unwrap().path, fs::canonicalize(dir.join("a/web")).unwrap());
        assert_eq!(find_in(&paths, "db").unwrap().path, fs::canonicalize(dir.join("b/db")).unwrap());
    }

    #[test]
    fn a_symlink_keeps_its_own_name_and_leads_to_the_real_path() {
        let dir = TestDir::new("lookup-link");
        fs::create_dir(dir.join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.join("alias")).unwrap();
        for image in
            [find_in(&[dir.path()], "alias").unwrap(), find(dir.join("alias/").to_str().unwrap()).unwrap()]
        {
            assert_eq!(image.name, "alias");
            assert_eq!(image.path, fs::canonicalize(dir.join("real")).unwrap());
        }
        assert_eq!(find(dir.join("real/.").to_str().unwrap()).unwrap().name, "real");
        assert_eq!(find(dir.join("real/..").to_str().unwrap()).unwrap().name, dir.name());
    }

    #[test]
    fn a_slip_of_the_finger_is_answered_with_the_name() {
        let dir = TestDir::new("lookup-near");
        for entry in ["debian", "debian-sid", "web", ".#web.osier-1"] {
            fs::create_dir(dir.join(entry)).unwrap();
        }
        let near = |name: &str| match find_in(&[dir.path()], name) {
            Err(LookupError::NoSuchImage { near, .. }) => near,
            other => panic!("{other:?}"),
        };
        assert_eq!(near("debain"), ["debian"]);
        assert_eq!(near("debian-"), ["debian", "debian-sid"]);
        assert_eq!(near("x"), Vec::<String>::new());
        assert_eq!(near(""), Vec::<String>::new());
        assert_eq!(near(".."), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_tree_is_told_apart() {
        let dir = TestDir::new("lookup-kinds");
        fs::write(dir.join("disk.raw"), "").unwrap();
        let at = |path: &str| find(dir.join(path).to_str().unwrap());
        assert!(matches!(find_in(&[dir.path()], "disk"), Err(LookupError::DiskImage(_))));
        assert!(matches!(at("disk.raw"), Err(LookupError::DiskImage(_))));
        assert!(matches!(at("disk.raw/etc"), Err(LookupError::NotADirectory(_))));
        assert!(matches!(at("nothing"), Err(LookupError::NoSuchPath(_))));
        assert!(matches!(find("/dev/null"), Err(LookupError::NotADirectory(_))));
    }
}
