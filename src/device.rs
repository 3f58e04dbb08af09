//! The device nodes that a machine may have (CONTAINER_INTERFACE, Execution Environment; Documentation/admin-guide/devices.txt).

/// A character device that every machine gets: name below /dev, major, minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Path below /dev.
    pub name: &'static str,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
}

/// The nodes of systemd's interface, and the two that systemd-nspawn gives too: tun and fuse are safe in a machine, as
/// both act within namespaces.
pub const ALLOWED: [Device; 8] = [
    Device { name: "null", major: 1, minor: 3 },
    Device { name: "zero", major: 1, minor: 5 },
    Device { name: "full", major: 1, minor: 7 },
    Device { name: "random", major: 1, minor: 8 },
    Device { name: "urandom", major: 1, minor: 9 },
    Device { name: "tty", major: 5, minor: 0 },
    Device { name: "fuse", major: 10, minor: 229 },
    Device { name: "net/tun", major: 10, minor: 200 },
];

/// The links that every /dev has: path, and where it leads.
pub const LINKS: [(&str, &str); 6] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
    ("/dev/ptmx", "pts/ptmx"),
];
