//! What the record of a machine that can be saved tells who saves it.

use serde::{Deserialize, Serialize};

use crate::console::pty::Identity;
use crate::seccomp::Filter;

/// What a machine that can be saved leaves outside, and CRIU has to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Checkpointable {
    /// The terminal that is bound on its /dev/console.
    pub console: Identity,
}

impl Checkpointable {
    /// The system calls that are refused in a machine, as its record has it.
    pub fn filter(of: Option<Self>) -> Filter {
        if of.is_some() { Filter::Checkpointable } else { Filter::None }
    }
}
