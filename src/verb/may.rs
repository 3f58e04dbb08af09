//! Who may act on a machine: root, and who started it. Every verb that changes something about a running machine asks here.
//!
//! With systemd-machined there is a third way: it lets in whom polkit says (`org.freedesktop.machine1.manage-machines` and
//! its like), and acts itself. [`way`] is for the verbs that it has a method for.

use super::target::Target;
use crate::bus::{self, BusError};
use crate::error::{Error, Kind, Result};
use crate::machine::record::Record;

/// Which way a verb gets at a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By itself.
    Direct,
    /// By asking machined, which asks polkit.
    Machined,
}

/// Refuses who may not; `action` as it stands after "cannot": `terminate`.
///
/// # Errors
/// [`Kind::Permission`].
pub(super) fn may(record: &Record, action: &str) -> Result<()> {
    if is_master(record) { Ok(()) } else { Err(refusal(&record.name, action)) }
}

/// The same for what machined can do too: of those who may not it can be asked, if it knows the machine.
///
/// # Errors
/// As [`may`].
pub(super) fn way(target: &Target, action: &str) -> Result<Way> {
    match target {
        Target::Own(record) if is_master(record) => Ok(Way::Direct),
        Target::Own(record) if record.registered && bus::available() => Ok(Way::Machined),
        Target::Own(record) => Err(refusal(&record.name, action)),
        Target::Machined(_) => Ok(Way::Machined),
    }
}

/// What machined's refusal is in our words.
pub(super) fn refused(name: &str, action: &str, error: &BusError) -> Error {
    match error {
        BusError::Refused { name: denied, .. }
            if denied.ends_with(".AccessDenied") || denied.ends_with(".InteractiveAuthorizationRequired") =>
        {
            refusal(name, action)
        }
        BusError::Refused { name: gone, .. } if gone.ends_with(".NoSuchMachine") => {
            Error::new(Kind::NotFound, format!("machine '{name}' has ended"))
        }
        _ => Error::new(Kind::Failed, format!("cannot {action} '{name}'")).because(error),
    }
}

fn is_master(record: &Record) -> bool {
    let caller = rustix::process::geteuid();
    caller.is_root() || caller.as_raw() == record.owner
}

/// That of who is neither.
pub(super) fn refusal(name: &str, action: &str) -> Error {
    Error::new(Kind::Permission, format!("cannot {action} '{name}'"))
        .because("only root or its owner may")
        .hint("run it as root, with sudo for instance")
}
