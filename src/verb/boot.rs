//! Being written.

use crate::cli::Boot;
use crate::error::{Error, Kind, Result};

/// `osier boot`: the exit code to leave with.
///
/// # Errors
/// Whatever keeps the machine from running.
pub fn execute(_options: &Boot) -> Result<u8> {
    Err(Error::new(Kind::Failed, "cannot boot yet"))
}
