//! The kernel: all of osier's unsafe code, and only the calls that neither nix nor rustix offers safely.
//!
//! One function is one system call; no policy, no retries but for EINTR, `io::Result` out.
#![expect(
    unsafe_code,
    reason = "this floor is where unsafe code lives; each block says why its call is sound"
)]

mod bounding;
mod process;
#[cfg(test)]
pub mod testing;

pub use bounding::{drop_bounding, has_bounding};
pub use process::{Forked, fork};
