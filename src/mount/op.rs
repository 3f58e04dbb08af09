//! One step of making a machine's file system: it can say what it does, and do it.
//!
//! Paths are absolute inside the machine. What comes from the host is opened before its root is left: [`Op::open_source`].

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use libmount::{BindMount, Tmpfs};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::fs::OFlags;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::target::{self, Point};
use crate::ids::MachineId;
use crate::sys::{MountAttributes, MountDepth, mount_setattr};

/// Whether a mount can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Yes.
    ReadWrite,
    /// No (`MS_RDONLY` of the mount, not of the file system).
    ReadOnly,
}

/// Limits of a tmpfs (Documentation/filesystems/tmpfs.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TmpfsLimits {
    /// Bytes.
    pub size: u64,
    /// Number of inodes.
    pub inodes: u64,
}

/// A step. All targets are made where they are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are what each variant's sentence says")]
pub enum Op {
    /// An empty tmpfs of `owner`, a user and a group of the host's; devices work on /dev alone.
    Tmpfs { target: PathBuf, owner: u32, mode: u32, limits: Option<TmpfsLimits>, devices: Devices },
    /// A file system of the kernel's that needs no source: proc, sysfs, mqueue, cgroup2, devpts.
    Kernel { fstype: &'static str, target: PathBuf, options: String, access: Access },
    /// A path of the host, with what is mounted below it where `depth` says so.
    Host { source: PathBuf, target: PathBuf, access: Access, depth: Depth, owners: Owners },
    /// A path of the machine, seen at another one.
    Inside { source: PathBuf, target: PathBuf },
    /// What is at this path, read-only from now on; left out where it is not there.
    ReadOnly { target: PathBuf },
    /// The mount that is at this path, read-only from now on.
    Seal { target: PathBuf },
    /// An empty, inaccessible node of the same type over this path; left out where it is not there.
    Mask { target: PathBuf, need: Need },
    /// A directory.
    Directory { path: PathBuf, mode: u32 },
    /// A regular file with this text.
    File { path: PathBuf, text: String, mode: u32 },
    /// A file with a fresh random boot ID, as the kernel's own has one (man 5 proc_sys_kernel, random/boot_id).
    BootId { path: PathBuf },
    /// A symbolic link.
    Symlink { path: PathBuf, to: &'static str },
    /// A node: character or block device, fifo or socket, of this mode.
    Node { path: PathBuf, node: Node, mode: u32 },
}

/// Whether device nodes on a mount work (`MS_NODEV`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// They do.
    Usable,
    /// They do not.
    Inert,
}

/// Whether what is mounted below a bound path comes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Yes (`rbind`).
    Recursive,
    /// No (`norbind`).
    Single,
}

/// Whose the files of a path of the host's are in a machine with users of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Whose they are on the host: nobody's, as a rule (`noidmap`).
    AsTheyAre,
    /// The host's 0 is the machine's 0, and so on (`idmap`).
    Mapped,
    /// Those of the path's owner are the machine's root's (`rootidmap`).
    Root,
    /// Those of the path's owner are theirs who own what it is mounted on (`owneridmap`).
    Target,
}

/// Whether a path has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Its absence is an error.
    Required,
    /// Its absence is fine.
    Optional,
}

/// A type of node for mknod(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// Character device MAJOR:MINOR.
    Character(u64, u64),
    /// Block device MAJOR:MINOR.
    Block(u64, u64),
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Regular file.
    Regular,
}

/// Where the nodes are that [`Op::Mask`] lays over paths (CONTAINER_INTERFACE, The /run/host/ Hierarchy).
pub const INACCESSIBLE: &str = "/run/host/inaccessible";

impl Op {
    /// Opens what the step takes from the host, while the host's root is still `/`.
    ///
    /// # Errors
    /// What open_tree(2) gives for a source: `ENOENT`, `EACCES`, …
    pub fn open_source(&self) -> io::Result<Option<OwnedFd>> {
        let Self::Host { source, depth, .. } = self else { return Ok(None) };
        let mut flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
        if *depth == Depth::Recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        Ok(Some(open_tree(rustix::fs::CWD, source, flags)?))
    }

    /// Does it. `source` is what [`Op::open_source`] gave.
    ///
    /// # Errors
    /// What the kernel says of the step's main call; `EROFS` when a target is missing on a read-only tree.
    pub fn execute(&self, source: Option<OwnedFd>) -> io::Result<()> {
        match self {
            Self::Tmpfs { target, owner, mode, limits, devices } => {
                let empty = Tmpfs::new(target).uid(*owner).gid(*owner).mode(*mode);
                mount_tmpfs(target, empty, *limits, *devices)
            }
            Self::Kernel { fstype, target, options, access } => {
                mount_kernel(fstype, target, options, *access)
            }
            Self::Host { target, access, depth, .. } => source
                .map_or(Err(io::ErrorKind::NotFound.into()), |tree| attach(&tree, target, *access, *depth)),
            Self::Inside { source, target } => {
                target::make(target, point(fs::metadata(source)?.is_dir()))?;
                bind(source, target)
            }
            Self::ReadOnly { target } => make_read_only(target),
            Self::Seal { target } => {
                set_attributes(target, MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() })
            }
            Self::Mask { target, need } => mask(target, *need),
            Self::Directory { path, mode } => make_directory(path, *mode),
            Self::File { path, text, mode } => write_file(path, text, *mode),
            Self::BootId { path } => {
                write_file(path, &format!("{}\n", MachineId::random()?.as_uuid()), 0o444)
            }
            Self::Symlink { path, to } => match symlink(to, path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                result => result,
            },
            Self::Node { path, node, mode } => make_node(path, *node, *mode),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = |access: &Access| if *access == Access::ReadOnly { " (read-only)" } else { "" };
        match self {
            Self::Tmpfs { target, .. } => write!(f, "mount tmpfs on {}", target.display()),
            Self::Kernel { fstype, target, access, .. } => {
                write!(f, "mount {fstype} on {}{}", target.display(), suffix(access))
            }
            Self::Host { source, target, access, owners, .. } => {
                let owners = match owners {
                    Owners::AsTheyAre => "",
                    Owners::Mapped => " (IDs mapped)",
                    Owners::Root => " (its owner is root)",
                    Owners::Target => " (its owner is the target's)",
                };
                write!(f, "bind {} on {}{}{owners}", source.display(), target.display(), suffix(access))
            }
            Self::Inside { source, target } => write!(f, "bind {} on {}", source.display(), target.display()),
            Self::ReadOnly { target } => write!(f, "make {} read-only", target.display()),
            Self::Seal { target } => write!(f, "seal {}", target.display()),
            Self::Mask { target, .. } => write!(f, "mask {}", target.display()),
            Self::BootId { path } => write!(f, "write a boot ID to {}", path.display()),
            Self::Directory { path, .. } => write!(f, "make directory {}", path.display()),
            Self::File { path, .. } => write!(f, "write {}", path.display()),
            Self::Symlink { path, to } => write!(f, "link {} to {to}", path.display()),
            Self::Node { path, node, .. } => write!(f, "make {node} {}", path.display()),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Character(major, minor) => write!(f, "character device {major}:{minor}"),
            Self::Block(major, minor) => write!(f, "block device {major}:{minor}"),
            Self::Fifo => f.write_str("fifo"),
            Self::Socket => f.write_str("socket"),
            Self::Regular => f.write_str("file"),
        }
    }
}

fn os_error(error: &libmount::OSError) -> io::Error {
    // libmount keeps the errno in its own type, whose text is all that it gives out; the kernel's errno is still there.
    let last = io::Error::last_os_error();
    if last.raw_os_error().is_some_and(|errno| errno != 0) {
        last
    } else {
        io::Error::other(error.to_string())
    }
}

fn mount_tmpfs(
    target: &Path,
    mut tmpfs: Tmpfs,
    limits: Option<TmpfsLimits>,
    devices: Devices,
) -> io::Result<()> {
    target::make(target, Point::Directory)?;
    if let Some(limits) = limits {
        let bytes = usize::try_from(limits.size).unwrap_or(usize::MAX);
        tmpfs = tmpfs.size_bytes(bytes).nr_inodes(usize::try_from(limits.inodes).unwrap_or(usize::MAX));
    }
    tmpfs.bare_mount().map_err(|error| os_error(&error))?;
    match devices {
        Devices::Inert => Ok(()),
        // libmount's tmpfs is always MS_NODEV.
        Devices::Usable => {
            set_attributes(target, MountAttributes { clear: libc::MOUNT_ATTR_NODEV, ..Default::default() })
        }
    }
}

fn mount_kernel(fstype: &str, target: &Path, options: &str, access: Access) -> io::Result<()> {
    target::make(target, Point::Directory)?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    // Everything but devpts is without device nodes; its own are the machine's ptys.
    if fstype != "devpts" {
        flags |= MsFlags::MS_NODEV;
    }
    if access == Access::ReadOnly {
        flags |= MsFlags::MS_RDONLY;
    }
    Ok(mount(Some(fstype), target, Some(fstype), flags, Some(options))?)
}

fn attach(tree: &OwnedFd, target: &Path, access: Access, depth: Depth) -> io::Result<()> {
    let is_dir = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode).is_dir();
    if access == Access::ReadOnly {
        let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        let depth = if depth == Depth::Recursive { MountDepth::Tree } else { MountDepth::One };
        mount_setattr(tree.as_fd(), c"", depth, read_only)?;
    }
    target::make(target, point(is_dir))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    Ok(move_mount(tree, "", rustix::fs::CWD, target, flags)?)
}

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    BindMount::new(source, target).recursive(false).bare_mount().map_err(|error| os_error(&error))
}

fn make_read_only(target: &Path) -> io::Result<()> {
    if !target.try_exists()? {
        return Ok(());
    }
    bind(target, target)?;
    let set =
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    set_attributes(target, MountAttributes { set, ..Default::default() })
}

fn set_attributes(target: &Path, attributes: MountAttributes) -> io::Result<()> {
    // Through a link of the tree's, as the mount went: mount_setattr(2) by name would not follow it.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mounted = rustix::fs::open(target, flags, rustix::fs::Mode::empty())?;
    mount_setattr(mounted.as_fd(), c"", MountDepth::One, attributes)
}

fn mask(target: &Path, need: Need) -> io::Result<()> {
    let node = match fs::metadata(target) {
        Ok(found) if found.is_dir() => "dir",
        Ok(_) => "reg",
        Err(error) if error.kind() == io::ErrorKind::NotFound && need == Need::Optional => return Ok(()),
        Err(error) => return Err(error),
    };
    bind(&Path::new(INACCESSIBLE).join(node), target)
}

fn point(is_dir: bool) -> Point {
    if is_dir { Point::Directory } else { Point::File }
}

fn write_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
    }
}

fn make_node(path: &Path, node: Node, mode: u32) -> io::Result<()> {
    let (kind, device) = match node {
        Node::Character(major, minor) => (SFlag::S_IFCHR, makedev(major, minor)),
        Node::Block(major, minor) => (SFlag::S_IFBLK, makedev(major, minor)),
        Node::Fifo => (SFlag::S_IFIFO, 0),
        Node::Socket => (SFlag::S_IFSOCK, 0),
        Node::Regular => (SFlag::S_IFREG, 0),
    };
    // The umask is zero in the outer and the leader.
    Ok(mknod(path, kind, Mode::from_bits_truncate(mode), device)?)
}
