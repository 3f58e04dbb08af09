//! osier boots a full OS tree as a machine: its own init as PID 1 in private pid, mount, uts, ipc, net, cgroup and time
//! namespaces, a delegated cgroup subtree, a registration with systemd-machined, its console on the user's terminal.
//!
//! This page is the architecture: floors from the top down, arrows only downward. Follow one verb:
//! `verb::boot` parses → [`settings`] → [`spec`] → [`plan`] (decide) → [`launch`] (do) → [`machine`] (live and end).

// Floor 5: what people type.
pub mod cli;
pub mod verb;

// Floor 4: a machine being alive.
pub mod launch;
pub mod machine;
pub mod session;

// Floor 3: deciding; pure, what it needs to know is handed in.
pub mod plan;
pub mod settings;
pub mod spec;

// Floor 2: subjects, one noun of the kernel or the bus each; they know nothing of machines' settings.
pub mod bus;
pub mod caps;
pub mod cgroup;
pub mod checkpoint;
pub mod clock;
pub mod console;
pub mod criu;
pub mod device;
pub mod exec;
pub mod host;
pub mod idmap;
pub mod image;
pub mod migration;
pub mod mount;
pub mod namespace;
pub mod net;
pub mod notify;
pub mod seccomp;
pub mod transfer;
pub mod user;

// Floor 1: values.
pub mod duration;
pub mod error;
pub mod exit;
pub mod idrange;
pub mod ids;
pub mod interrupt;
pub mod lease;
pub mod lockfile;
pub mod name;
pub mod signal;
pub mod size;
#[cfg(test)]
pub mod testdir;
pub mod wire;
pub mod xattr;

// Floor 0: the kernel; all unsafe code.
pub mod sys;
