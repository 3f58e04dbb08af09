//! `osier completions`: a script that lets a shell complete osier's command line, by asking osier.

use clap::ValueEnum;

use crate::cli::{Completions, complete};
use crate::error::{Context, Result};

/// Prints the script.
///
/// # Errors
/// When standard output cannot be written to.
pub fn execute(options: &Completions) -> Result<()> {
    let shell = options.shell.to_possible_value();
    let shell = shell.as_ref().map_or("", |shell| shell.get_name());
    let script =
        complete::script(shell).context(|| format!("cannot complete the command line of '{shell}'"))?;
    super::print(&String::from_utf8_lossy(&script))
}
