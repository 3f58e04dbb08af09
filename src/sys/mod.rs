//! The kernel: all of osier's unsafe code, and only the calls that neither nix nor rustix offers safely.
//!
//! One function is one system call; no policy, no retries but for EINTR, `io::Result` out.
#![expect(
    unsafe_code,
    reason = "this floor is where unsafe code lives; each block says why its call is sound"
)]

mod bounding;
mod close;
mod exec;
mod memory;
mod mount;
mod probe;
mod process;
mod seccomp;
mod signal;
#[cfg(test)]
pub mod testing;

pub use bounding::{drop_bounding, has_bounding};
pub use close::close_range;
pub use exec::{close_at_exec_from, set_default_action};
pub use memory::slim;
pub use mount::{MountAttributes, MountDepth, map_mount, mount_setattr};
pub use probe::{SYSTEM_CALLS, has_system_call};
pub use process::{Cloned, Forked, clone_child, clone_sibling, exit_now, fork, unshare_namespaces};
pub use seccomp::add_filter;
pub use signal::{pidfd_send_realtime, wait_signal};
