//! `osier run`: one command in a machine of its own.

use crate::cli::Run;
use crate::error::{Error, Kind, Result};
use crate::image::{FoundInit, Image, Tree};
use crate::settings::Setting;

use super::{lifetime, said, sweep};

/// `osier run`: the exit code to leave with.
///
/// # Errors
/// Whatever keeps the command from running.
pub fn execute(options: &Run) -> Result<u8> {
    let mut settings = said::settings(&options.options, &options.command);
    settings.process_two = options.as_pid2.then(|| Setting::flag("--as-pid2", "yes"));
    match &options.sweep.clock_sweep {
        Some(list) => sweep::execute(options, list, &settings),
        None => lifetime::live(&options.tree, &settings, &options.options.invocation, look),
    }
    .map_err(|error| error.within(format!("cannot run in '{}'", options.tree.display())))
}

/// Whether a command can run in the tree; it has no init that counts.
pub(super) fn look(image: &Image, tree: &Tree) -> Result<Option<FoundInit>> {
    let path = image.path.display();
    match tree.is_runnable() {
        Ok(true) => Ok(None),
        Ok(false) => {
            Err(Error::new(Kind::Failed, format!("'{path}' is not a tree that a command can run in"))
                .because("it has neither usr nor bin"))
        }
        Err(error) => Err(Error::io(format!("cannot look into '{path}'"), &error)),
    }
}
