//! Capabilities: which ones a machine may ever have (man 7 capabilities).
//!
//! A [`Set`] is kept by number, so that it can hold what the running kernel knows and this program does not.

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use ::caps::{CapSet, Capability};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::name;
use crate::sys;

/// A set of capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Set(u64);

/// A name that no capability has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownCapability {
    /// As it was given.
    pub name: String,
    /// A capability with a name close to it.
    pub close: Option<String>,
}

impl fmt::Display for UnknownCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no capability", self.name)?;
        match &self.close {
            Some(close) => write!(f, "; did you mean {close}?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for UnknownCapability {}

/// What systemd-nspawn leaves a container by default (man 1 systemd-nspawn, `--capability=`).
const NSPAWN_DEFAULT: [Capability; 26] = [
    Capability::CAP_AUDIT_CONTROL,
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_IPC_OWNER,
    Capability::CAP_KILL,
    Capability::CAP_LEASE,
    Capability::CAP_LINUX_IMMUTABLE,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_BROADCAST,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_BOOT,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SYS_NICE,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_RESOURCE,
    Capability::CAP_SYS_TTY_CONFIG,
];

/// Numbers that a set can hold: capget(2) has 64 bits.
const NUMBERS: std::ops::Range<u8> = 0..64;

impl Set {
    /// No capability at all.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// The 26 that systemd-nspawn leaves by default.
    pub fn nspawn_default() -> Self {
        Self(NSPAWN_DEFAULT.iter().fold(0, |bits, capability| bits | capability.bitmask()))
    }

    /// With CAP_NET_ADMIN, which a machine with a network namespace of its own gets as well.
    #[must_use]
    pub fn with_net_admin(self) -> Self {
        self.add(Self(Capability::CAP_NET_ADMIN.bitmask()))
    }

    /// All that the running kernel knows, /proc/sys/kernel/cap_last_cap; all that this program knows where that cannot be
    /// read.
    pub fn all() -> Self {
        let known = ::caps::all().iter().map(Capability::index).max().unwrap_or(0);
        let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(known);
        Self::up_to(last)
    }

    /// Every number from 0 to `last`.
    fn up_to(last: u8) -> Self {
        Self(NUMBERS.filter(|number| *number <= last).fold(0, |bits, number| bits | 1 << number))
    }

    /// A set from names with commas or spaces between them: `CAP_SYS_TIME`, `sys_time`, a number, `cap_41`, or `all`.
    ///
    /// # Errors
    /// [`UnknownCapability`] for the first name that none has.
    pub fn parse(text: &str) -> Result<Self, UnknownCapability> {
        text.split([',', ' ']).filter(|name| !name.is_empty()).try_fold(Self::empty(), |set, name| {
            Ok(set.add(if name.eq_ignore_ascii_case("all") { Self::all() } else { Self::parse_one(name)? }))
        })
    }

    fn parse_one(text: &str) -> Result<Self, UnknownCapability> {
        let upper = text.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let number = short.parse().ok().filter(|number| NUMBERS.contains(number));
        if let Some(number) = number {
            return Ok(Self(1 << number));
        }
        let full = format!("CAP_{short}");
        full.parse::<Capability>().map(|capability| Self(capability.bitmask())).map_err(|_| {
            let known: BTreeSet<String> = ::caps::all().iter().map(Capability::to_string).collect();
            UnknownCapability {
                name: text.to_owned(),
                close: name::similar(&full, known.iter().map(String::as_str)).map(str::to_owned),
            }
        })
    }

    /// This set and `other`.
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without `other`.
    #[must_use]
    pub const fn remove(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// The set with these bits, as /proc/PID/status shows them.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits, capability number N at `1 << N`, as /proc/PID/status shows them.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The names in the kernel's order, `CAP_CHOWN`; `cap_41` for a number that this program has no name for.
    pub fn names(self) -> Vec<String> {
        let known = known();
        let name = |number: u8| match known[usize::from(number)] {
            Some(capability) => capability.to_string(),
            None => format!("cap_{number}"),
        };
        self.numbers().map(name).collect()
    }

    fn numbers(self) -> impl Iterator<Item = u8> {
        NUMBERS.filter(move |number| self.0 & 1 << number != 0)
    }

    /// Holds the calling thread, and all that it will execute, to this set: every other capability leaves the bounding set;
    /// permitted and effective become what is left of them; inheritable and ambient become empty.
    ///
    /// The bounding set is first, because giving up a part of it takes CAP_SETPCAP. What the thread does not have in its
    /// own bounding set stays away: a bounding set never grows.
    ///
    /// # Errors
    /// `EPERM` when something is to leave the bounding set and CAP_SETPCAP is missing; what prctl(2) and capset(2) give.
    pub fn limit(self) -> io::Result<()> {
        let known = known();
        // Asked first, because without CAP_SETPCAP even the removal of what is not there fails.
        for number in Self(u64::MAX).remove(self).numbers() {
            match (sys::has_bounding(number), known[usize::from(number)]) {
                (Ok(false), _) => {}
                (Ok(true), Some(capability)) => {
                    ::caps::drop(None, CapSet::Bounding, capability).map_err(errno)?;
                }
                (Ok(true), None) => sys::drop_bounding(number)?,
                // The kernel's numbers have no gaps: it knows none from here on.
                (Err(error), _) if error.raw_os_error() == Some(libc::EINVAL) => break,
                (Err(error), _) => return Err(error),
            }
        }
        ::caps::clear(None, CapSet::Ambient).map_err(errno)?;
        ::caps::clear(None, CapSet::Inheritable).map_err(errno)?;
        let mut kept = ::caps::read(None, CapSet::Permitted).map_err(errno)?;
        kept.retain(|capability| self.0 & capability.bitmask() != 0);
        // Effective is a subset of permitted at every moment (man 2 capset), so it shrinks first.
        ::caps::set(None, CapSet::Effective, &kept).map_err(errno)?;
        ::caps::set(None, CapSet::Permitted, &kept).map_err(errno)
    }
}

/// From now on files that this process makes are those of `id`, a user and a group of the host's, and on a mount that is mapped to it
/// they can be made at all: the host's root has no ID there. What this process may do stays.
///
/// # Errors
/// What capset(2) gives.
pub fn make_files_as(id: u32) -> io::Result<()> {
    setfsgid(Gid::from_raw(id));
    setfsuid(Uid::from_raw(id));
    // With an ID other than 0 the capabilities that concern files are gone (man 7 capabilities, "Effect of user ID changes").
    let permitted = ::caps::read(None, CapSet::Permitted).map_err(errno)?;
    ::caps::set(None, CapSet::Effective, &permitted).map_err(errno)
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// The capabilities that this program has names for, by number.
fn known() -> [Option<Capability>; 64] {
    let mut known = [None; 64];
    for capability in ::caps::all() {
        known[usize::from(capability.index())] = Some(capability);
    }
    known
}

/// The errno in an error of the caps crate, which keeps it only in its text, as `… (os error 1)`.
fn errno(error: ::caps::errors::CapsError) -> io::Error {
    let text = error.to_string();
    let number = text.rsplit_once("(os error ").and_then(|(_, end)| end.strip_suffix(')')?.parse().ok());
    number.map_or_else(|| io::Error::other(text), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::in_child;

    fn set(text: &str) -> Set {
        Set::parse(text).unwrap()
    }

    #[test]
    fn the_default_is_nspawns() {
        let default = Set::nspawn_default();
        assert_eq!(default.names().len(), 26);
        // CapBnd in /proc/1/status of a container that systemd-nspawn runs with no option.
        assert_eq!(default.bits(), 0x0000_0000_fdec_afff);
        assert!(!default.contains(set("net_admin")));
        assert!(default.with_net_admin().contains(set("net_admin")));
    }

    #[test]
    fn names_are_read_in_every_form() {
        let time = 1 << 25;
        for text in ["CAP_SYS_TIME", "sys_time", "cap_sys_time", "25", "cap_25"] {
            assert_eq!(set(text).bits(), time, "{text}");
        }
        assert_eq!(set("chown, sys_time,,").names(), ["CAP_CHOWN", "CAP_SYS_TIME"]);
        assert_eq!(set("cap_63").names(), ["cap_63"]);
        assert_eq!(set(""), Set::empty());
        assert_eq!(set("ALL"), Set::all());
        assert_eq!(set("all").remove(set("sys_time")).add(set("sys_time")), Set::all());
        assert_eq!(Set::up_to(63).bits(), u64::MAX);
    }

    #[test]
    fn an_unknown_name_is_refused_with_a_close_one() {
        let error = Set::parse("chown,sys_tiem").unwrap_err();
        assert_eq!(error.to_string(), "'sys_tiem' is no capability; did you mean CAP_SYS_TIME?");
        assert_eq!(Set::parse("teleport").unwrap_err().to_string(), "'teleport' is no capability");
        assert!(Set::parse("64").is_err());
    }

    #[test]
    fn all_is_what_the_kernel_knows() {
        let all = Set::all();
        assert!(all.contains(Set::nspawn_default()) && all.contains(set("net_admin,sys_time")));
        assert_eq!(all.bits().trailing_ones() as usize, all.names().len());
    }

    /// CapInh, CapPrm, CapEff, CapBnd, CapAmb of this thread.
    fn status() -> Vec<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("Cap")?.split_once(":\t"));
        lines.map(|(_, bits)| u64::from_str_radix(bits, 16).unwrap()).collect()
    }

    #[test]
    fn a_limited_process_has_no_more_and_executes_no_more() {
        let before = status()[3];
        let limit = set("sys_admin,sys_time,sys_resource,setpcap");
        in_child(|| {
            ::caps::set(None, CapSet::Inheritable, &[Capability::CAP_SYS_ADMIN].into()).unwrap();
            ::caps::set(None, CapSet::Ambient, &[Capability::CAP_SYS_ADMIN].into()).unwrap();
            limit.limit().unwrap();
            let left = before & limit.bits();
            assert_eq!(status(), [0, left, left, left, 0]);
            let run =
                std::process::Command::new("grep").args(["CapEff", "/proc/self/status"]).output().unwrap();
            assert_eq!(String::from_utf8(run.stdout).unwrap().trim(), format!("CapEff:\t{left:016x}"));
            // A set that is not smaller needs no privilege: CAP_SETPCAP goes first, then the same again.
            let less = limit.remove(set("setpcap"));
            less.limit().unwrap();
            less.limit().unwrap();
            assert_eq!(Set::empty().limit().unwrap_err().raw_os_error(), Some(libc::EPERM));
            String::new()
        });
    }

    #[test]
    fn a_number_without_a_name_leaves_the_bounding_set_too() {
        in_child(|| {
            sys::drop_bounding(25).unwrap();
            assert_eq!(status()[3] & 1 << 25, 0);
            assert!(sys::has_bounding(7).unwrap() && !sys::has_bounding(25).unwrap());
            assert_eq!(sys::drop_bounding(63).unwrap_err().raw_os_error(), Some(libc::EINVAL));
            assert_eq!(sys::has_bounding(63).unwrap_err().raw_os_error(), Some(libc::EINVAL));
            String::new()
        });
    }
}
