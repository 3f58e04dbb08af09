//! Being written.

pub mod image;
