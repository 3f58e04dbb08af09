//! CRIU's images, as far as osier reads or changes them.

mod clocks;
pub(super) mod file;

pub use clocks::Clocks;
