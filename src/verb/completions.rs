//! `osier completions`: a shell's completion script, from the one definition of the command line.

use clap::CommandFactory;

use crate::cli::{Cli, Completions};
use crate::error::Result;

/// Prints the script.
///
/// # Errors
/// When standard output cannot be written to.
pub fn execute(options: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "osier", &mut script);
    super::print(&String::from_utf8_lossy(&script))
}
