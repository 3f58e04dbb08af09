//! Mount points, made where they are missing.
//!
//! A tree may have a link where osier mounts, absolute or up and up. The machine's root is `/` by then, so that it leads to
//! a place inside; when there is nothing at that place yet, the mount point is made there, not refused.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// As many links as the kernel follows in one path (man 7 path_resolution).
const MOST_LINKS: u32 = 40;

/// What a mount point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// A directory, for everything that is one.
    Directory,
    /// An empty file, for anything else.
    File,
}

/// Makes the mount point `path`, and the directories above it, unless something is there.
///
/// # Errors
/// `ELOOP` for links that lead to one another, `ENOTDIR` below a file, `EROFS` on a read-only tree.
pub(super) fn make(path: &Path, point: Point) -> io::Result<()> {
    make_through(path, point, &mut 0)
}

fn make_through(path: &Path, point: Point, links: &mut u32) -> io::Result<()> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found.map(drop),
    }
    let Some(above) = path.parent() else { return Err(io::ErrorKind::NotFound.into()) };
    if let Ok(to) = fs::read_link(path) {
        *links += 1;
        if *links > MOST_LINKS {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        return make_through(&above.join(to), point, links);
    }
    make_through(above, Point::Directory, links)?;
    // Modes of their own: the umask is zero where this runs.
    let made = match point {
        Point::Directory => DirBuilder::new().mode(0o755).create(path),
        Point::File => OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).map(drop),
    };
    match made {
        // `a/..` of a link is there as soon as `a` is.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn links_are_followed_and_what_is_missing_is_made() {
        let root = std::env::temp_dir().join(format!("osier-target-{}", std::process::id()));
        fs::create_dir(&root).unwrap();
        symlink(root.join("far/off"), root.join("absolute")).unwrap();
        symlink("new/../beside", root.join("relative")).unwrap();
        symlink("around", root.join("around")).unwrap();
        make(&root.join("absolute/below"), Point::Directory).unwrap();
        assert!(root.join("far/off/below").is_dir());
        make(&root.join("relative"), Point::File).unwrap();
        assert!(root.join("beside").is_file() && root.join("new").is_dir());
        make(&root.join("relative"), Point::Directory).unwrap();
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777 & !0o755;
        assert_eq!((mode("far"), mode("beside")), (0, 0));
        let errno = |path: &str| make(&root.join(path), Point::Directory).unwrap_err().raw_os_error();
        assert_eq!(errno("around/below"), Some(libc::ELOOP));
        assert_eq!(errno("beside/below"), Some(libc::ENOTDIR));
        fs::remove_dir_all(&root).unwrap();
    }
}
