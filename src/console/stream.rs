//! One of the caller's streams, read or written without ever blocking and without changing it for others.
//!
//! `O_NONBLOCK` belongs to the open file description (man 2 fcntl), and the caller's are shared with its shell: they are
//! left as they are. Terminals, pipes and devices are opened again through /proc/self/fd for a description of our own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SendFlags};

/// Which way a stream carries bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

/// How a stream is kept from blocking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The description is ours and nonblocking, or a regular file's, which never makes one wait in poll(2)'s sense.
    Plain,
    /// A socket cannot be opened again, but each call can be told not to wait.
    Socket,
    /// Neither is possible: asked by poll(2) before each call, and written in pieces of [`PIECE`].
    Careful,
}

/// Half of what the smallest device that reports POLLOUT still takes without waiting.
const PIECE: usize = 256;

/// A stream and the way to use it.
#[derive(Debug)]
pub(super) struct Stream {
    fd: OwnedFd,
    way: Way,
}

impl Stream {
    /// A second, independent hold on the caller's `fd`.
    pub(super) fn open(fd: BorrowedFd<'_>, direction: Direction) -> io::Result<Self> {
        let way = match FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) {
            // A regular file opened again would start at offset 0 and forget O_APPEND.
            FileType::RegularFile | FileType::BlockDevice | FileType::Directory => Way::Plain,
            FileType::Socket => Way::Socket,
            _ => match reopen(fd, direction) {
                Ok(fd) => return Ok(Self { fd, way: Way::Plain }),
                Err(_) => Way::Careful,
            },
        };
        Ok(Self { fd: rustix::io::fcntl_dupfd_cloexec(fd, 3)?, way })
    }

    /// Takes a descriptor whose description nobody else has, and makes it nonblocking.
    pub(super) fn own(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self { fd, way: Way::Plain })
    }

    /// Reads; 0 is the end, `WouldBlock` nothing at present.
    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self.way {
            Way::Plain => read(&self.fd, into),
            Way::Socket => Ok(retry_on_intr(|| rustix::net::recv(&self.fd, &mut *into, RecvFlags::DONTWAIT))
                .map(|(_, n)| n)?),
            Way::Careful => {
                self.ready(PollFlags::POLLIN)?;
                read(&self.fd, into)
            }
        }
    }

    /// Writes what is taken at once; `WouldBlock` when that is nothing.
    pub(super) fn write(&self, from: &[u8]) -> io::Result<usize> {
        match self.way {
            Way::Plain => write(&self.fd, from),
            Way::Socket => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                Ok(retry_on_intr(|| rustix::net::send(&self.fd, from, flags))?)
            }
            Way::Careful => {
                self.ready(PollFlags::POLLOUT)?;
                write(&self.fd, &from[..from.len().min(PIECE)])
            }
        }
    }

    /// Whether it is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        rustix::termios::isatty(&self.fd)
    }

    fn ready(&self, events: PollFlags) -> io::Result<()> {
        let mut set = [PollFd::new(self.fd.as_fd(), events)];
        if poll(&mut set, PollTimeout::ZERO)? == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// read(2), again after a signal.
pub(super) fn read(fd: &OwnedFd, into: &mut [u8]) -> io::Result<usize> {
    Ok(retry_on_intr(|| rustix::io::read(fd, &mut *into))?)
}

/// write(2), again after a signal.
pub(super) fn write(fd: &OwnedFd, from: &[u8]) -> io::Result<usize> {
    Ok(retry_on_intr(|| rustix::io::write(fd, from))?)
}

fn reopen(fd: BorrowedFd<'_>, direction: Direction) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let access = match direction {
        Direction::In => OFlags::RDONLY,
        Direction::Out => OFlags::WRONLY,
    };
    // O_NOCTTY: the supervisor leads a session without a terminal, and must not get one by opening.
    let flags = access | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open(format!("/proc/self/fd/{}", fd.as_raw_fd()), flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn nonblocking(fd: impl AsFd) -> bool {
        rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
    }

    /// Writes until nothing more is taken.
    fn stuff(stream: &Stream) -> usize {
        let mut total = 0;
        loop {
            match stream.write(&[b'x'; 4096]) {
                Ok(count) => total += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return total;
                }
            }
        }
    }

    #[test]
    fn a_pipe_is_not_changed_for_others_and_never_waits() {
        let (read_end, write_end) = rustix::pipe::pipe().unwrap();
        let out = Stream::open(write_end.as_fd(), Direction::Out).unwrap();
        let input = Stream::open(read_end.as_fd(), Direction::In).unwrap();
        assert_eq!(input.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(stuff(&out) >= 4096);
        assert!(!nonblocking(&write_end) && !nonblocking(&read_end));
    }

    #[test]
    fn a_socket_is_not_changed_for_others_and_never_waits() {
        let (here, there) = UnixStream::pair().unwrap();
        let out = Stream::open(here.as_fd(), Direction::Out).unwrap();
        assert!(stuff(&out) >= 4096);
        let input = Stream::open(here.as_fd(), Direction::In).unwrap();
        assert_eq!(input.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(!nonblocking(&here));
        drop(there);
        assert_eq!(out.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn what_cannot_be_opened_again_is_asked_first() {
        let (read_end, write_end) = rustix::pipe::pipe().unwrap();
        let out = Stream { fd: write_end, way: Way::Careful };
        let input = Stream { fd: read_end, way: Way::Careful };
        assert_eq!(input.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut total = 0;
        while out.write(&[b'x'; 4096]).is_ok_and(|count| count <= PIECE && count > 0) {
            total += 1;
        }
        assert!(total > 0);
        assert_eq!(input.read(&mut [0; 8]).unwrap(), 8);
    }

    #[test]
    fn a_file_goes_on_where_the_caller_was() {
        let mut file = tempfile();
        file.write_all(b"before ").unwrap();
        Stream::open(file.as_fd(), Direction::Out).unwrap().write(b"after").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before after");
    }

    #[test]
    fn a_pipe_without_a_reader_says_so_when_written() {
        let (read_end, write_end) = rustix::pipe::pipe().unwrap();
        drop(read_end);
        let out = Stream::open(write_end.as_fd(), Direction::Out).unwrap();
        assert_eq!(out.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    fn tempfile() -> std::fs::File {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        std::fs::File::from(rustix::fs::open(std::env::temp_dir(), flags, Mode::from(0o600)).unwrap())
    }
}
