//! Being written.

use crate::cli::Run;
use crate::error::{Error, Kind, Result};

/// `osier run`: the exit code to leave with.
///
/// # Errors
/// Whatever keeps the command from running.
pub fn execute(_options: &Run) -> Result<u8> {
    Err(Error::new(Kind::Failed, "cannot run yet"))
}
