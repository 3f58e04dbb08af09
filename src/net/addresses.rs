//! The addresses of another process's network namespace, read through /proc: no setns(2), no netlink.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;

/// The addresses of the network namespace of `pid` but the loopback's: IPv4 first, then IPv6, link-local ones last. None
/// when it shares the caller's network namespace: those addresses are the host's.
///
/// # Errors
/// `ENOENT` when there is no such process, `EACCES` when the caller may not look.
pub fn read(pid: u32) -> io::Result<Vec<IpAddr>> {
    let namespace = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/net")).map(|namespace| namespace.ino());
    if namespace(&pid.to_string())? == namespace("self")? {
        return Ok(Vec::new());
    }
    let four = fs::read_to_string(format!("/proc/{pid}/net/fib_trie"))?;
    // Not there when the kernel runs without IPv6.
    let six = fs::read_to_string(format!("/proc/{pid}/net/if_inet6")).unwrap_or_default();
    Ok(parse_v4(&four)
        .into_iter()
        .map(IpAddr::from)
        .chain(parse_v6(&six).into_iter().map(IpAddr::from))
        .collect())
}

/// The leaves of /proc/net/fib_trie that the kernel routes to itself.
fn parse_v4(text: &str) -> BTreeSet<Ipv4Addr> {
    let mut found = BTreeSet::new();
    let mut leaf = None;
    for line in text.lines().map(str::trim) {
        match line.strip_prefix("|-- ") {
            Some(address) => leaf = address.parse::<Ipv4Addr>().ok(),
            None if line == "/32 host LOCAL" => found.extend(leaf.filter(|address| !address.is_loopback())),
            None => {}
        }
    }
    found
}

/// The lines of /proc/net/if_inet6: address, interface, prefix length, scope (net/ipv6/addrconf.c: if6_seq_show), ….
fn parse_v6(text: &str) -> Vec<Ipv6Addr> {
    let mut found: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let address = Ipv6Addr::from(u128::from_str_radix(fields.next()?, 16).ok()?);
            let scope = u8::from_str_radix(fields.nth(2)?, 16).ok()?;
            (!address.is_loopback()).then_some((scope, address))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|(_, address)| address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_routes_to_itself_is_an_address() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
            Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.2\n        /32 host LOCAL\n     |-- 10.0.0.3\n        \
            /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(parse_v4(text).into_iter().collect::<Vec<_>>(), [Ipv4Addr::new(10, 0, 0, 2)]);
    }

    #[test]
    fn link_local_addresses_come_last() {
        let text = "fe800000000000005054fffe00000001 02 40 20 80    host0\n\
            00000000000000000000000000000001 01 80 10 80       lo\n\
            fd000000000000000000000000000002 02 40 00 80    host0\n";
        let expected: Vec<Ipv6Addr> =
            vec!["fd00::2".parse().unwrap(), "fe80::5054:fffe:0:1".parse().unwrap()];
        assert_eq!(parse_v6(text), expected);
    }

    #[test]
    fn the_hosts_addresses_are_not_the_machines() {
        assert_eq!(read(std::process::id()).unwrap(), Vec::<IpAddr>::new());
    }
}
