//! Whether a machine can be saved and restored, and what it cannot have then.

use super::{ExtraMount, Layer, MachineSpec, Network, Users, is_on};
use crate::console::Mode;
use crate::error::{Error, Result};
use crate::settings::Settings;

/// Whether a machine can be saved by CRIU and restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoints {
    /// It can: nothing in it is the host's, and it cannot come to hold what cannot be saved.
    Possible,
    /// It cannot.
    Impossible,
}

impl Checkpoints {
    pub(super) fn resolve(settings: &Settings) -> Self {
        if is_on(settings.checkpointable.as_ref()) { Self::Possible } else { Self::Impossible }
    }
}

/// Refuses what a machine that is to be saved cannot have.
pub(super) fn check(spec: &MachineSpec, settings: &Settings) -> Result<()> {
    let Some(setting) =
        settings.checkpointable.as_ref().filter(|_| spec.checkpoints == Checkpoints::Possible)
    else {
        return Ok(());
    };
    let refuse = |reason: &str| Error::usage(setting.origin.to_string()).because(reason);
    if spec.root.layer == Layer::Scratch {
        return Err(refuse("the throw-away layer of --ephemeral is in memory and cannot be saved")
            .hint("`osier image clone` makes a copy of the tree to boot instead"));
    }
    if spec.network == Network::Host {
        return Err(refuse("connections of the host's network cannot be saved with the machine")
            .hint("--network=veth or --network=none gives it a network of its own"));
    }
    if spec.console == Mode::Pipe {
        return Err(refuse("the caller's own streams cannot be saved with the machine")
            .hint("--console=read-only gives it a terminal of its own"));
    }
    if spec.users != Users::Host {
        return Err(refuse("a machine with users of its own cannot be saved")
            .hint("--private-users=no leaves it the host's"));
    }
    if let Some(ExtraMount::Bind { target, .. }) =
        spec.mounts.iter().find(|mount| matches!(mount, ExtraMount::Bind { .. }))
    {
        let reason = format!("'{}' is the host's and cannot be saved with the machine", target.display());
        return Err(refuse(&reason).hint("`osier copy-to` puts a copy into the machine"));
    }
    Ok(())
}
