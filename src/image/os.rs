//! What is in a tree, read without leaving it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::init::Init;
use crate::error::reason;

/// The largest file that is read from a tree, in bytes: far above any passwd(5), far below what hurts.
const LARGEST: u64 = 4 << 20;

/// Where an init is looked for, in systemd-nspawn's order.
const INITS: [&str; 3] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/sbin/init"];

/// A directory that is, or will be, some machine's root.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

/// What os-release(5) says of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsRelease {
    /// `ID`, lower case; `linux` where it is not set, as os-release(5) has it.
    pub id: String,
    /// `PRETTY_NAME`; `Linux` where it is not set.
    pub pretty_name: String,
    /// `VERSION_ID`, which rolling distributions do not have.
    pub version_id: Option<String>,
    /// `VERSION_CODENAME`.
    pub version_codename: Option<String>,
}

/// The init of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundInit {
    /// The path to execute, absolute inside the tree.
    pub path: PathBuf,
    /// What it is.
    pub init: Init,
}

/// Why a tree has no init.
#[derive(Debug)]
pub enum NoInit {
    /// None of the places where an init can be has one.
    Missing,
    /// There is something at that path and it cannot be executed.
    NotExecutable(PathBuf),
    /// The tree could not be read.
    Unreadable(PathBuf, io::Error),
}

impl fmt::Display for NoInit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "it has no init: neither of {}", INITS.join(", ")),
            Self::NotExecutable(path) => {
                write!(f, "its init {} is not an executable file", path.display())
            }
            Self::Unreadable(path, cause) => {
                write!(f, "cannot look at its {}: {}", path.display(), reason(cause))
            }
        }
    }
}

impl std::error::Error for NoInit {}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Tree {
    /// Opens the directory `path` as a tree (`O_PATH`: nothing is read).
    ///
    /// # Errors
    /// What openat(2) gives; `ENOTDIR` when it is no directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::openat(CWD, path, flags, Mode::empty())? })
    }

    /// Opens `path` with `flags` as a process whose root is the tree would: absolute symlinks and `..` stay inside, and
    /// magic links (/proc/PID/root and its like, which know no root) are refused.
    ///
    /// # Errors
    /// What openat2(2) gives; `ELOOP` for a magic link.
    pub fn open_inside(&self, path: impl AsRef<Path>, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // The kernel cannot rule out an escape when something was renamed meanwhile: EAGAIN, "try again" (man 2 openat2).
        for _ in 0..32 {
            let flags = flags | OFlags::CLOEXEC;
            match rustix::fs::openat2(&self.root, path.as_ref(), flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return Ok(done?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// The text of the regular file at `path` inside; `None` when there is nothing there.
    ///
    /// # Errors
    /// `EINVAL` when it is not a regular file, `EFBIG` when it is larger than 4 MiB; what openat2(2) and read(2) give.
    pub fn read_text(&self, path: impl AsRef<Path>) -> io::Result<Option<String>> {
        let Some(found) = self.look_up(path.as_ref())? else { return Ok(None) };
        // Looked at before it is opened for reading: to open a fifo or a device can block or do something.
        if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL.into());
        }
        let mut text = Vec::new();
        let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
        file.take(LARGEST + 1).read_to_end(&mut text)?;
        if text.len() as u64 > LARGEST {
            return Err(Errno::FBIG.into());
        }
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }

    /// The tree's os-release(5); `None` when it has none.
    ///
    /// # Errors
    /// As [`Tree::read_text`].
    pub fn read_os_release(&self) -> io::Result<Option<OsRelease>> {
        for path in ["/etc/os-release", "/usr/lib/os-release"] {
            if let Some(text) = self.read_text(path)? {
                return Ok(Some(parse_os_release(&text)));
            }
        }
        Ok(None)
    }

    /// Whether `boot` takes it for an OS: it has an os-release file, which is systemd's rule.
    ///
    /// # Errors
    /// What openat2(2) gives.
    pub fn is_os(&self) -> io::Result<bool> {
        self.has_any(&["/etc/os-release", "/usr/lib/os-release"])
    }

    /// Whether `run` takes it: it has /usr or /bin. systemd-nspawn asks for /usr, which a busybox tree need not have.
    ///
    /// # Errors
    /// What openat2(2) gives.
    pub fn is_runnable(&self) -> io::Result<bool> {
        self.has_any(&["/usr/", "/bin/"])
    }

    /// Finds the init.
    ///
    /// # Errors
    /// [`NoInit`], also when the first thing found where an init can be is not an executable file.
    pub fn find_init(&self) -> Result<FoundInit, NoInit> {
        for path in INITS.map(Path::new) {
            let unreadable = |cause| NoInit::Unreadable(path.to_owned(), cause);
            if let Some(found) = self.look_up(path).map_err(unreadable)? {
                let stat = rustix::fs::fstat(&found).map_err(|errno| unreadable(errno.into()))?;
                let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
                if !regular || stat.st_mode & 0o111 == 0 {
                    return Err(NoInit::NotExecutable(path.to_owned()));
                }
                let init = Init::of_program(&found).map_err(unreadable)?;
                return Ok(FoundInit { path: path.to_owned(), init });
            }
        }
        Err(NoInit::Missing)
    }

    /// What /etc/machine-id holds, without the newline: an ID, `uninitialized`, or nothing; `None` when there is no such
    /// file (man 5 machine-id).
    ///
    /// # Errors
    /// As [`Tree::read_text`].
    pub fn read_machine_id_text(&self) -> io::Result<Option<String>> {
        Ok(self.read_text("/etc/machine-id")?.map(|text| text.trim_end().to_owned()))
    }

    /// The first line of /etc/hostname that is neither empty nor a comment (man 5 hostname).
    ///
    /// # Errors
    /// As [`Tree::read_text`].
    pub fn read_hostname(&self) -> io::Result<Option<String>> {
        let text = self.read_text("/etc/hostname")?.unwrap_or_default();
        let mut lines = text.lines().map(str::trim);
        Ok(lines.find(|line| !line.is_empty() && !line.starts_with('#')).map(ToOwned::to_owned))
    }

    fn has_any(&self, paths: &[&str]) -> io::Result<bool> {
        for path in paths {
            if self.look_up(Path::new(path))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `O_PATH` on what is at `path`; a dangling symlink, and a file where a directory had to be, is nothing.
    fn look_up(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        match self.open_inside(path, OFlags::PATH) {
            Ok(found) => Ok(Some(found)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
                _ => Err(error),
            },
        }
    }
}

fn parse_os_release(text: &str) -> OsRelease {
    let mut fields: BTreeMap<&str, String> = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some((key, value)) = line.split_once('=') {
            fields.insert(key, unquote(value));
        }
    }
    OsRelease {
        id: fields.remove("ID").unwrap_or_else(|| "linux".to_owned()),
        pretty_name: fields.remove("PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned()),
        version_id: fields.remove("VERSION_ID"),
        version_codename: fields.remove("VERSION_CODENAME"),
    }
}

/// A value as a shell would read it (os-release(5) allows quotes and backslashes, and no expansions). Control
/// characters are dropped: the text ends up on the operator's terminal, and the tree's owner wrote it.
fn unquote(value: &str) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' if quote != Some('\'') => out.extend(chars.next()),
            '"' | '\'' if quote == Some(char) => quote = None,
            '"' | '\'' if quote.is_none() => quote = Some(char),
            _ if char.is_control() => {}
            _ => out.push(char),
        }
    }
    out.retain(|char| !char.is_control());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn executable(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn os_release_is_read_as_a_shell_would() {
        let text =
            "# comment\nID=debian\nPRETTY_NAME=\"Debian \\\"13\\\" \u{1b}[2J\"\nVERSION_ID='13'\nNAME\n";
        let read = parse_os_release(text);
        assert_eq!(read.id, "debian");
        assert_eq!(read.pretty_name, "Debian \"13\" [2J");
        assert_eq!(read.version_id.as_deref(), Some("13"));
        assert_eq!(parse_os_release("").pretty_name, "Linux");
    }

    #[test]
    fn a_symlink_never_leads_out_of_the_tree() {
        let dir = TestDir::new("os-escape");
        fs::create_dir_all(dir.join("tree/etc")).unwrap();
        fs::create_dir_all(dir.join("tree/usr/lib")).unwrap();
        fs::write(dir.join("secret"), "ID=host\n").unwrap();
        let tree = Tree::open(&dir.join("tree")).unwrap();
        for target in ["../../secret", "/etc/os-release", "/proc/self/root/etc/os-release"] {
            symlink(target, dir.join("tree/etc/os-release")).unwrap();
            assert_eq!(tree.read_os_release().unwrap(), None, "{target}");
            fs::remove_file(dir.join("tree/etc/os-release")).unwrap();
        }
        // Absolute, and inside the tree all the same.
        fs::write(dir.join("tree/usr/lib/os-release"), "ID=tree\n").unwrap();
        symlink("/../../usr/lib/os-release", dir.join("tree/etc/os-release")).unwrap();
        assert_eq!(tree.read_os_release().unwrap().unwrap().id, "tree");
    }

    #[test]
    fn what_is_not_a_regular_file_is_not_read() {
        let dir = TestDir::new("os-fifo");
        fs::create_dir(dir.join("etc")).unwrap();
        rustix::fs::mknodat(CWD, dir.join("etc/machine-id"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        assert_eq!(tree.read_machine_id_text().unwrap_err().raw_os_error(), Some(libc::EINVAL));
        fs::File::create(dir.join("etc/hostname")).unwrap().set_len(LARGEST + 1).unwrap();
        let refused = tree.read_hostname().map(drop);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EFBIG));
    }

    #[test]
    fn the_init_is_found_in_order_and_told_by_what_it_is() {
        let dir = TestDir::new("os-init");
        fs::create_dir(dir.join("sbin")).unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        assert!(matches!(tree.find_init(), Err(NoInit::Missing)));

        symlink("/opt/systemd", dir.join("sbin/init")).unwrap();
        assert!(matches!(tree.find_init(), Err(NoInit::Missing)), "dangling");
        executable(&dir.join("opt/systemd"));
        let found = tree.find_init().unwrap();
        assert_eq!(found, FoundInit { path: "/sbin/init".into(), init: Init::Systemd });

        fs::create_dir_all(dir.join("usr/lib/systemd/systemd")).unwrap();
        assert!(matches!(tree.find_init(), Err(NoInit::NotExecutable(_))), "a directory");
        fs::remove_dir(dir.join("usr/lib/systemd/systemd")).unwrap();
        fs::remove_file(dir.join("sbin/init")).unwrap();
        executable(&dir.join("sbin/init"));
        assert_eq!(tree.find_init().unwrap().init, Init::Other);
    }

    #[test]
    fn what_kind_of_tree_it_is() {
        let dir = TestDir::new("os-kind");
        let tree = Tree::open(dir.path()).unwrap();
        assert!(!tree.is_os().unwrap() && !tree.is_runnable().unwrap());
        fs::write(dir.join("bin"), "").unwrap();
        assert!(!tree.is_runnable().unwrap(), "a file is no /bin");
        fs::create_dir_all(dir.join("usr/lib")).unwrap();
        assert!(!tree.is_os().unwrap() && tree.is_runnable().unwrap());
        fs::write(dir.join("usr/lib/os-release"), "").unwrap();
        assert!(tree.is_os().unwrap());
        fs::create_dir(dir.join("etc")).unwrap();
        fs::write(dir.join("etc/hostname"), "# no\n\n web \n").unwrap();
        assert_eq!(tree.read_hostname().unwrap().as_deref(), Some("web"));
    }
}
