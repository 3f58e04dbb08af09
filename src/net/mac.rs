//! The MAC addresses of a machine's link, by systemd-nspawn's rule (`generate_mac()`, src/nspawn/nspawn-network.c).

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::ids::MachineId;
use crate::name::MachineName;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac([u8; 6]);

/// Which end of the link an address is for: each has its own hash key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The host's.
    Host,
    /// The machine's.
    Machine,
}

impl End {
    fn key(self) -> [u8; 16] {
        match self {
            Self::Host => 0x1a37_6fc7_46ec_450b_ada3_d531_0660_5db1_u128,
            Self::Machine => 0xc3c4_f919_b557_b21c_e6cf_1427_039c_eea2_u128,
        }
        .to_be_bytes()
    }
}

impl Mac {
    /// The address of `end` of the link to `machine` on the host with `host_id`.
    pub(super) fn derive(end: End, host_id: &MachineId, machine: &MachineName) -> Self {
        let mut hasher = SipHasher24::new_with_key(&end.key());
        hasher.write(host_id.bytes());
        hasher.write(machine.as_str().as_bytes());
        let [a, b, c, d, e, f, ..] = hasher.finish().to_le_bytes();
        // Not a group address, and locally administered (IEEE 802).
        Self([a & 0xfe | 0x02, b, c, d, e, f])
    }

    /// The six bytes in the order in which they are sent.
    pub const fn bytes(&self) -> &[u8; 6] {
        &self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}
