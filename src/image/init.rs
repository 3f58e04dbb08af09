//! Which init a tree has, and what each init takes for a request to go down.
//!
//! Nothing of the tree is executed to find out. Where an init documents a signal that does what is asked, the signal is
//! used: it needs neither a shell nor a socket inside. In a pid namespace the end of a halt and of a power-off is the same
//! (man 2 reboot): the machine is over.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::signal::Signal;

/// So much of a program is looked through, in bytes: twice the largest busybox.
const LOOKED_THROUGH: u64 = 4 << 20;

/// Which family an init belongs to, so far as that changes what it is asked and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// systemd; tells `NOTIFY_SOCKET` when it is ready, has a bus.
    Systemd,
    /// sysvinit's init.
    SysV,
    /// OpenRC's openrc-init. (OpenRC started by another init is that init's.)
    OpenRc,
    /// runit.
    Runit,
    /// busybox's init.
    BusyBox,
    /// finit.
    Finit,
    /// dinit.
    Dinit,
    /// s6-svscan, with or without s6-linux-init.
    S6,
    /// Anything else; taken to know what systemd's CONTAINER_INTERFACE asks for, until it is known to do otherwise.
    #[serde(other)]
    Other,
}

/// What an init can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shutdown {
    /// To stop everything and switch the machine off.
    PowerOff,
    /// To stop everything.
    Halt,
    /// To stop everything and start anew.
    Reboot,
    /// What it does at the three keys, mostly a reboot; what it is set up to do, if anything.
    CtrlAltDel,
}

/// How an init is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By this signal to PID 1.
    Signal(Signal),
    /// By this command, run inside as root; the program is looked up in PATH.
    Command(&'static [&'static str]),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "{signal}"),
            Self::Command(argv) => f.write_str(&argv.join(" ")),
        }
    }
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Systemd => "systemd",
            Self::SysV => "sysv",
            Self::OpenRc => "openrc",
            Self::Runit => "runit",
            Self::BusyBox => "busybox",
            Self::Finit => "finit",
            Self::Dinit => "dinit",
            Self::S6 => "s6",
            Self::Other => "other",
        })
    }
}

impl Init {
    /// All that there are.
    pub const ALL: [Self; 9] = [
        Self::Systemd,
        Self::SysV,
        Self::OpenRc,
        Self::Runit,
        Self::BusyBox,
        Self::Finit,
        Self::Dinit,
        Self::S6,
        Self::Other,
    ];

    /// How it is asked for `wanted`.
    pub fn way(self, wanted: Shutdown) -> Way {
        use Shutdown::{CtrlAltDel, Halt, PowerOff, Reboot};
        match (self, wanted) {
            // man 1 systemd, "Signals".
            (Self::Systemd | Self::Other, Halt) => Way::Signal(Signal::realtime(3)),
            (Self::Systemd | Self::Other, PowerOff) => Way::Signal(Signal::realtime(4)),
            (Self::Systemd | Self::Other, Reboot) => Way::Signal(Signal::realtime(5)),
            // man 8 init (sysvinit): of signals it knows SIGINT, which is worth what inittab(5) makes of it.
            (Self::SysV, PowerOff | Halt) => Way::Command(&["telinit", "0"]),
            (Self::SysV, Reboot) => Way::Command(&["telinit", "6"]),
            // man 8 runit-init. Not by SIGCONT and SIGINT (man 8 runit): what they do hangs on the modes of two files, and
            // Debian's ctrlaltdel powers off.
            (Self::Runit, PowerOff | Halt) => Way::Command(&["init", "0"]),
            (Self::Runit, Reboot) => Way::Command(&["init", "6"]),
            // dispatch_signal() in openrc-init.c; dinit(8), "SIGNALS".
            (Self::OpenRc | Self::Dinit, PowerOff | Halt) => Way::Signal(Signal::TERM),
            // init.c of busybox.
            (Self::BusyBox, Halt) => Way::Signal(Signal::USR1),
            (Self::BusyBox, PowerOff) => Way::Signal(Signal::USR2),
            (Self::BusyBox, Reboot) => Way::Signal(Signal::TERM),
            // man 8 initctl. Not by its signals (signals.md): one that comes while it boots is lost.
            (Self::Finit, PowerOff | Halt) => Way::Command(&["initctl", "poweroff"]),
            (Self::Finit, Reboot) => Way::Command(&["initctl", "reboot"]),
            // s6-linux-init-maker.c, .s6-svscan/SIG*. A bare s6-svscan has only what the tree gives it.
            (Self::S6, PowerOff) => Way::Signal(Signal::USR1),
            (Self::S6, Halt) => Way::Signal(Signal::USR2),
            // The kernel's signal for the three keys (man 2 reboot, LINUX_REBOOT_CMD_CAD_OFF), and all that some need.
            (Self::OpenRc | Self::Dinit | Self::S6, Reboot) | (_, CtrlAltDel) => Way::Signal(Signal::INT),
        }
    }

    /// Whether it says READY=1 on `NOTIFY_SOCKET`.
    pub fn tells_ready(self) -> bool {
        self == Self::Systemd
    }

    /// What the program `found` is, an `O_PATH` descriptor of a regular file. /sbin/init is a symlink to the real init nearly
    /// everywhere: the name of what it leads to tells. Where it does not, what is in it does.
    ///
    /// # Errors
    /// What open(2) and read(2) give.
    pub(super) fn of_program(found: &OwnedFd) -> io::Result<Self> {
        let magic = format!("/proc/self/fd/{}", found.as_raw_fd());
        let path = std::fs::read_link(&magic)?;
        if let Some(init) = path.file_name().and_then(|name| Self::by_name(name.to_str()?)) {
            return Ok(init);
        }
        let mut text = Vec::new();
        File::open(magic)?.take(LOOKED_THROUGH).read_to_end(&mut text)?;
        Ok(if text.starts_with(b"#!") { Self::of_script(&text) } else { Self::of_binary(&text) })
    }

    fn by_name(name: &str) -> Option<Self> {
        match name {
            "systemd" => Some(Self::Systemd),
            "openrc-init" => Some(Self::OpenRc),
            "runit" | "runit-init" => Some(Self::Runit),
            "busybox" | "busybox.static" => Some(Self::BusyBox),
            "finit" => Some(Self::Finit),
            "dinit" => Some(Self::Dinit),
            "s6-svscan" | "s6-linux-init" => Some(Self::S6),
            _ => None,
        }
    }

    /// A script that becomes an init names it in a command.
    fn of_script(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let commands = text.lines().map(|line| line.split_once('#').map_or(line, |(command, _)| command));
        let mut words = commands.flat_map(|line| line.split([' ', '\t', '"', '\'']));
        let named = words.find_map(|word| Self::by_name(word.rsplit('/').next().unwrap_or(word)));
        named.unwrap_or(Self::Other)
    }

    /// A program that was renamed, or has no name but `init`, says what it is when it is asked for its version.
    fn of_binary(text: &[u8]) -> Self {
        let marks: [(&[u8], Self); 4] = [
            (b"SysV init version", Self::SysV),
            (b"OpenRC init version", Self::OpenRc),
            (b"/etc/runit/stopit", Self::Runit),
            (b"BusyBox v", Self::BusyBox),
        ];
        let has = |mark: &[u8]| text.windows(mark.len()).any(|part| part == mark);
        marks.into_iter().find(|(mark, _)| has(mark)).map_or(Self::Other, |(_, init)| init)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_is_known_by_its_words() {
        assert_eq!(Init::of_binary(b"\x7fELF..SysV init version: %s.."), Init::SysV);
        assert_eq!(Init::of_binary(b"\x7fELF..BusyBox v1.37.0"), Init::BusyBox);
        assert_eq!(Init::of_binary(b"\x7fELF"), Init::Other);
        assert_eq!(Init::of_script(b"#!/bin/sh\ncp -R a b\nexec s6-svscan /run/service\n"), Init::S6);
        assert_eq!(
            Init::of_script(b"#!/bin/execlineb -S0\n\n/bin/s6-linux-init -c /etc -- \"$@\"\n"),
            Init::S6
        );
        // Who interprets it, and what a comment speaks of, is not what it becomes.
        assert_eq!(Init::of_script(b"#!/bin/busybox sh\n# not runit\nsleep 1\n"), Init::Other);
    }

    #[test]
    fn its_word_in_a_record_is_its_name() {
        for init in Init::ALL {
            assert_eq!(serde_json::to_string(&init).unwrap(), format!("\"{init}\""));
        }
        // What a later osier writes.
        assert_eq!(serde_json::from_str::<Init>("\"novel\"").unwrap(), Init::Other);
    }

    #[test]
    fn who_does_not_know_a_signal_is_asked_by_a_command() {
        assert_eq!(Init::Systemd.way(Shutdown::Halt).to_string(), "SIGRTMIN+3");
        assert_eq!(Init::SysV.way(Shutdown::Halt).to_string(), "telinit 0");
        assert_eq!(Init::BusyBox.way(Shutdown::Reboot), Way::Signal(Signal::TERM));
        assert_eq!(Init::Runit.way(Shutdown::CtrlAltDel), Way::Signal(Signal::INT));
    }
}
