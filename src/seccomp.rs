//! Filters of system calls: what a payload may not ask of the kernel (man 2 seccomp).
//!
//! A [`Filter`] is a list of [`Rule`]s, and [`assemble`](program) makes one program of it for every ABI through which the
//! kernel can be called: the machine's own, on x86-64 also i386 with numbers of its own, and x32, all of whose calls are
//! refused as by a kernel without it. One program with an answer of its own for each rule: seccompiler, the crate for this,
//! has one answer a program, kills what comes through another ABI, and does not see x32 at all.

mod calls;
mod program;

use std::fmt;
use std::io;

use crate::sys;
use calls::Call;

/// Which system calls are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filter {
    /// None.
    #[default]
    None,
    /// Those by which a process comes to hold what CRIU cannot save, or would lose without a word.
    Checkpointable,
}

/// A call that is refused.
#[derive(Debug, Clone, Copy)]
struct Rule {
    call: Call,
    when: When,
    /// What the caller is told.
    errno: i32,
}

/// On which arguments a rule looks; the first is number 0. Of each the lower 32 bits count, which is all that the kernel takes
/// of these calls' arguments.
#[derive(Debug, Clone, Copy)]
enum When {
    /// On none.
    Always,
    /// Any of these bits is set.
    AnyBit { argument: u8, bits: u32 },
    /// It is this one.
    Equal { argument: u8, value: u32 },
    /// It is none of these.
    NoneOf { argument: u8, values: &'static [u32] },
}

/// Namespaces of which CRIU saves the ones that the machine has and none inside it.
const NESTED: u32 = (libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWCGROUP) as u32
    | CLONE_NEWTIME;

/// linux/sched.h; with clone(2) the same bit is part of the signal's number.
const CLONE_NEWTIME: u32 = 0x80;

/// Of the families of sockets those that CRIU can save.
const FAMILIES: &[u32] = &[
    libc::AF_UNIX as u32,
    libc::AF_INET as u32,
    libc::AF_INET6 as u32,
    libc::AF_NETLINK as u32,
    libc::AF_PACKET as u32,
];

const fn refuse(call: Call, errno: i32) -> Rule {
    Rule { call, when: When::Always, errno }
}

const fn refuse_when(call: Call, when: When, errno: i32) -> Rule {
    Rule { call, when, errno }
}

/// Each with the answer that a kernel gives which cannot do it, or does not let this caller: programs know that one.
const CHECKPOINTABLE: &[Rule] = &[
    refuse(Call::Bpf, libc::EPERM),
    refuse(Call::FanotifyInit, libc::EPERM),
    refuse(Call::IoUringSetup, libc::EPERM),
    refuse(Call::PerfEventOpen, libc::EPERM),
    refuse(Call::Userfaultfd, libc::EPERM),
    refuse(Call::MemfdSecret, libc::ENOSYS),
    // Keys and rules are gone after a restore, without an error to anybody.
    refuse(Call::AddKey, libc::EPERM),
    refuse(Call::RequestKey, libc::EPERM),
    refuse(Call::Keyctl, libc::EPERM),
    refuse(Call::LandlockCreateRuleset, libc::EOPNOTSUPP),
    refuse_when(Call::Unshare, When::AnyBit { argument: 0, bits: NESTED }, libc::EPERM),
    refuse_when(Call::Clone, When::AnyBit { argument: 0, bits: NESTED & !CLONE_NEWTIME }, libc::EPERM),
    // Its flags are in memory, where a filter cannot look; who is told that there is none takes clone(2).
    refuse(Call::Clone3, libc::ENOSYS),
    refuse_when(Call::Socket, When::NoneOf { argument: 0, values: FAMILIES }, libc::EAFNOSUPPORT),
    refuse_when(Call::Socket, When::Equal { argument: 2, value: IPPROTO_MPTCP }, libc::EPROTONOSUPPORT),
    // PIDFD_THREAD.
    refuse_when(Call::PidfdOpen, When::AnyBit { argument: 1, bits: libc::O_EXCL as u32 }, libc::EINVAL),
];

/// linux/in.h; the same for IPv6.
const IPPROTO_MPTCP: u32 = 262;

impl Filter {
    fn rules(self) -> &'static [Rule] {
        match self {
            Self::None => &[],
            Self::Checkpointable => CHECKPOINTABLE,
        }
    }

    /// Holds the calling thread, and all that it starts and executes, to this filter. For good: nothing takes it off again.
    ///
    /// # Errors
    /// `EACCES` without CAP_SYS_ADMIN, which has to be given up after this; `EINVAL` on a kernel without filters.
    pub fn install(self) -> io::Result<()> {
        match self.rules() {
            [] => Ok(()),
            rules => sys::add_filter(&program::assemble(rules)),
        }
    }
}

/// What is refused, a word for each: `bpf`, `unshare(user|pid)`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rules().is_empty() {
            return f.write_str("none");
        }
        for (at, rule) in self.rules().iter().enumerate() {
            let gap = if at == 0 { "" } else { " " };
            match rule.when {
                When::Always => write!(f, "{gap}{}", rule.call)?,
                When::AnyBit { argument, bits } => write!(f, "{gap}{}({argument}&{bits:#x})", rule.call)?,
                When::Equal { argument, value } => write!(f, "{gap}{}({argument}={value})", rule.call)?,
                When::NoneOf { argument, values } => {
                    write!(f, "{gap}{}({argument}≠", rule.call)?;
                    for (at, value) in values.iter().enumerate() {
                        write!(f, "{}{value}", if at == 0 { "" } else { "," })?;
                    }
                    f.write_str(")")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
