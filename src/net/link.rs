//! The calls to the kernel: one rtnetlink(7) request and its acknowledgement at a time.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::AddressFamily as Family;
use netlink_packet_route::RouteNetlinkMessage as Request;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use super::attire::Attire;
use super::{LinkEnd, Veth};

/// The alias of links that osier made, by which they can be told from others of their names (ip-link(8), alias).
const ALIAS: &str = "osier";

/// A link that osier made, on the host's side. It goes when this is closed or dropped; its peer goes with it.
#[derive(Debug)]
pub struct VethGuard {
    // A socket stays in the network namespace in which it was opened, so the right link is deleted wherever we are then.
    rtnl: Rtnl,
    index: u32,
    name: String,
    closed: bool,
}

/// Makes the pair: the host's end in the caller's network namespace, its peer directly in `peer_netns`.
///
/// An alternative name that cannot be set (taken, or a kernel before 5.5) is left out: systemd-networkd matches the name.
///
/// # Errors
/// `EEXIST` when either name is taken; `EOPNOTSUPP` without veth in the kernel; `EPERM` without CAP_NET_ADMIN.
pub fn create_veth(veth: &Veth, peer_netns: BorrowedFd<'_>) -> io::Result<VethGuard> {
    let rtnl = Rtnl::open()?;
    let mut peer = end(&veth.peer);
    peer.attributes.push(LinkAttribute::NetNsFd(peer_netns.as_raw_fd()));
    let mut host = end(&veth.host);
    host.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    rtnl.call(Request::NewLink(host), NLM_F_CREATE | NLM_F_EXCL)?;
    let guard = guard(rtnl, veth)?;
    guard.name_fully(veth);
    Ok(guard)
}

/// Takes charge of a pair that somebody else has made as `veth` says, which is CRIU for a machine that it restores. The host's end
/// gets its MAC address, and is set up as the host had it.
///
/// # Errors
/// `ENODEV` when it is not there; what the kernel gives for an address or a bridge.
pub fn adopt_veth(veth: &Veth, attire: &Attire) -> io::Result<VethGuard> {
    let guard = guard(Rtnl::open()?, veth)?;
    let mut message = with_index(guard.index);
    message.attributes.extend(
        end(&veth.host)
            .attributes
            .into_iter()
            .filter(|attribute| matches!(attribute, LinkAttribute::Address(_))),
    );
    if let Some(bridge) = attire.bridge.as_deref() {
        let bridge = index_of(bridge)?.ok_or(nix::errno::Errno::ENODEV)?;
        message.attributes.push(LinkAttribute::Controller(bridge));
    }
    if !message.attributes.is_empty() {
        guard.rtnl.call(Request::SetLink(message), 0)?;
    }
    guard.name_fully(veth);
    give_addresses(&guard.rtnl, guard.index, attire)?;
    Ok(guard)
}

/// What a network manager of the host's has given it by itself meanwhile is there already.
fn give_addresses(rtnl: &Rtnl, index: u32, attire: &Attire) -> io::Result<()> {
    for (address, prefix) in &attire.addresses {
        match rtnl.call(Request::NewAddress(address_of(index, *address, *prefix)), NLM_F_CREATE) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// By index from now on: a udev rule may rename it.
fn guard(rtnl: Rtnl, veth: &Veth) -> io::Result<VethGuard> {
    match index_of(&veth.host.name) {
        Ok(Some(index)) => Ok(VethGuard { rtnl, index, name: veth.host.name.clone(), closed: false }),
        other => {
            let undone = rtnl.delete(with_name(&veth.host.name));
            Err(other.err().or(undone.err()).unwrap_or_else(|| nix::errno::Errno::ENODEV.into()))
        }
    }
}

fn address_of(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() { Family::Inet } else { Family::Inet6 };
    message.header.prefix_len = prefix;
    message.header.index = index;
    // Whoever it was given to before is gone with the link: looking for a duplicate would hold it back for a second.
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

/// Sets up the loopback link of the caller's network namespace.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN in the user namespace that owns it.
pub fn loopback_up() -> io::Result<()> {
    // Index 1 in every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
    Rtnl::open()?.set_up(1)
}

/// Sets the link of this name up and waits until it carries, half a second at most: its other end may be down.
///
/// # Errors
/// `ENODEV` when it is not there; `EPERM` without CAP_NET_ADMIN.
pub fn raise(name: &str) -> io::Result<()> {
    let index = index_of(name)?.ok_or(nix::errno::Errno::ENODEV)?;
    Rtnl::open()?.set_up(index)?;
    let carrier = Path::new("/sys/class/net").join(name).join("carrier");
    let deadline = Instant::now() + Duration::from_millis(500);
    while fs::read_to_string(&carrier).is_ok_and(|text| text.trim() == "0") && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Sets the link of this name down: nothing gets through it any more. Its IPv6 addresses go with that.
///
/// # Errors
/// `ENODEV` when it is not there; `EPERM` without CAP_NET_ADMIN.
pub fn lower(name: &str) -> io::Result<()> {
    let mut message = with_index(index_of(name)?.ok_or(nix::errno::Errno::ENODEV)?);
    message.header.change_mask = LinkFlags::Up;
    Rtnl::open()?.call(Request::SetLink(message), 0)
}

/// As [`raise`], after [`lower`]: with the addresses that it had.
///
/// # Errors
/// As [`raise`], and what the kernel gives for an address.
pub fn raise_again(name: &str, attire: &Attire) -> io::Result<()> {
    raise(name)?;
    let index = index_of(name)?.ok_or(nix::errno::Errno::ENODEV)?;
    give_addresses(&Rtnl::open()?, index, attire)
}

/// Gives the link of this name in the caller's network namespace its MAC address, where there is one.
///
/// # Errors
/// `ENODEV` when it is not there; `EPERM` without CAP_NET_ADMIN.
pub fn set_address(of: &LinkEnd) -> io::Result<()> {
    let rtnl = Rtnl::open()?;
    let mut message = with_name(&of.name);
    let attributes = end(of).attributes.into_iter();
    let address = attributes.filter(|attribute| matches!(attribute, LinkAttribute::Address(_)));
    message.attributes.extend(address);
    rtnl.call(Request::SetLink(message), 0)
}

/// Whether the caller's network namespace has a link with this name.
///
/// # Errors
/// What the ioctl gives, other than that there is none.
pub fn exists(name: &str) -> io::Result<bool> {
    Ok(index_of(name)?.is_some())
}

/// Deletes the link with this name from the caller's network namespace, if osier made it: what a dead supervisor left. Says
/// whether there was one.
///
/// # Errors
/// What the kernel gives, such as `EPERM` without CAP_NET_ADMIN.
pub fn delete_own(name: &str) -> io::Result<bool> {
    let rtnl = Rtnl::open()?;
    // By index: another one may have the name a moment later.
    match rtnl.find(name)? {
        Some(link) if is_own(&link) => rtnl.delete(with_index(link.header.index)).map(|()| true),
        _ => Ok(false),
    }
}

fn is_own(link: &LinkMessage) -> bool {
    let mut attributes = link.attributes.iter();
    attributes.any(|attribute| matches!(attribute, LinkAttribute::IfAlias(alias) if alias == ALIAS))
}

impl VethGuard {
    /// The index of the host's end, which machined and others are told.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The name that the host's end was made with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the host's end its whole name, where it had to be shortened.
    fn name_fully(&self, veth: &Veth) {
        if let Some(altname) = &veth.host.altname {
            let mut message = with_index(self.index);
            message.attributes.push(LinkAttribute::PropList(vec![Prop::AltIfName(altname.clone())]));
            let _ = self.rtnl.call(Request::NewLinkProp(message), NLM_F_CREATE | NLM_F_EXCL);
        }
    }

    /// Sets the host's end up, and signs it as osier's: it shows as its alias in `ip link`.
    ///
    /// # Errors
    /// `ENODEV` when it is gone.
    pub fn set_up(&self) -> io::Result<()> {
        self.rtnl.set_up_own(self.index)
    }

    /// Deletes the link; that it is gone already is fine: it goes with the machine's network namespace.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn close(mut self) -> io::Result<()> {
        self.rtnl.delete(with_index(self.index))?;
        self.closed = true;
        Ok(())
    }
}

impl Drop for VethGuard {
    fn drop(&mut self) {
        if !self.closed {
            let _ = self.rtnl.delete(with_index(self.index));
        }
    }
}

fn with_name(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn index_of(name: &str) -> io::Result<Option<u32>> {
    match nix::net::if_::if_nametoindex(name) {
        Ok(index) => Ok(Some(index)),
        Err(nix::errno::Errno::ENODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn with_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn end(end: &LinkEnd) -> LinkMessage {
    let mut message = with_name(&end.name);
    message.attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.bytes().to_vec())));
    message
}

/// A NETLINK_ROUTE socket.
#[derive(Debug)]
struct Rtnl(OwnedFd);

impl Rtnl {
    fn open() -> io::Result<Self> {
        // Protocol 0, the default, is NETLINK_ROUTE. The kernel binds the socket with the first message (man 7 netlink).
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?))
    }

    fn set_up(&self, index: u32) -> io::Result<()> {
        let mut message = with_index(index);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.call(Request::SetLink(message), 0)
    }

    /// Sets up the host's end of a link and signs it, in one message.
    fn set_up_own(&self, index: u32) -> io::Result<()> {
        let mut message = with_index(index);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::IfAlias(ALIAS.to_owned()));
        self.call(Request::SetLink(message), 0)
    }

    /// The link with this name.
    fn find(&self, name: &str) -> io::Result<Option<LinkMessage>> {
        self.send(Request::GetLink(with_name(name)), 0)?;
        match self.receive()? {
            NetlinkPayload::InnerMessage(Request::NewLink(link)) => Ok(Some(link)),
            NetlinkPayload::Error(error) if error.to_io().raw_os_error() == Some(libc::ENODEV) => Ok(None),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::Error::other("rtnetlink gave no link")),
        }
    }

    fn delete(&self, message: LinkMessage) -> io::Result<()> {
        match self.call(Request::DelLink(message), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            result => result,
        }
    }

    /// Sends a request and reads its acknowledgement. One is under way at a time, so that no sequence numbers are needed.
    fn call(&self, request: Request, flags: u16) -> io::Result<()> {
        self.send(request, NLM_F_ACK | flags)?;
        match self.receive()? {
            NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::Error::other("rtnetlink gave no acknowledgement")),
        }
    }

    fn send(&self, request: Request, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::io::retry_on_intr(|| send(&self.0, &bytes, SendFlags::empty()))?;
        Ok(())
    }

    fn receive(&self) -> io::Result<NetlinkPayload<Request>> {
        // What the kernel says about a link with its statistics; an acknowledgement of a failure repeats the request.
        let mut reply = vec![0; 32 << 10];
        let (_, length) =
            rustix::io::retry_on_intr(|| recv(&self.0, reply.as_mut_slice(), RecvFlags::empty()))?;
        let reply = reply.get(..length).unwrap_or_default();
        Ok(NetlinkMessage::<Request>::deserialize(reply).map_err(io::Error::other)?.payload)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use netlink_packet_core::DefaultNla;
    use nix::net::if_::InterfaceFlags;
    use nix::sched::{CloneFlags, setns, unshare};

    use super::*;
    use crate::sys::testing::in_child;

    fn new_netns() -> File {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    }

    fn plan(name: &str) -> Veth {
        let id = "0123456789abcdef0123456789abcdef".parse().unwrap();
        Veth::plan(&name.parse().unwrap(), Some(&id))
    }

    fn flags(name: &str) -> InterfaceFlags {
        nix::ifaddrs::getifaddrs().unwrap().find(|one| one.interface_name == name).unwrap().flags
    }

    fn mac(name: &str) -> [u8; 6] {
        let address =
            nix::ifaddrs::getifaddrs().unwrap().find(|one| one.interface_name == name).unwrap().address;
        address.unwrap().as_link_addr().unwrap().addr().unwrap()
    }

    #[test]
    fn a_pair_joins_two_namespaces_and_goes_with_its_guard() {
        in_child(|| {
            let machine = new_netns();
            let host = new_netns();
            let veth = plan("web");
            let guard = create_veth(&veth, machine.as_fd()).unwrap();
            assert_eq!(index_of("ve-web").unwrap(), Some(guard.index()));
            assert_eq!((guard.name(), exists("host0").unwrap()), ("ve-web", false));
            assert_eq!(mac("ve-web"), [0x3a, 0x23, 0x55, 0x9e, 0x93, 0x59]);
            assert!(!flags("ve-web").contains(InterfaceFlags::IFF_UP));
            guard.set_up().unwrap();
            assert!(flags("ve-web").contains(InterfaceFlags::IFF_UP));
            let again = create_veth(&veth, machine.as_fd()).unwrap_err();
            assert_eq!(again.raw_os_error(), Some(libc::EEXIST));

            setns(&machine, CloneFlags::CLONE_NEWNET).unwrap();
            assert_eq!(mac("host0"), [0xda, 0xfb, 0x5c, 0x16, 0x4a, 0xcc]);
            // The guard works on the namespace where the link was made, not on the one we are in now.
            guard.close().unwrap();
            assert!(!exists("host0").unwrap());
            setns(&host, CloneFlags::CLONE_NEWNET).unwrap();
            assert!(!exists("ve-web").unwrap());

            drop(create_veth(&veth, machine.as_fd()).unwrap());
            assert!(!exists("ve-web").unwrap());
            String::new()
        });
    }

    #[test]
    fn a_pair_that_another_has_made_is_dressed_as_the_host_had_it() {
        in_child(|| {
            let machine = new_netns();
            new_netns();
            let mut plain = plan("web");
            (plain.host.mac, plain.peer.mac) = (None, None);
            std::mem::forget(create_veth(&plain, machine.as_fd()).unwrap());
            let attire = Attire {
                addresses: vec![("10.9.0.1".parse().unwrap(), 24), ("fd09::1".parse().unwrap(), 64)],
                bridge: None,
            };
            let guard = adopt_veth(&plan("web"), &attire).unwrap();
            guard.set_up().unwrap();
            assert_eq!(super::super::attire::read("ve-web").unwrap(), attire);
            assert_eq!(mac("ve-web"), [0x3a, 0x23, 0x55, 0x9e, 0x93, 0x59]);
            guard.close().unwrap();
            assert!(!exists("ve-web").unwrap());
            let lost = Attire { bridge: Some("no-such-bridge".to_owned()), ..Attire::default() };
            std::mem::forget(create_veth(&plain, machine.as_fd()).unwrap());
            assert_eq!(adopt_veth(&plan("web"), &lost).unwrap_err().raw_os_error(), Some(libc::ENODEV));
            assert!(!exists("ve-web").unwrap(), "what was adopted goes with its guard");
            String::new()
        });
    }

    #[test]
    fn a_name_in_use_in_the_machine_leaves_nothing_on_the_host() {
        in_child(|| {
            let machine = new_netns();
            new_netns();
            let first = create_veth(&plan("web"), machine.as_fd()).unwrap();
            let second = create_veth(&plan("db"), machine.as_fd()).unwrap_err();
            assert_eq!(second.raw_os_error(), Some(libc::EEXIST));
            assert!(!exists("ve-db").unwrap());
            first.close().unwrap();
            String::new()
        });
    }

    #[test]
    fn a_link_that_is_gone_is_closed_without_complaint() {
        in_child(|| {
            let machine = new_netns();
            new_netns();
            let mut veth = plan("web");
            (veth.host.mac, veth.peer.mac) = (None, None);
            let guard = create_veth(&veth, machine.as_fd()).unwrap();
            assert_eq!(mac("ve-web")[0] & 3, 2);
            // Not signed yet, it could be anybody's.
            assert!(!delete_own("ve-web").unwrap());
            assert!(exists("ve-web").unwrap());
            guard.set_up().unwrap();
            assert!(delete_own("ve-web").unwrap());
            assert!(!exists("ve-web").unwrap());
            assert!(!delete_own("ve-web").unwrap());
            assert_eq!(guard.set_up().unwrap_err().raw_os_error(), Some(libc::ENODEV));
            guard.close().unwrap();
            String::new()
        });
    }

    #[test]
    fn a_shortened_link_has_its_full_name_too() {
        in_child(|| {
            let machine = new_netns();
            new_netns();
            let guard = create_veth(&plan("averyveryverylongname"), machine.as_fd()).unwrap();
            assert!(exists("ve-averyverUARo").unwrap());
            const IFLA_ALT_IFNAME: u16 = 53;
            let mut message = LinkMessage::default();
            let altname = b"ve-averyveryverylongname\0".to_vec();
            message.attributes.push(LinkAttribute::Other(DefaultNla::new(IFLA_ALT_IFNAME, altname)));
            guard.rtnl.call(Request::DelLink(message), 0).unwrap();
            assert!(!exists("ve-averyverUARo").unwrap());
            String::new()
        });
    }

    #[test]
    fn loopback_is_set_up() {
        in_child(|| {
            new_netns();
            assert!(!flags("lo").contains(InterfaceFlags::IFF_UP));
            loopback_up().unwrap();
            assert!(flags("lo").contains(InterfaceFlags::IFF_UP));
            String::new()
        });
    }
}
