//! The two locks on a record's file (man 2 F_OFD_SETLK), and what they say about it.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// The byte of the file whose lock says who has the name.
const NAME_BYTE: i64 = 0;
/// The byte of the file whose lock says that its writer lives.
const RECORD_BYTE: i64 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its writer lives.
    Living,
    /// Its writer is dead and a new owner of the name is about to clean up.
    TakenOver,
    /// Its writer is dead.
    Dead,
}

/// What the locks of others, or of this process by another open, say.
pub(super) fn state(file: &File) -> io::Result<State> {
    Ok(match (is_locked(file, RECORD_BYTE)?, is_locked(file, NAME_BYTE)?) {
        (true, _) => State::Living,
        (false, true) => State::TakenOver,
        (false, false) => State::Dead,
    })
}

/// Locks the name's byte; `EAGAIN` or `EACCES` when somebody else has.
pub(super) fn lock_name(file: &File) -> Result<(), Errno> {
    lock(file, NAME_BYTE, 1)
}

/// Locks both bytes.
pub(super) fn lock_both(file: &File) -> Result<(), Errno> {
    lock(file, NAME_BYTE, 2)
}

fn lock(file: &File, start: i64, length: i64) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, start, length))).map(drop)
}

fn is_locked(file: &File, byte: i64) -> io::Result<bool> {
    let mut found = range(libc::F_RDLCK, byte, 1);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

pub(super) fn range(kind: i32, start: i64, length: i64) -> libc::flock {
    // l_pid has to be zero for locks of an open file description. The constants are small: the casts lose nothing.
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}
