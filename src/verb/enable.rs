//! `osier enable` and `osier disable`: machines that boot with the host, by osier@NAME.service and machines.target.

use super::start::image_names;
use crate::bus::{BusError, systemd, units};
use crate::cli::Enable;
use crate::error::{Error, Kind, Result};

/// What is enabled together with the machines, as machinectl does: nothing else would start them at boot.
const TARGET: &str = "machines.target";

/// Has machines booted with the host.
///
/// # Errors
/// When there is no such image, no systemd, or PID 1 refuses.
pub fn enable(options: &Enable) -> Result<()> {
    image_names(&options.names, "enable")?;
    let hint =
        format!("put `osier start {}` into /etc/rc.local or a crontab (@reboot)", options.names.join(" "));
    need_systemd(&options.names, "enable", &hint)?;
    let mut units = services(&options.names);
    units.push(TARGET.to_owned());
    units::enable(&units).map_err(|error| refuse(&options.names, "enable", &error))
}

/// Has machines no longer booted with the host; one that runs goes on.
///
/// # Errors
/// When there is no systemd, or PID 1 refuses.
pub fn disable(options: &Enable) -> Result<()> {
    need_systemd(&options.names, "disable", "take `osier start` out of where you have put it")?;
    units::disable(&services(&options.names)).map_err(|error| refuse(&options.names, "disable", &error))
}

fn services(names: &[String]) -> Vec<String> {
    names.iter().map(|name| units::service_name(name)).collect()
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

fn need_systemd(names: &[String], action: &str, hint: &str) -> Result<()> {
    if systemd::is_running() {
        return Ok(());
    }
    Err(Error::new(Kind::Unsupported, format!("cannot {action} {}", quoted(names)))
        .because("systemd is not this host's PID 1")
        .hint(hint))
}

fn refuse(names: &[String], action: &str, error: &BusError) -> Error {
    super::start::refuse(format!("cannot {action} {}", quoted(names)), error)
}
