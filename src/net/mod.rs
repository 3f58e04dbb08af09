//! A machine's network: a virtual Ethernet link between the host and the machine's network namespace.
//!
//! Names and MAC addresses are systemd-nspawn's, because systemd-networkd's own 80-container-ve.network (host) and
//! 80-container-host0.network (machine) match on them. [`Veth::plan`] decides, [`create_veth`] acts. Addresses, routes and
//! bringing the ends up are the business of whoever configures networks on each side.

pub mod addresses;
pub mod attire;
mod ifname;
mod link;
mod mac;

use std::fmt;

pub use ifname::for_machine as host_ifname;
pub use link::{
    VethGuard, adopt_veth, create_veth, delete_own, exists, loopback_up, lower, raise, raise_again,
    set_address,
};
pub use mac::Mac;

use crate::ids::MachineId;
use crate::name::MachineName;

/// One end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEnd {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its alternative name, where the name had to be shortened.
    pub altname: Option<String>,
    /// Its MAC address; none lets the kernel draw a random, locally administered one.
    pub mac: Option<Mac>,
}

/// A virtual Ethernet pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    /// The end on the host, `ve-NAME`.
    pub host: LinkEnd,
    /// The end in the machine, `host0`.
    pub peer: LinkEnd,
}

impl Veth {
    /// The pair that systemd-nspawn's `--network-veth` makes for `machine` on the host with `host_id`.
    ///
    /// MAC addresses follow from both, so that they stay the same from boot to boot; without a host ID they are random.
    pub fn plan(machine: &MachineName, host_id: Option<&MachineId>) -> Self {
        let (name, altname) = ifname::for_machine(machine);
        let mac = |end| host_id.map(|id| Mac::derive(end, id, machine));
        Self {
            host: LinkEnd { name, altname, mac: mac(mac::End::Host) },
            peer: LinkEnd { name: "host0".to_owned(), altname: None, mac: mac(mac::End::Machine) },
        }
    }
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(altname) = &self.altname {
            write!(f, " ({altname})")?;
        }
        match self.mac {
            Some(mac) => write!(f, " {mac}"),
            None => f.write_str(" random MAC"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What systemd-nspawn 252 made with this machine ID in /etc/machine-id.
    #[test]
    fn the_plan_is_what_nspawn_makes() {
        let id: MachineId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        for (name, host, peer) in [
            ("web", "ve-web 3a:23:55:9e:93:59", "host0 da:fb:5c:16:4a:cc"),
            (
                "averyveryverylongname",
                "ve-averyverUARo (ve-averyveryverylongname) 7a:46:83:66:ea:ce",
                "host0 7e:a4:92:e3:31:f6",
            ),
        ] {
            let veth = Veth::plan(&name.parse().unwrap(), Some(&id));
            assert_eq!((veth.host.to_string().as_str(), veth.peer.to_string().as_str()), (host, peer));
        }
        let veth = Veth::plan(&"web".parse().unwrap(), None);
        assert_eq!(veth.peer.to_string(), "host0 random MAC");
    }
}
