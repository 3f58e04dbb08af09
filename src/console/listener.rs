//! The socket on which a running machine's console is attached to: /run/osier/console/NAME.
//!
//! Only root can connect: the directory and the socket say so, and so do the credentials of who has. A socket that is
//! found was left by a supervisor that was killed: whoever has the machine's name may replace it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Where the sockets are.
pub const DIRECTORY: &str = "/run/osier/console";
/// So many may have knocked and not been let in yet.
const BACKLOG: i32 = 16;

/// A machine's socket; removed with this.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Forked children have a copy of this and must not remove the socket when they drop it.
    owner: u32,
}

impl Listener {
    /// Makes it for the machine `name`, which has to be the caller's.
    ///
    /// # Errors
    /// What mkdir(2), bind(2) and chmod(2) give, such as `ENOSPC`.
    pub fn open(name: &str) -> io::Result<Self> {
        Self::open_in(Path::new(DIRECTORY), name)
    }

    fn open_in(directory: &Path, name: &str) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let path = directory.join(name);
        remove_if_there(&path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        let listener = Self { socket, path, owner: std::process::id() };
        // Nobody can connect before the next call.
        fs::set_permissions(&listener.path, Permissions::from_mode(0o600))?;
        rustix::net::listen(&listener.socket, BACKLOG)?;
        Ok(listener)
    }

    /// What to poll for POLLIN.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next one that has connected, if it may.
    ///
    /// # Errors
    /// What accept(2) gives, such as `EMFILE`.
    pub(super) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            let socket = match rustix::net::accept_with(&self.socket, flags) {
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => continue,
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                socket => socket?,
            };
            let peer = rustix::net::sockopt::socket_peercred(&socket)?;
            if peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
                return Ok(Some(socket));
            }
        }
    }

    /// Removes the socket.
    ///
    /// # Errors
    /// What unlink(2) gives.
    pub fn close(mut self) -> io::Result<()> {
        let result = self.remove();
        self.owner = 0;
        result
    }

    fn remove(&self) -> io::Result<()> {
        if self.owner == std::process::id() { remove_if_there(&self.path) } else { Ok(()) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Nobody to tell: `close` is the way that reports.
        let _ = self.remove();
    }
}

/// Connects to the machine `name`'s.
///
/// # Errors
/// `NotFound` when it has none, `ConnectionRefused` when nobody listens any more, `PermissionDenied`.
pub fn connect(name: &str) -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let address = SocketAddrUnix::new(Path::new(DIRECTORY).join(name))?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
    Ok(socket)
}

/// Removes the socket of the machine `name`, whose supervisor is dead, and gives its path if there was one.
///
/// # Errors
/// What unlink(2) gives.
pub fn remove_stale(name: &str) -> io::Result<Option<PathBuf>> {
    let path = Path::new(DIRECTORY).join(name);
    match fs::remove_file(&path) {
        Ok(()) => Ok(Some(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_its_owner_replaced_when_stale_and_gone_afterwards() {
        let directory = std::env::temp_dir().join(format!("osier-listener-{}", std::process::id()));
        let stale = Listener::open_in(&directory, "web").unwrap();
        let listener = Listener::open_in(&directory, "web").unwrap();
        std::mem::forget(stale);
        let path = directory.join("web");
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listener.accept().unwrap().is_none());
        let flags = SocketFlags::CLOEXEC;
        let client =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::net::connect(&client, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        assert!(listener.accept().unwrap().is_some());
        listener.close().unwrap();
        assert!(!path.exists());
        fs::remove_dir(&directory).unwrap();
    }
}
