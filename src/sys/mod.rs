//! The kernel: all of osier's unsafe code, and only the calls that neither nix nor rustix offers safely.
//!
//! One function is one system call; no policy, no retries but for EINTR, `io::Result` out.
#![expect(
    unsafe_code,
    reason = "this floor is where unsafe code lives; each block says why its call is sound"
)]

mod close;
mod process;

pub use close::close_range;
pub use process::{Forked, exit_now, fork};
