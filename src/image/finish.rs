//! What a recipe changes in a tree that is complete otherwise. Every path is resolved beneath the tree.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::build::{BuildError, Growing};
use super::os::Tree;
use super::recipe::{Entry, Recipe, RootLogin};
use super::scratch::Scratch;
use super::tool;

/// Does it.
///
/// # Errors
/// [`BuildError`], which names the file.
pub(super) fn apply(
    recipe: &Recipe,
    tree: &Tree,
    scratch: &Scratch,
    growing: &mut Growing<'_>,
) -> Result<(), BuildError> {
    let at = |path: &str| BuildError::at::<io::Error>(format!("write the tree's {path}"));
    match &recipe.hostname {
        Some(name) => write(tree, "/etc/hostname".as_ref(), 0o644, &format!("{}\n", name.as_ref())),
        // The tools copy the host's, and that would be every machine's.
        None => unlink(tree, "/etc/hostname".as_ref()),
    }
    .map_err(at("/etc/hostname"))?;
    if recipe.debian.is_some() {
        // Empty, and not `uninitialized`: a machine makes up its ID at its first boot, and systemd does not take that boot for
        // one at which the operator is asked for a locale and a password (man 5 machine-id, "First Boot Semantics").
        write(tree, "/etc/machine-id".as_ref(), 0o444, "").map_err(at("/etc/machine-id"))?;
        set_root_login(tree, recipe.root_login).map_err(at("/etc/shadow"))?;
    }
    for entry in &recipe.files {
        growing.interrupt.check()?;
        put(tree, entry).map_err(at(&entry.path.as_ref().display().to_string()))?;
    }
    for unit in &recipe.units.mask {
        let path = Path::new("/etc/systemd/system").join(unit.as_ref());
        link(tree, &path, "/dev/null".as_ref()).map_err(at(unit.as_ref()))?;
    }
    if !recipe.units.enable.is_empty() {
        // The tree's own systemctl knows what its units ask for in [Install]; in a chroot it only makes symlinks. By its path:
        // PATH is the host's.
        let units = recipe.units.enable.iter().map(AsRef::as_ref);
        let mut command = tool::contained("chroot".as_ref());
        command.arg(scratch.tree()).args(["/bin/systemctl", "enable", "--quiet", "--"]).args(units);
        tool::run("systemctl enable", command, &growing.interrupt, &mut |_| {})?;
    }
    Ok(())
}

fn put(tree: &Tree, entry: &Entry) -> io::Result<()> {
    let path = entry.path.as_ref();
    match (&entry.link, &entry.text) {
        (Some(target), _) => link(tree, path, target),
        (None, text) => write(tree, path, entry.mode, text.as_deref().unwrap_or_default()),
    }
}

/// The second field of root's line in shadow(5): nothing for no password, `*` for one that nobody has.
fn set_root_login(tree: &Tree, login: RootLogin) -> io::Result<()> {
    let Some(text) = tree.read_text("/etc/shadow")? else { return Ok(()) };
    let password = match login {
        RootLogin::Locked => "*",
        RootLogin::NoPassword => "",
    };
    let lines = text.lines().map(|line| match line.splitn(3, ':').collect::<Vec<_>>()[..] {
        ["root", _, rest] => format!("root:{password}:{rest}\n"),
        _ => format!("{line}\n"),
    });
    // In place: its owner and mode stay.
    let flags = OFlags::WRONLY | OFlags::TRUNC;
    let mut file = File::from(tree.open_inside("/etc/shadow", flags)?);
    file.write_all(lines.collect::<String>().as_bytes())
}

/// A new file: what was there before, a symlink say, is not written through.
fn write(tree: &Tree, path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let (parent, name) = parent(tree, path)?;
    unlink_at(&parent, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&parent, name, flags, Mode::RUSR)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    File::from(file).write_all(text.as_bytes())
}

fn link(tree: &Tree, path: &Path, target: &Path) -> io::Result<()> {
    let (parent, name) = parent(tree, path)?;
    unlink_at(&parent, name)?;
    Ok(rustix::fs::symlinkat(target, &parent, name)?)
}

fn unlink(tree: &Tree, path: &Path) -> io::Result<()> {
    let (parent, name) = parent(tree, path)?;
    unlink_at(&parent, name)
}

fn unlink_at(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        done => Ok(done?),
    }
}

/// The directory that `path` is in, made if need be, and the name there.
fn parent<'a>(tree: &Tree, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match tree.open_inside(directory, flags) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && directory != Path::new("/") => {
            let (above, missing) = parent(tree, directory)?;
            rustix::fs::mkdirat(&above, missing, Mode::from_raw_mode(0o755))?;
            Ok((tree.open_inside(directory, flags)?, name))
        }
        opened => Ok((opened?, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn nothing_is_written_through_a_symlink_or_outside_the_tree() {
        let dir = TestDir::new("finish");
        fs::create_dir_all(dir.join("tree")).unwrap();
        fs::create_dir(dir.join("outside")).unwrap();
        fs::write(dir.join("outside/file"), "safe").unwrap();
        symlink(dir.join("outside"), dir.join("tree/etc")).unwrap();
        let tree = Tree::open(&dir.join("tree")).unwrap();
        // The link leads to a path that does not exist inside: refused, and not followed.
        assert!(write(&tree, "/etc/file".as_ref(), 0o644, "bad").is_err());
        fs::remove_file(dir.join("tree/etc")).unwrap();

        fs::create_dir(dir.join("tree/etc")).unwrap();
        symlink(dir.join("outside/file"), dir.join("tree/etc/file")).unwrap();
        write(&tree, "/etc/file".as_ref(), 0o640, "new").unwrap();
        assert_eq!(fs::read_to_string(dir.join("tree/etc/file")).unwrap(), "new");
        assert_eq!(fs::metadata(dir.join("tree/etc/file")).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_to_string(dir.join("outside/file")).unwrap(), "safe");

        link(&tree, "/etc/a/b/unit".as_ref(), "/dev/null".as_ref()).unwrap();
        assert_eq!(fs::read_link(dir.join("tree/etc/a/b/unit")).unwrap(), Path::new("/dev/null"));
    }

    #[test]
    fn only_roots_password_changes() {
        let dir = TestDir::new("shadow");
        fs::create_dir(dir.join("etc")).unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        set_root_login(&tree, RootLogin::NoPassword).unwrap();
        fs::write(dir.join("etc/shadow"), "root:*:1:0::::\nrootx:*:1::::\n").unwrap();
        fs::set_permissions(dir.join("etc/shadow"), fs::Permissions::from_mode(0o640)).unwrap();
        set_root_login(&tree, RootLogin::NoPassword).unwrap();
        assert_eq!(fs::read_to_string(dir.join("etc/shadow")).unwrap(), "root::1:0::::\nrootx:*:1::::\n");
        set_root_login(&tree, RootLogin::Locked).unwrap();
        assert_eq!(fs::read_to_string(dir.join("etc/shadow")).unwrap(), "root:*:1:0::::\nrootx:*:1::::\n");
        assert_eq!(fs::metadata(dir.join("etc/shadow")).unwrap().permissions().mode() & 0o7777, 0o640);
    }
}
