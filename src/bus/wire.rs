//! What supervisor and registrar say to each other: one message a packet, one enum a direction, JSON in it.
//!
//! The pidfd of a leader travels in the packet of the request that needs it (man 7 unix, `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{BusError, Event, Registration, Unit};

/// From the supervisor. Each is answered once, in order.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Is the scope's name free? Machine name.
    ClaimUnit(String),
    /// Does machined know the name? Machine name.
    ClaimMachine(String),
    /// Make the scope, or find the unit to keep. With the leader's pidfd.
    OpenUnit(Registration),
    /// Register with machined. With the leader's pidfd.
    Register(Registration),
    /// Take back what was registered and made.
    Release,
    /// The same, then end.
    Finish,
}

/// From the registrar.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// To the oldest request without an answer.
    Answer(Result<Answer, BusError>),
    /// At any time.
    Event(Event),
}

/// What a request gives.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Done; there is nothing to tell.
    Done,
    /// The unit that holds the machine.
    Unit(Unit),
}

/// The longest packet. Below the least send buffer that SOCK_SEQPACKET takes a packet for in one piece
/// (net.core.wmem_default, 212992 bytes).
const LONGEST: usize = 64 * 1024;

/// One end of the socket.
#[derive(Debug)]
pub(super) struct Wire(OwnedFd);

impl Wire {
    /// Both ends, close-on-exec.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Sends one message with at most one descriptor.
    ///
    /// # Errors
    /// `EPIPE` when the other end is gone; `EMSGSIZE` for a message over 64 KiB.
    pub(super) fn send(&self, message: &impl Serialize, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > LONGEST {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
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
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut text = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        });
        let received = match received {
            // The other end died with something of ours unread.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => other?,
        };
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Some((serde_json::from_slice(&text[..received.bytes])?, fd)))
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
    use crate::bus::UnitWanted;
    use std::io::Read;

    #[test]
    fn a_request_arrives_whole_with_its_descriptor_and_then_the_end() {
        let (one, other) = Wire::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let request = Request::OpenUnit(Registration {
            name: "web".into(),
            id: [7; 16],
            leader: 12,
            supervisor: 11,
            root: "/srv/web".into(),
            ifindices: vec![3],
            unit: UnitWanted::Keep,
        });
        one.send(&request, Some(writer.as_fd())).unwrap();
        drop(writer);
        let (got, fd) = other.receive::<Request>().unwrap().unwrap();
        assert_eq!(got, request);
        std::fs::File::from(fd.unwrap()).set_len(0).unwrap_err();
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        drop(one);
        assert!(other.receive::<Request>().unwrap().is_none());
        assert_eq!(other.send(&Request::Finish, None).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_message_over_the_limit_is_refused_not_cut() {
        let (one, _other) = Wire::pair().unwrap();
        let error = one.send(&Request::ClaimUnit("x".repeat(LONGEST)), None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    }
}
