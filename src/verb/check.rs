//! `osier check`.
use crate::cli::Check;
use crate::error::Result;
/// x
///
/// # Errors
/// x
pub fn execute(_options: &Check) -> Result<u8> {
    Ok(0)
}
