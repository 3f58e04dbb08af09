//! Terminals that systemd-machined opens in a machine: a login prompt, or a shell in a session of its systemd. Whom machined
//! lets in is polkit's business, so that this needs no root.

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::attended::{Seat, on_terminal};
use super::may::refused;
use crate::bus::{self, BusError, machined};
use crate::console::{Mode, Terminal};
use crate::error::{Context, Error, Kind, Result};
use crate::machine::record::Record;

/// What is asked of machined.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// A login prompt; the machine's systemd starts it again after each logout.
    Login,
    /// A shell, or a command.
    Shell(&'a machined::Shell<'a>),
}

/// Asks machined for it.
///
/// # Errors
/// As machined says.
pub(super) fn open(record: &Record, wanted: Wanted<'_>) -> std::result::Result<OwnedFd, BusError> {
    bus::apart(|| match wanted {
        Wanted::Login => machined::open_login(&record.name),
        Wanted::Shell(shell) => machined::open_shell(&record.name, shell),
    })
}

/// Asks machined for it and serves it on the caller's streams until its end, the machine's, or the user's wish.
///
/// # Errors
/// As machined says, in osier's words; `action` stands after "cannot".
pub(super) fn serve(record: &Record, wanted: Wanted<'_>, action: &str) -> Result<()> {
    if !record.registered || !bus::available() {
        return Err(Error::new(Kind::Unsupported, format!("cannot {action} '{}'", record.name))
            .because("systemd-machined does not know it"));
    }
    // Before the front: its end tells that the machine is gone, which machined's pty does not.
    let leader = i32::try_from(record.leader).ok().and_then(Pid::from_raw);
    let leader =
        leader.ok_or_else(|| Error::new(Kind::NotFound, format!("machine '{}' has ended", record.name)))?;
    let leader = pidfd_open(leader, PidfdFlags::empty()).context(|| "cannot watch the machine")?;
    let master = open(record, wanted).map_err(|error| refused(&record.name, action, &error))?;
    let attend = |front| {
        let (mut seat, _) =
            Seat::take(Mode::Interactive, front).context(|| "cannot use the standard streams")?;
        seat.connect(master).context(|| "cannot serve the terminal")?;
        let ends = [leader.as_fd()];
        match wanted {
            Wanted::Login => seat.serve(&ends, |_| Ok(())),
            Wanted::Shell(_) => seat.serve_until_hang_up(&ends),
        }
        .context(|| "cannot serve the terminal")?;
        Ok(0)
    };
    match Terminal::of_caller(Mode::Interactive).context(|| "cannot use the terminal")? {
        Some(terminal) => on_terminal(terminal, attend),
        None => attend(None),
    }
    .map(drop)
}
