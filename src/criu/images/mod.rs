//! CRIU's images, as far as osier reads or changes them.

mod clocks;
pub(super) mod file;
mod hierarchies;
mod pages;
mod parts;
mod timers;

pub use clocks::Clocks;
pub(super) use hierarchies::keep_unified;
pub use pages::{Aside, MOST, Pages, page};
pub use timers::{Delay, delay_timers, file_time};
