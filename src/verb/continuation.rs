//! Where the clocks of a machine go on from that is about to run with `--clock=continue`.

use crate::clock::state::{self, HostBoot, State};
use crate::error::{Context, Error, Kind, Result};
use crate::machine::cannot_keep;
use crate::spec::{Keep, MachineSpec};

/// Has the clocks of a machine that keeps them go on from where they were.
///
/// # Errors
/// A file that cannot be used, or could not be written.
pub(super) fn continue_clocks(spec: &mut MachineSpec) -> Result<()> {
    let Keep::In(path) = &spec.clocks.keep else { return Ok(()) };
    state::check_place(path).map_err(|error| cannot_keep(path, &error))?;
    let kept = State::read(path).map_err(|error| {
        Error::new(Kind::Failed, format!("cannot continue the clocks in '{}'", path.display()))
            .because(&error)
            .hint("--clock=zero starts them anew; so does --clock=continue once the file is gone")
    })?;
    let host = HostBoot::read().context(|| "cannot read the host's clocks")?;
    spec.clocks.go_on(kept.map(|kept| kept.next(&host)));
    Ok(())
}
