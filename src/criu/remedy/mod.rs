//! CRIU's defects and what is done about each, with the versions that have it.
//!
//! Two concern system calls of CRIU's own that this kernel, or this host's root, refuses, though the answer is known. No filter of seccomp(2)
//! may answer them: under one of its own, CRIU is not allowed to suspend its tasks' filters (ptrace(2),
//! `PTRACE_O_SUSPEND_SECCOMP`). They are answered by a debugger's means instead ([`super::interception`]). The others are mended in
//! the images ([`executable`], [`nexthop`], [`sharing`]).

mod executable;
mod nexthop;
mod sharing;

use std::io;
use std::path::Path;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket, sockopt};

use super::Version;

/// Something that CRIU does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defect {
    /// It asks sockets of every family for SO_PASSCRED and SO_PASSSEC, which Linux 6.16 and later have for those alone
    /// that can carry them (AF_UNIX, AF_NETLINK): no tree with an inet socket can be dumped.
    PassCredentials,
    /// It reads resource limits by prlimit(2), for which tasks of other users need CAP_SYS_RESOURCE; /proc/PID/limits has them
    /// for everybody. (A container's root often lacks the capability.)
    ForeignLimits,
    /// A task that holds its own program by an O_PATH descriptor, as systemd's `(sd-pam)` does, gets that
    /// descriptor for its executable at restore: `PR_SET_MM_MAP` fails with EBADF.
    PathExecutable,
    /// Routes by nexthop objects are saved with the objects' numbers and cannot be restored.
    NexthopNumbers,
    /// Slaves of one peer group that have no root in common are saved and cannot be restored.
    SlavesOfDifferentRoots,
}

impl Defect {
    /// Whether this version has it.
    fn concerns(self, version: Version) -> bool {
        match self {
            Self::PassCredentials => version < Version::new(4, 2, 0),
            // Up to 4.2, the newest at the time of writing.
            Self::ForeignLimits
            | Self::PathExecutable
            | Self::NexthopNumbers
            | Self::SlavesOfDifferentRoots => true,
        }
    }

    /// Whether it can be met here: by trying, not by the kernel's version.
    fn is_met(self) -> bool {
        match self {
            Self::PassCredentials => {
                let udp = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
                udp.is_ok_and(|udp| getsockopt(&udp, sockopt::PassCred) == Err(Errno::EOPNOTSUPP))
            }
            Self::ForeignLimits => {
                !caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).unwrap_or(true)
            }
            Self::PathExecutable | Self::NexthopNumbers | Self::SlavesOfDifferentRoots => true,
        }
    }
}

/// The defects that a dump with this version would meet in CRIU's own system calls.
pub(super) fn in_system_calls(version: Version) -> Vec<Defect> {
    let both = [Defect::PassCredentials, Defect::ForeignLimits];
    both.into_iter().filter(|defect| defect.concerns(version) && defect.is_met()).collect()
}

/// Mends the images of a dump that this version has made.
///
/// # Errors
/// What reading and writing them gives; `InvalidData` for what are no images.
pub(super) fn mend_images(version: Version, images: &Path) -> io::Result<()> {
    if Defect::PathExecutable.concerns(version) {
        executable::mend(images)?;
    }
    if Defect::NexthopNumbers.concerns(version) {
        nexthop::mend(images)?;
    }
    if Defect::SlavesOfDifferentRoots.concerns(version) {
        sharing::mend(images)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defect_has_its_versions() {
        for (defect, debian, later) in [
            (Defect::PassCredentials, true, false),
            (Defect::ForeignLimits, true, true),
            (Defect::PathExecutable, true, true),
            (Defect::NexthopNumbers, true, true),
            (Defect::SlavesOfDifferentRoots, true, true),
        ] {
            assert_eq!(defect.concerns(Version::new(4, 1, 1)), debian, "{defect:?}");
            assert_eq!(defect.concerns(Version::new(4, 2, 0)), later, "{defect:?}");
        }
    }
}
