//! What the host has made of its end of a machine's link: addresses and a bridge. osier leaves that to whoever configures
//! networks there; but the link of a machine that goes on from a checkpoint is another one, and connections through it are to
//! go on before anybody has looked.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use serde::{Deserialize, Serialize};

/// The host's end of a link, as it is set up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attire {
    /// Its addresses with the lengths of their prefixes; the link-local IPv6 one follows from its MAC address and is not here.
    #[serde(default)]
    pub addresses: Vec<(IpAddr, u8)>,
    /// The bridge that it is a port of.
    #[serde(default)]
    pub bridge: Option<String>,
}

/// That of the link `name` in the caller's network namespace.
///
/// # Errors
/// What getifaddrs(3) gives.
pub fn read(name: &str) -> io::Result<Attire> {
    let own = getifaddrs()?.filter(|one| one.interface_name == name);
    let addresses = own.filter_map(|one| Some((ip(&one.address?)?, prefix(ip(&one.netmask?)?))));
    let master = fs::read_link(Path::new("/sys/class/net").join(name).join("master")).ok();
    Ok(Attire {
        addresses: addresses.filter(|(address, _)| !is_link_local(address)).collect(),
        bridge: master.and_then(|master| Some(master.file_name()?.to_str()?.to_owned())),
    })
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let four = address.as_sockaddr_in().map(|four| IpAddr::from(four.ip()));
    four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::from(six.ip())))
}

/// The ones that a mask begins with.
fn prefix(mask: IpAddr) -> u8 {
    let ones = match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    u8::try_from(ones).unwrap_or(u8::MAX)
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(six) if six.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_the_length_of_a_prefix() {
        for (mask, length) in
            [("255.255.255.0", 24), ("0.0.0.0", 0), ("255.255.255.255", 32), ("ffff:ffff::", 32)]
        {
            assert_eq!(prefix(mask.parse().unwrap()), length, "{mask}");
        }
    }

    #[test]
    fn a_link_that_is_not_there_has_nothing() {
        assert_eq!(read("no-such-link").unwrap(), Attire::default());
    }
}
