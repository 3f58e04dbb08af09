//! `osier wait`: until machines have ended.

use super::target::{await_end, deadline, find_all, listed, quoted, watch};
use crate::cli::Wait;
use crate::error::{Error, Kind, Result};
use crate::machine::record::Store;

/// Waits until all machines named have ended; a reboot in place is no end.
///
/// # Errors
/// When a machine is not there, or runs still when the time is over.
pub fn execute(options: &Wait, store: &Store) -> Result<()> {
    let deadline = deadline(options.timeout.as_deref(), None)?;
    let targets = find_all(store, &options.names)?;
    let watch = watch(store, &targets)?;
    let left = await_end(store, &targets, watch, deadline, || Ok(()))?;
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Failed, format!("cannot wait any longer for {}", quoted(&left)))
        .because("still running when the time was over")
        .hint(format!("`osier poweroff {}` shuts down", listed(&left))))
}
