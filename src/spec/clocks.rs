//! What a machine's clocks start at (DESIGN §6).

use std::path::PathBuf;

use super::{Facts, is_on};
use crate::clock::Wanted;
use crate::clock::state::State;
use crate::duration::point;
use crate::error::Result;
use crate::settings::{Setting, Settings};

/// What a machine's clocks start at, and whether that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clocks {
    /// CLOCK_MONOTONIC.
    pub monotonic: Wanted,
    /// CLOCK_BOOTTIME.
    pub boottime: Wanted,
    /// Whether anything but the host's was asked for: then a host without time namespaces is refused.
    pub need: ClockNeed,
    /// Whether they go on in the machine's next life.
    pub keep: Keep,
}

/// Whether a machine needs a time namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockNeed {
    /// Its clocks differ from the host's.
    Namespace,
    /// They do not: a host without time namespaces will do.
    None,
}

/// Whether a machine's clocks go on in its next life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// They begin anew.
    No,
    /// They go on from where this file, beside the image, says that they were; what is wanted otherwise is for the first time.
    In(PathBuf),
}

impl Clocks {
    /// Both the same, for once.
    pub fn both(wanted: Wanted) -> Self {
        let need = if wanted == Wanted::Host { ClockNeed::None } else { ClockNeed::Namespace };
        Self { monotonic: wanted, boottime: wanted, need, keep: Keep::No }
    }

    /// Has them go on from these values of monotonic and boottime, in nanoseconds, as [`State::next`] gives them; begin
    /// where there are none.
    pub fn go_on(&mut self, from: Option<(i64, i64)>) {
        if let (Keep::In(_), Some((monotonic, boottime))) = (&self.keep, from) {
            self.monotonic = Wanted::At(monotonic);
            self.boottime = Wanted::At(boottime);
        }
    }
}

pub(super) fn resolve(settings: &Settings, facts: &Facts) -> Result<Clocks> {
    let start = match (&settings.clock, &settings.uptime) {
        (Some(clock), Some(uptime)) if clock.text == "host" => {
            return Err(uptime.refuse(format!("{}=host leaves the clocks as they are", clock.origin)));
        }
        (_, Some(uptime)) => match point::parse(&uptime.text) {
            Ok(value) => Wanted::At(value),
            Err(reason) => return Err(uptime.refuse(reason)),
        },
        (Some(clock), None) if clock.text == "host" => Wanted::Host,
        (Some(_), None) => Wanted::At(0),
        (None, None) if facts.init.is_some() => Wanted::At(0),
        (None, None) => Wanted::Host,
    };
    let keep = resolve_keep(settings, facts)?;
    let offset = |setting: &Option<Setting>| match setting {
        Some(setting) if keep != Keep::No => {
            Err(setting.refuse("a clock that goes on from where it was has no offset from the host's"))
        }
        Some(setting) => {
            point::parse(&setting.text).map(Wanted::Offset).map_err(|reason| setting.refuse(reason))
        }
        None => Ok(start),
    };
    let (monotonic, boottime) = (offset(&settings.clock_monotonic)?, offset(&settings.clock_boottime)?);
    let need = if monotonic == Wanted::Host && boottime == Wanted::Host {
        ClockNeed::None
    } else {
        ClockNeed::Namespace
    };
    Ok(Clocks { monotonic, boottime, need, keep })
}

fn resolve_keep(settings: &Settings, facts: &Facts) -> Result<Keep> {
    let Some(clock) = settings.clock.as_ref().filter(|clock| clock.text == "continue") else {
        return Ok(Keep::No);
    };
    if is_on(settings.ephemeral.as_ref()) {
        let error = clock.refuse("an ephemeral machine leaves nothing to keep its clocks beside");
        return Err(error.hint("--clock=zero starts them anew"));
    }
    match State::path(&facts.tree) {
        Some(path) => Ok(Keep::In(path)),
        None => Err(clock.refuse("there is no place beside the host's own root")),
    }
}
