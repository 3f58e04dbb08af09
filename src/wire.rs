//! A socket between two of osier's processes: one message a packet, JSON in it, descriptors beside it.
//!
//! Who says what is each user's own pair of enums. Descriptors travel in the packet of the message that announces them
//! (man 7 unix, `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest packet. Far below the least send buffer that SOCK_SEQPACKET takes a packet for in one piece
/// (net.core.wmem_default, 212992 bytes).
const LONGEST: usize = 16 * 1024;

/// So many descriptors go with one message.
pub const MOST_FDS: usize = 4;

/// What came.
#[derive(Debug)]
pub enum Heard<T> {
    /// A message and the descriptors with it.
    Message(T, Vec<OwnedFd>),
    /// The other end is gone; it had read all that was sent.
    End,
    /// The other end is gone, with something of ours unread.
    Reset,
}

/// One end of the socket.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Wire {
    /// Both ends, close-on-exec.
    ///
    /// # Errors
    /// What socketpair(2) gives.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Sends one message with at most [`MOST_FDS`] descriptors.
    ///
    /// # Errors
    /// `EPIPE` when the other end is gone; `EMSGSIZE` for a message over 16 KiB.
    pub fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fits = fds.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(fds));
        if text.len() > LONGEST || !fits {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        rustix::io::retry_on_intr(|| {
            sendmsg(&self.0, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }

    /// Waits for one message; `None` when the other end is gone.
    ///
    /// # Errors
    /// `InvalidData` for a message that cannot be read or was cut.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        match self.hear()? {
            Heard::Message(message, fds) => Ok(Some((message, fds))),
            Heard::End | Heard::Reset => Ok(None),
        }
    }

    /// As [`Wire::receive`], for who needs to know how far the other end had read.
    ///
    /// # Errors
    /// As [`Wire::receive`].
    pub fn hear<T: DeserializeOwned>(&self) -> io::Result<Heard<T>> {
        match self.hear_packet() {
            // Said once, and before what the other end had sent: that is still there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(match self.hear_packet()? {
                Heard::End => Heard::Reset,
                heard => heard,
            }),
            heard => heard,
        }
    }

    fn hear_packet<T: DeserializeOwned>(&self) -> io::Result<Heard<T>> {
        let mut text = [0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        })?;
        let fds = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 {
            return Ok(Heard::End);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Heard::Message(serde_json::from_slice(&text[..received.bytes])?, fds))
    }
}

/// An end that was carried over otherwise.
impl From<OwnedFd> for Wire {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors_and_then_the_end() {
        let (one, other) = Wire::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        one.send(&("hello", 7), &[writer.as_fd()]).unwrap();
        drop(writer);
        let (got, fds) = other.receive::<(String, i32)>().unwrap().unwrap();
        assert_eq!((got, fds.len()), (("hello".to_owned(), 7), 1));
        drop(fds);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        drop(one);
        assert!(other.receive::<()>().unwrap().is_none());
        assert_eq!(other.send(&(), &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn what_was_said_before_the_end_is_heard_and_so_is_what_was_not_read() {
        let (one, other) = Wire::pair().unwrap();
        one.send(&"unread", &[]).unwrap();
        other.send(&"last word", &[]).unwrap();
        drop(other);
        assert!(matches!(one.hear::<String>().unwrap(), Heard::Message(word, _) if word == "last word"));
        assert!(matches!(one.hear::<String>().unwrap(), Heard::End));
        let (one, other) = Wire::pair().unwrap();
        one.send(&"unread", &[]).unwrap();
        drop(other);
        assert!(matches!(one.hear::<String>().unwrap(), Heard::Reset));
    }

    #[test]
    fn a_message_over_the_limit_is_refused_not_cut() {
        let (one, _other) = Wire::pair().unwrap();
        let error = one.send(&"x".repeat(LONGEST), &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    }
}
