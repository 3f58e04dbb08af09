//! nf_tables' own messages (linux/netfilter/nf_tables.h), two of them: which tables there are, and away with one.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::NETFILTER;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// Message types: the subsystem in the upper byte.
const TABLES: u16 = 10 << 8;
const NEW_TABLE: u16 = TABLES;
const GET_TABLE: u16 = TABLES | 1;
const DELETE_TABLE: u16 = TABLES | 2;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// netlink(7).
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
/// `NFTA_TABLE_NAME`.
const NAME: u16 = 1;

/// A table of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    family: u8,
    pub(super) name: String,
}

/// A NETLINK_NETFILTER socket.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// Opens it, for the network namespace that this thread is in.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` on a kernel without netfilter.
    pub(super) fn open() -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
        Ok(Self(socket))
    }

    /// All tables.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN over the namespace; `InvalidData` for what is no answer.
    pub(super) fn tables(&self) -> io::Result<Vec<Table>> {
        self.send(&message(GET_TABLE, REQUEST | DUMP, 0, 0, None))?;
        let mut found = Vec::new();
        self.receive(|kind, body| {
            if kind == NEW_TABLE {
                found.extend(parse_table(body));
            }
            kind == DONE
        })?;
        Ok(found)
    }

    /// Deletes a table with all that is in it.
    ///
    /// # Errors
    /// `ENOENT` when it is not there.
    pub(super) fn delete(&self, table: &Table) -> io::Result<()> {
        // Changes are made in batches alone; the subsystem is the resource that a batch is of.
        let begin = message(BATCH_BEGIN, REQUEST, 0, TABLES >> 8, None);
        let delete = message(DELETE_TABLE, REQUEST | ACKNOWLEDGE, table.family, 0, Some(&table.name));
        let end = message(BATCH_END, REQUEST, 0, TABLES >> 8, None);
        self.send(&[begin, delete, end].concat())?;
        self.receive(|kind, _| kind == ERROR)
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        send(&self.0, packet, SendFlags::empty())?;
        Ok(())
    }

    /// Reads messages until `take` says that one was the last. An error in one ends it too.
    fn receive(&self, mut take: impl FnMut(u16, &[u8]) -> bool) -> io::Result<()> {
        let mut packet = vec![0; 64 << 10];
        loop {
            let (length, _) =
                rustix::io::retry_on_intr(|| recv(&self.0, &mut packet[..], RecvFlags::empty()))?;
            let mut rest = &packet[..length];
            while !rest.is_empty() {
                let (kind, body, next) = split(rest).ok_or(io::ErrorKind::InvalidData)?;
                if kind == ERROR {
                    let errno = body.get(..4).and_then(|errno| errno.try_into().ok()).map(i32::from_ne_bytes);
                    match errno {
                        Some(0) => {}
                        Some(errno) => return Err(io::Error::from_raw_os_error(-errno)),
                        None => return Err(io::ErrorKind::InvalidData.into()),
                    }
                }
                if take(kind, body) {
                    return Ok(());
                }
                rest = next;
            }
        }
    }
}

/// A message: netlink's header (length, type, flags, number, port), netfilter's (family, version, resource), a name.
fn message(kind: u16, flags: u16, family: u8, resource: u16, name: Option<&str>) -> Vec<u8> {
    let mut body = vec![family, 0];
    body.extend(resource.to_be_bytes());
    if let Some(name) = name {
        let length = u16::try_from(4 + name.len() + 1).unwrap_or(u16::MAX);
        body.extend(length.to_ne_bytes());
        body.extend(NAME.to_ne_bytes());
        body.extend(name.as_bytes());
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The first message's type and body, and what comes after it.
fn split(packet: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(packet.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(packet.get(4..6)?.try_into().ok()?);
    let body = packet.get(16..length)?;
    Some((kind, body, packet.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn parse_table(body: &[u8]) -> Option<Table> {
    let family = *body.first()?;
    let mut rest = body.get(4..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes(rest[..2].try_into().ok()?));
        let kind = u16::from_ne_bytes(rest[2..4].try_into().ok()?);
        let value = rest.get(4..length)?;
        if kind == NAME {
            let name = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(Table { family, name: String::from_utf8(name.to_vec()).ok()? });
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}
