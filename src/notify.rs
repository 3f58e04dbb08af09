//! sd_notify(3), both ways: what a machine's init tells osier, and what osier tells the service manager above it.
//!
//! The listening socket can be written to by everybody inside. Who sent a message comes with it, and whoever acts on it
//! has to look: only the leader speaks for the machine.

use std::ffi::OsStr;
use std::fs::{Permissions, set_permissions};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt::PassCred,
};

/// The longest message that is read, `NOTIFY_BUFFER_MAX` of systemd.
const MAX_LEN: usize = 4096;

/// The most descriptors that one message can carry (`SCM_MAX_FD`, man 7 unix).
const MAX_FDS: usize = 253;

/// One line of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// `READY=1`: starting, or reloading, is done.
    Ready,
    /// `STATUS=`: a line for people, with its control characters replaced: it goes to a terminal.
    Status(String),
    /// `STOPPING=1`: it goes down.
    Stopping,
    /// `RELOADING=1`.
    Reloading,
    /// `EXIT_STATUS=`: what a machine's init exits with, which a pid namespace cannot tell otherwise.
    ExitStatus(i32),
    /// Anything else, `KEY=VALUE`.
    Other(String, String),
}

/// A message and who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The sender's pid in our pid namespace, as the kernel says; none when it has none there.
    pub sender: Option<u32>,
    /// Its lines.
    pub messages: Vec<Message>,
}

/// Makes the socket to which `$NOTIFY_SOCKET` inside points: bound to `path`, open to every user, non-blocking, and with
/// the sender's credentials in each message.
///
/// # Errors
/// `EADDRINUSE` when something is at `path`; what socket(2), bind(2) and chmod(2) give.
pub fn bind(path: &Path) -> io::Result<OwnedFd> {
    let socket = UnixDatagram::bind(path)?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, PassCred, &true)?;
    set_permissions(path, Permissions::from_mode(0o666))?;
    Ok(socket.into())
}

/// Reads the next message, if there is one. Descriptors that come with it are closed, which is also what the sender of a
/// `BARRIER=1` waits for; a message that is too long is read as an empty one.
///
/// # Errors
/// What recvmsg(2) gives, other than that nothing is there.
pub fn recv(socket: BorrowedFd<'_>) -> io::Result<Option<Notice>> {
    let mut bytes = [0; MAX_LEN];
    let mut slices = [IoSliceMut::new(&mut bytes)];
    // Room for all of it: where the control message is cut short, who sent it is lost as well.
    let mut control = nix::cmsg_space!(UnixCredentials, [RawFd; MAX_FDS]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            other => break other?,
        }
    };
    let mut sender = None;
    for message in received.cmsgs().into_iter().flatten() {
        match message {
            ControlMessageOwned::ScmCredentials(credentials) => {
                sender = u32::try_from(credentials.pid()).ok().filter(|pid| *pid != 0);
            }
            ControlMessageOwned::ScmRights(fds) => fds.into_iter().for_each(|fd| {
                // Nothing of it is wanted: a failure to close says something about the sender's file only.
                let _ = nix::unistd::close(fd);
            }),
            _ => {}
        }
    }
    let (length, whole) = (received.bytes, !received.flags.contains(MsgFlags::MSG_TRUNC));
    let messages = if whole { parse(bytes.get(..length).unwrap_or_default()) } else { Vec::new() };
    Ok(Some(Notice { sender, messages }))
}

/// The lines of a message, `KEY=VALUE` each; what is no such line is left out.
pub fn parse(bytes: &[u8]) -> Vec<Message> {
    String::from_utf8_lossy(bytes).lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Message> {
    let (key, value) = line.split_once('=').filter(|(key, _)| !key.is_empty())?;
    Some(match (key, value) {
        ("READY", "1") => Message::Ready,
        ("STOPPING", "1") => Message::Stopping,
        ("RELOADING", "1") => Message::Reloading,
        ("STATUS", text) => Message::Status(
            text.replace(char::is_control, char::REPLACEMENT_CHARACTER.encode_utf8(&mut [0; 4])),
        ),
        ("EXIT_STATUS", number) => Message::ExitStatus(number.parse().ok()?),
        _ => Message::Other(key.to_owned(), value.to_owned()),
    })
}

/// Tells the service manager that started osier, such as `READY=1\nSTATUS=…`; false when there is none (`$NOTIFY_SOCKET`
/// is unset).
///
/// # Errors
/// `Unsupported` for an address that is neither a path nor abstract; what sendto(2) gives.
pub fn send(state: &str) -> io::Result<bool> {
    match std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) {
        Some(address) => send_to(&address, state).map(|()| true),
        None => Ok(false),
    }
}

fn send_to(address: &OsStr, state: &str) -> io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(address)?,
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "$NOTIFY_SOCKET is no unix(7) address")),
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsFd;

    use nix::sys::socket::{ControlMessage, UnixAddr, sendmsg};

    use super::*;
    use crate::sys::testing::in_child;

    /// A socket at a path of its own, gone again when the test ends.
    struct Bound(std::path::PathBuf, OwnedFd);

    impl Bound {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("osier-notify-{test}-{}", std::process::id()));
            let socket = bind(&path).unwrap();
            Self(path, socket)
        }

        fn recv(&self) -> Option<Notice> {
            recv(self.1.as_fd()).unwrap()
        }
    }

    impl Drop for Bound {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn lines_are_messages() {
        let text = b"READY=1\nSTATUS=up \x1b[31m=ok\xff\nEXIT_STATUS=3\nSTOPPING=1\nRELOADING=1\n\nnonsense\n=x\nREADY=0\nX_A=b=c";
        assert_eq!(
            parse(text),
            [
                Message::Ready,
                Message::Status("up \u{fffd}[31m=ok\u{fffd}".to_owned()),
                Message::ExitStatus(3),
                Message::Stopping,
                Message::Reloading,
                Message::Other("READY".to_owned(), "0".to_owned()),
                Message::Other("X_A".to_owned(), "b=c".to_owned()),
            ]
        );
        assert_eq!(parse(b""), []);
        assert_eq!(parse(b"EXIT_STATUS=x"), []);
    }

    #[test]
    fn a_notice_says_who_sent_it() {
        let bound = Bound::new("sender");
        assert_eq!(std::fs::metadata(&bound.0).unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(bound.recv(), None);
        send_to(bound.0.as_os_str(), "READY=1\nSTATUS=up").unwrap();
        let child = in_child(|| {
            send_to(bound.0.as_os_str(), "STOPPING=1").unwrap();
            std::process::id().to_string()
        });
        let first = bound.recv().unwrap();
        assert_eq!(first.sender, Some(std::process::id()));
        assert_eq!(first.messages, [Message::Ready, Message::Status("up".to_owned())]);
        assert_eq!(
            bound.recv().unwrap(),
            Notice { sender: child.parse().ok(), messages: vec![Message::Stopping] }
        );
        assert_eq!(bound.recv(), None);
    }

    #[test]
    fn descriptors_are_closed_and_the_sender_is_still_known() {
        // In a child, so that no other test opens descriptors meanwhile.
        in_child(|| {
            let bound = Bound::new("fds");
            let (reader, writer) = std::io::pipe().unwrap();
            let fds = [writer.as_raw_fd(); MAX_FDS];
            let address = UnixAddr::new(&bound.0).unwrap();
            let socket = UnixDatagram::unbound().unwrap();
            sendmsg(
                socket.as_raw_fd(),
                &[IoSlice::new(b"BARRIER=1")],
                &[ControlMessage::ScmRights(&fds)],
                MsgFlags::empty(),
                Some(&address),
            )
            .unwrap();
            drop(writer);
            assert_eq!(bound.recv().unwrap().sender, Some(std::process::id()));
            // The end of the pipe is seen only when every copy of the writing end is closed.
            assert_eq!(std::io::read_to_string(reader).unwrap(), "");
            String::new()
        });
    }

    #[test]
    fn a_message_that_is_too_long_is_not_read_in_part() {
        let bound = Bound::new("long");
        send_to(bound.0.as_os_str(), &format!("READY=1\n{}", "x".repeat(MAX_LEN))).unwrap();
        assert_eq!(bound.recv().unwrap().messages, []);
    }

    #[test]
    fn the_manager_is_told_at_either_kind_of_address() {
        let name = format!("osier-notify-abstract-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send_to(OsStr::new(&format!("@{name}")), "READY=1").unwrap();
        let mut buffer = [0; 16];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        let error = send_to(OsStr::new("vsock:2:1"), "READY=1").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
