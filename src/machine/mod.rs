//! A machine being alive.

pub mod record;
