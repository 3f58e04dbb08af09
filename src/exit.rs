//! Exit codes (DESIGN §7) and how a payload ended.

use serde::{Deserialize, Serialize};

/// osier's own failure in a verb that relays a status (`run`, `shell`, `boot`).
pub const OWN_FAILURE: u8 = 125;
/// The command inside cannot be executed.
pub const CANNOT_EXECUTE: u8 = 126;
/// The command inside is not there.
pub const NOT_FOUND: u8 = 127;
/// The payload asked for a reboot and the unit is to do it (`RestartForceExitStatus=133`).
pub const REBOOT: u8 = 133;
/// Wrong usage.
pub const USAGE: u8 = 2;

/// How a machine's leader ended, as `reboot(2)` in a pid namespace and `waitid(2)` tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It exited with this status.
    Exited(i32),
    /// A signal that did not come from `reboot(2)` killed it.
    Killed(i32),
    /// `reboot(RB_POWER_OFF)` or `reboot(RB_HALT_SYSTEM)`: the kernel reports SIGINT (man 2 reboot).
    PoweredOff,
    /// `reboot(RB_AUTOBOOT)`: the kernel reports SIGHUP (man 2 reboot).
    Rebooted,
    /// It was killed on purpose: a checkpoint of it was made, from which it goes on.
    Saved,
}

impl Ended {
    /// The exit code that osier relays for it.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(status) => u8::try_from(status & 0xff).unwrap_or(OWN_FAILURE),
            Self::Killed(signal) => u8::try_from(128 + (signal & 0x7f)).unwrap_or(OWN_FAILURE),
            Self::PoweredOff | Self::Saved => 0,
            Self::Rebooted => REBOOT,
        }
    }
}
