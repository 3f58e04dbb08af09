//! A launch plan as text: what `--dry-run` prints, and what the golden tests compare.

use std::fmt;

use super::{CgroupPlan, IdMap, KeptClocks, LaunchPlan, NetworkPlan};
use crate::duration;
use crate::mount::op::Access;
use crate::net::LinkEnd;
use crate::seccomp::Filter;
use crate::spec::{Checkpoints, First, Layer, Ownership, Program, Ready, Register, Root};

impl fmt::Display for LaunchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line =
            |f: &mut fmt::Formatter<'_>, key: &str, value: &dyn fmt::Display| writeln!(f, "{key:<14}{value}");
        line(f, "machine", &self.name)?;
        line(f, "id", &self.id.as_uuid())?;
        line(f, "hostname", &self.hostname)?;
        line(f, "namespaces", &self.namespaces)?;
        line(f, "id map", &self.id_map)?;
        let sign = |offset: i64| if offset < 0 { "" } else { "+" };
        let clock = |offset: i64| format!("host {}{}", sign(offset), duration::format(offset));
        line(f, "monotonic", &clock(self.clocks.monotonic))?;
        line(f, "boottime", &clock(self.clocks.boottime))?;
        if let Some(kept) = &self.kept_clocks {
            line(f, "clocks", kept)?;
        }
        line(f, "root", &self.root)?;
        for op in self.outer.iter().chain(&self.inside) {
            line(f, "outer", op)?;
        }
        line(f, "network", &self.network)?;
        line(f, "cgroup", &self.cgroup)?;
        for limit in self.limits.limits() {
            line(f, "limit", limit)?;
        }
        line(f, "register", &self.register)?;
        for op in &self.leader {
            line(f, "leader", op)?;
        }
        let of_host = if self.checkpoints == Checkpoints::Possible { ", a pty of the host's" } else { "" };
        line(f, "console", &format!("{}{of_host}", format!("{:?}", self.console).to_lowercase()))?;
        line(f, "capabilities", &self.confinement.capabilities.names().join(" "))?;
        if self.confinement.system_calls != Filter::None {
            line(f, "refused calls", &self.confinement.system_calls)?;
        }
        self.exec_lines(f)?;
        line(f, "shutdown by", &self.ways.stop)?;
        line(f, "power-off by", &self.ways.power_off)?;
        line(f, "reboot by", &self.ways.reboot)?;
        line(f, "ready", &self.ready)
    }
}

impl LaunchPlan {
    fn exec_lines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.exec.environment {
            writeln!(f, "{:<14}{key}={}", "environment", value.display())?;
        }
        writeln!(f, "{:<14}{}", "user", self.exec.user)?;
        if let Some(directory) = &self.exec.directory {
            writeln!(f, "{:<14}{}", "directory", directory.display())?;
        }
        match &self.exec.program {
            Program::Init { path, kind, arguments } => {
                write!(f, "{:<14}{}", "init", path.display())?;
                arguments.iter().try_for_each(|argument| write!(f, " {}", argument.display()))?;
                write!(f, "\n{:<14}{kind}", "init kind")?;
            }
            Program::Command { argv, first } => {
                write!(f, "{:<14}", if *first == First::Stub { "stub init and" } else { "command" })?;
                for (at, argument) in argv.iter().enumerate() {
                    write!(f, "{}{}", if at == 0 { "" } else { " " }, argument.display())?;
                }
            }
        }
        writeln!(f)
    }
}

impl fmt::Display for KeptClocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (monotonic, boottime) = (duration::format(self.monotonic), duration::format(self.boottime));
        write!(
            f,
            "go on from {monotonic} (monotonic) and {boottime} (boottime), kept in {}",
            self.path.display()
        )
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = if self.layer == Layer::Scratch { " under a throw-away layer" } else { "" };
        let access = if self.access == Access::ReadOnly { ", read-only" } else { "" };
        write!(f, "{}{layer}{access}", self.tree.display())
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("none: user and group IDs are the host's"),
            Self::Private { range, tree } => {
                write!(f, "0 is the host's {}, {} IDs", range.first(), range.count())?;
                f.write_str(match tree {
                    Ownership::AsItIs => "; the tree's files are theirs who have them",
                    Ownership::Mapped => "; the tree's files are mapped alike",
                    Ownership::Chowned => "; the tree's files become theirs",
                    Ownership::Auto => "; the tree's files become theirs or are mapped",
                })
            }
        }
    }
}

impl fmt::Display for NetworkPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host's"),
            Self::Loopback => f.write_str("loopback"),
            Self::Veth(veth) => {
                let mac = |end: &LinkEnd| end.mac.map_or_else(|| "random".to_owned(), |mac| mac.to_string());
                let (host, peer) = (&veth.host, &veth.peer);
                write!(f, "{} ({}) to {} ({})", host.name, mac(host), peer.name, mac(peer))
            }
        }
    }
}

impl fmt::Display for CgroupPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { mount, relative } => write!(f, "{}", mount.join(relative).display()),
            Self::Scope { slice, properties, .. } => {
                write!(f, "a scope in {slice}")?;
                properties
                    .iter()
                    .try_for_each(|property| write!(f, " {}={:?}", property.name(), property.value()))
            }
            Self::Keep { mount, relative } => write!(f, "{}, the unit's", mount.join(relative).display()),
        }
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yes => "with machined",
            Self::No => "no",
            Self::Auto => "with machined where it is there",
        })
    }
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtStart => "when the payload runs",
            Self::WhenPayloadSays => "when the payload says so",
        })
    }
}
