//! How a machine's first process is asked to go down.

use super::Facts;
use crate::error::Result;
use crate::image::{Shutdown, Way};
use crate::settings::Setting;
use crate::signal::Signal;

/// One way for each thing that the supervisor asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// When the supervisor is asked to end.
    pub stop: Way,
    /// To power off.
    pub power_off: Way,
    /// To reboot.
    pub reboot: Way,
}

pub(super) fn resolve(kill_signal: Option<&Setting>, facts: &Facts) -> Result<Ways> {
    let said = kill_signal
        .map(|setting| setting.text.parse().map(Way::Signal).map_err(|reason| setting.refuse(reason)))
        .transpose()?;
    let Some(init) = facts.init.as_ref().map(|found| found.init) else {
        // A command that runs as PID 1 knows no way to shut down but its end.
        let end = said.unwrap_or(Way::Signal(Signal::KILL));
        return Ok(Ways { stop: end, power_off: end, reboot: end });
    };
    let stop = said.unwrap_or_else(|| init.way(Shutdown::Halt));
    Ok(Ways { stop, power_off: init.way(Shutdown::PowerOff), reboot: init.way(Shutdown::Reboot) })
}
