//! Pseudoterminals: made in the machine by its leader, held on the host by its supervisor (man 7 pty, man 2 ioctl_tty).
//!
//! No grantpt helper and no lookup of the slave by name: the machine's devpts is mounted with the right owner and mode,
//! and the supervisor reaches the slave through the master, across mount namespaces.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use serde::{Deserialize, Serialize};

/// A new pseudoterminal.
#[derive(Debug)]
pub struct Pty {
    /// The master: nonblocking, close-on-exec.
    pub master: OwnedFd,
    /// The slave as the devpts that it was made in names it: `/dev/pts/N`.
    pub slave_path: PathBuf,
}

/// Makes one through `/dev/ptmx`, in whichever devpts that leads to, and unlocks its slave.
///
/// # Errors
/// What open(2) gives for `/dev/ptmx`; `ENOSPC` when the devpts has no number left.
pub fn open() -> io::Result<Pty> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let master = rustix::fs::open("/dev/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    Ok(Pty { master, slave_path: PathBuf::from(OsString::from_vec(name.into_bytes())) })
}

/// Opens the slave of `master` without its name (`TIOCGPTPEER`), which works from any mount namespace.
///
/// # Errors
/// `EIO` while the slave is locked; what open(2) gives.
pub fn open_peer(master: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    Ok(rustix::pty::ioctl_tiocgptpeer(master, flags)?)
}

/// What tells a terminal apart from every other one of this host, also once it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Identity {
    /// Its device number.
    pub rdev: u64,
    /// The device number of the devpts that it is in.
    pub dev: u64,
}

/// The identity of the slave of `master`.
///
/// # Errors
/// As [`open_peer`].
pub fn identity(master: impl AsFd) -> io::Result<Identity> {
    let found = rustix::fs::fstat(open_peer(master)?)?;
    Ok(Identity { rdev: found.st_rdev, dev: found.st_dev })
}

/// Makes `slave` the controlling terminal of the calling session leader (`TIOCSCTTY`); setsid(2) comes before it.
///
/// # Errors
/// `EPERM` when the caller leads no session, has a controlling terminal, or the terminal is another session's.
pub fn become_controlling(slave: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(slave)?)
}

/// The window size of a terminal.
///
/// # Errors
/// `ENOTTY` when it is none.
pub fn window_size(terminal: impl AsFd) -> io::Result<Winsize> {
    Ok(rustix::termios::tcgetwinsize(terminal)?)
}

/// Sets the window size; the slave's foreground processes get SIGWINCH when it changes.
///
/// # Errors
/// `ENOTTY` when it is no terminal.
pub fn set_window_size(terminal: impl AsFd, size: Winsize) -> io::Result<()> {
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_peer_is_the_slave_that_the_path_names() {
        let pty = open().unwrap();
        let peer = open_peer(&pty.master).unwrap();
        let by_name = std::fs::metadata(&pty.slave_path).unwrap();
        assert_eq!(rustix::fs::fstat(&peer).unwrap().st_rdev, by_name.rdev());
    }

    #[test]
    fn a_size_set_on_the_master_is_seen_on_the_slave() {
        let pty = open().unwrap();
        let peer = open_peer(&pty.master).unwrap();
        let size = Winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
        set_window_size(&pty.master, size).unwrap();
        let seen = window_size(&peer).unwrap();
        assert_eq!((seen.ws_row, seen.ws_col), (33, 101));
    }
}
