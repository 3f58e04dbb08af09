//! What the front and the supervisor say to each other: packets of a SOCK_SEQPACKET socket, descriptors beside them.
//!
//! A front that was forked with its supervisor has the one end of a pair; one that attaches connects ([`super::Listener`])
//! and begins with [`Hello`].

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use rustix::fs::MemfdFlags;
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::termios::Winsize;

use super::Flow;
use super::ring::Ring;

/// The longest packet.
pub(super) const LONGEST: usize = 6;
/// The most descriptors in one: standard input and output.
const MOST_FDS: usize = 2;

/// What the front tells the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromFront {
    /// The terminal's window has another size.
    Resized,
    /// Somebody sent the front this signal, or typed it on a terminal that is not raw.
    Signal(Signal),
    /// The terminal is the supervisor's to read (`Flowing`), or the shell's (`Paused`). Nothing may be read before the
    /// first of these: [`super::Forwarder::set_flow`] to `Paused` at the start, then to what comes.
    Input(Flow),
    /// The screen so far was shown: what came since can follow.
    Shown,
    /// The front is gone; the terminal has been put back. Drop the wire now.
    Gone,
}

/// What a front asks for that attaches to a running machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// To type when nobody else does, and to watch until then.
    Keyboard,
    /// To watch, and never to type.
    Watch,
}

/// What an attached terminal may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What is typed there goes to the machine.
    Keyboard,
    /// It watches, until the keyboard is free.
    Waiting,
    /// It watches.
    Watching,
}

/// What the supervisor tells a front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToFront {
    /// The user has left by an escape; with the screen as it is.
    Detached,
    /// What the terminal may do from now on; the first time with the screen so far.
    Role(Role),
    /// An escape that only who has the keyboard can use.
    NotYours,
    /// The machine has ended, with this exit code.
    Ended(u8),
}

/// The last bytes of a console, and the size it has; in a file without a name.
#[derive(Debug)]
pub struct Snapshot {
    bytes: File,
    rows: u16,
    columns: u16,
}

impl Snapshot {
    /// Of what the ring holds.
    pub(super) fn of(ring: &Ring, size: Winsize) -> io::Result<Self> {
        let mut bytes = File::from(rustix::fs::memfd_create("osier-console", MemfdFlags::CLOEXEC)?);
        let (one, other) = ring.parts();
        bytes.write_all(one)?;
        bytes.write_all(other)?;
        Ok(Self { bytes, rows: size.ws_row, columns: size.ws_col })
    }

    /// The bytes, and the console's rows and columns.
    ///
    /// # Errors
    /// What pread(2) gives.
    pub fn read(&self) -> io::Result<(Vec<u8>, u16, u16)> {
        let length = usize::try_from(self.bytes.metadata()?.len()).unwrap_or_default();
        let mut bytes = vec![0; length];
        self.bytes.read_exact_at(&mut bytes, 0)?;
        Ok((bytes, self.rows, self.columns))
    }
}

/// What came.
pub(super) struct Packet {
    pub(super) bytes: [u8; LONGEST],
    pub(super) length: usize,
    pub(super) fds: Vec<OwnedFd>,
}

/// Receives a packet; of length 0 when the other end is gone.
///
/// # Errors
/// `WouldBlock` when there is none at present; what recvmsg(2) gives.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Packet> {
    let mut packet = Packet { bytes: [0; LONGEST], length: 0, fds: Vec::new() };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut packet.bytes)];
    let received =
        retry_on_intr(|| rustix::net::recvmsg(&socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC));
    packet.length = match received {
        Ok(received) => received.bytes,
        Err(rustix::io::Errno::CONNRESET) => 0,
        Err(errno) => return Err(errno.into()),
    };
    packet.fds = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok(packet)
}

/// Sends a packet.
///
/// # Errors
/// `EPIPE` when the other end is gone; `WouldBlock` when it does not take what was sent before.
pub(super) fn send(socket: impl AsFd, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::EMSGSIZE.into());
    }
    let slices = [IoSlice::new(packet)];
    retry_on_intr(|| rustix::net::sendmsg(&socket, &slices, &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

impl FromFront {
    pub(super) fn encode(self) -> [u8; 2] {
        match self {
            Self::Resized => *b"w-",
            // Signal numbers end at 64 (man 7 signal).
            Self::Signal(signal) => [b's', u8::try_from(signal as i32).unwrap_or_default()],
            Self::Input(Flow::Flowing) => *b"i+",
            Self::Input(Flow::Paused) => *b"i-",
            Self::Shown => *b"r-",
            Self::Gone => *b"--",
        }
    }

    pub(super) fn decode(packet: &Packet) -> io::Result<Self> {
        match packet.bytes {
            _ if packet.length == 0 => Ok(Self::Gone),
            [b'w', ..] => Ok(Self::Resized),
            [b's', number, ..] => Ok(Self::Signal(Signal::try_from(i32::from(number))?)),
            [b'i', b'+', ..] => Ok(Self::Input(Flow::Flowing)),
            [b'i', b'-', ..] => Ok(Self::Input(Flow::Paused)),
            [b'r', ..] => Ok(Self::Shown),
            _ => Err(Errno::EBADMSG.into()),
        }
    }
}

impl Hello {
    /// With standard input and output.
    pub(super) fn send(self, socket: impl AsFd, streams: [BorrowedFd<'_>; 2]) -> io::Result<()> {
        send(socket, if self == Self::Keyboard { b"ak" } else { b"aw" }, &streams)
    }

    pub(super) fn decode(packet: Packet) -> io::Result<(Self, [OwnedFd; 2])> {
        let asked = match packet.bytes {
            [b'a', b'k', ..] => Self::Keyboard,
            [b'a', b'w', ..] => Self::Watch,
            _ => return Err(Errno::EBADMSG.into()),
        };
        let streams = packet.fds.try_into().map_err(|_| io::Error::from(Errno::EBADMSG))?;
        Ok((asked, streams))
    }
}

impl ToFront {
    /// Sends it, with the screen where there is something to show.
    pub(super) fn send(self, socket: impl AsFd, screen: Option<&Snapshot>) -> io::Result<()> {
        let [kind, argument] = match self {
            Self::Detached => *b"d-",
            Self::Role(Role::Keyboard) => *b"ok",
            Self::Role(Role::Waiting) => *b"ow",
            Self::Role(Role::Watching) => *b"oo",
            Self::NotYours => *b"n-",
            Self::Ended(code) => [b'e', code],
        };
        let (rows, columns) = screen.map_or((0, 0), |screen| (screen.rows, screen.columns));
        let ([a, b], [c, d]) = (rows.to_le_bytes(), columns.to_le_bytes());
        let fds: Vec<_> = screen.iter().map(|screen| screen.bytes.as_fd()).collect();
        send(socket, &[kind, argument, a, b, c, d], &fds)
    }

    pub(super) fn decode(packet: Packet) -> io::Result<(Self, Option<Snapshot>)> {
        let [kind, argument, a, b, c, d] = packet.bytes;
        let (rows, columns) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let screen = packet.fds.into_iter().next();
        let screen = screen.map(|bytes| Snapshot { bytes: bytes.into(), rows, columns });
        let told = match [kind, argument] {
            [b'd', _] => Self::Detached,
            [b'o', b'k'] => Self::Role(Role::Keyboard),
            [b'o', b'w'] => Self::Role(Role::Waiting),
            [b'o', b'o'] => Self::Role(Role::Watching),
            [b'n', _] => Self::NotYours,
            [b'e', code] => Self::Ended(code),
            _ => return Err(Errno::EBADMSG.into()),
        };
        Ok((told, screen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::front::pair;

    #[test]
    fn what_is_said_is_heard() {
        let (front, supervisor) = pair().unwrap();
        for said in [
            FromFront::Resized,
            FromFront::Signal(Signal::SIGTERM),
            FromFront::Input(Flow::Flowing),
            FromFront::Input(Flow::Paused),
            FromFront::Shown,
        ] {
            send(&front, &said.encode(), &[]).unwrap();
            assert_eq!(FromFront::decode(&receive(&supervisor).unwrap()).unwrap(), said);
        }
        let mut ring = Ring::default();
        ring.push(b"a screen");
        let size = Winsize { ws_row: 33, ws_col: 300, ws_xpixel: 0, ws_ypixel: 0 };
        let screen = Snapshot::of(&ring, size).unwrap();
        for said in [
            ToFront::Detached,
            ToFront::Role(Role::Keyboard),
            ToFront::Role(Role::Waiting),
            ToFront::Role(Role::Watching),
            ToFront::NotYours,
            ToFront::Ended(137),
        ] {
            said.send(&supervisor, Some(&screen)).unwrap();
            let (heard, shown) = ToFront::decode(receive(&front).unwrap()).unwrap();
            assert_eq!(heard, said);
            assert_eq!(shown.unwrap().read().unwrap(), (b"a screen".to_vec(), 33, 300));
        }
        for said in [Hello::Keyboard, Hello::Watch] {
            said.send(&front, [io::stdin().as_fd(), io::stdout().as_fd()]).unwrap();
            assert_eq!(Hello::decode(receive(&supervisor).unwrap()).unwrap().0, said);
        }
        send(&front, b"ak", &[]).unwrap();
        assert!(Hello::decode(receive(&supervisor).unwrap()).is_err(), "without its streams");
        drop(front);
        assert_eq!(FromFront::decode(&receive(&supervisor).unwrap()).unwrap(), FromFront::Gone);
    }
}
