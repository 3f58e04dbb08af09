//! The states of a machine that runs, and what each event makes of them.
//!
//! ```text
//! Starting ──init says READY──▶ Up ──asked to end──▶ Stopping ──asked again──▶ Killed ──leader's end──▶ (over)
//!     └───────────────asked to end──────────────────────▲
//! any of them ──saved in a checkpoint──▶ Saved ──leader's end──▶ (over)
//! ```
//!
//! Every state ends with the leader's end. Asking is a signal to the supervisor, the front, an escape of the console, or
//! PID 1 that wants to stop the scope.

use super::record::Stage;

/// Where a machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its payload runs, its init has not said that it is ready.
    Starting,
    /// It is ready.
    Up,
    /// It was asked to end.
    Stopping,
    /// It was killed.
    Killed,
    /// It was killed because it goes on from a checkpoint.
    Saved,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// An orderly end; asked again, an immediate one.
    Stop,
    /// An orderly end that powers off (`^]^]p`, `osier poweroff`).
    PowerOff,
    /// A reboot (`^]^]r`, `osier reboot`).
    Reboot,
    /// An immediate end (`^]^]^]`).
    Kill,
    /// An immediate end of what goes on from a checkpoint (`osier checkpoint`, `osier migrate`).
    Leave,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Ask the init for its shutdown.
    Shutdown,
    /// Ask it to power off.
    PowerOff,
    /// Ask it to reboot.
    Reboot,
    /// Kill the leader, and with it its pid namespace.
    Kill,
    /// Nothing.
    Nothing,
}

impl State {
    /// The next state, and what to do.
    pub fn asked(self, ask: Ask) -> (Self, Act) {
        match (self, ask) {
            (Self::Killed | Self::Saved, _) => (self, Act::Nothing),
            (_, Ask::Leave) => (Self::Saved, Act::Kill),
            (Self::Stopping, Ask::Stop) | (_, Ask::Kill) => (Self::Killed, Act::Kill),
            (_, Ask::Stop) => (Self::Stopping, Act::Shutdown),
            (_, Ask::PowerOff) => (Self::Stopping, Act::PowerOff),
            // The same machine goes on after it: asking once more to stop is the first time again.
            (state, Ask::Reboot) => (state, Act::Reboot),
        }
    }

    /// What other commands are told.
    pub fn stage(self) -> Stage {
        match self {
            Self::Starting => Stage::Starting,
            Self::Up => Stage::Running,
            Self::Stopping | Self::Killed | Self::Saved => Stage::Stopping,
        }
    }

    /// The next state when the init says that it is ready.
    pub fn ready(self) -> Self {
        if self == Self::Starting { Self::Up } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_request_to_stop_kills() {
        let (state, act) = State::Up.asked(Ask::Stop);
        assert_eq!((state, act), (State::Stopping, Act::Shutdown));
        assert_eq!(state.asked(Ask::Stop), (State::Killed, Act::Kill));
        assert_eq!(State::Killed.asked(Ask::Stop), (State::Killed, Act::Nothing));
        assert_eq!(State::Starting.asked(Ask::Kill), (State::Killed, Act::Kill));
    }

    #[test]
    fn what_is_saved_is_killed_once() {
        assert_eq!(State::Up.asked(Ask::Leave), (State::Saved, Act::Kill));
        assert_eq!(State::Stopping.asked(Ask::Leave), (State::Saved, Act::Kill));
        assert_eq!(State::Saved.asked(Ask::Stop), (State::Saved, Act::Nothing));
        assert_eq!(State::Killed.asked(Ask::Leave), (State::Killed, Act::Nothing));
    }

    #[test]
    fn others_see_three_stages() {
        assert_eq!(State::Starting.stage(), Stage::Starting);
        assert_eq!(State::Starting.ready().stage(), Stage::Running);
        assert_eq!(State::Starting.asked(Ask::Stop).0.stage(), Stage::Stopping);
        assert_eq!(State::Up.asked(Ask::Kill).0.stage(), Stage::Stopping);
        // Whether it really goes down is its init's to say.
        assert_eq!(State::Up.asked(Ask::Reboot).0.stage(), Stage::Running);
    }

    #[test]
    fn a_machine_that_was_asked_to_stop_is_not_ready_any_more() {
        assert_eq!(State::Starting.ready(), State::Up);
        assert_eq!(State::Stopping.ready(), State::Stopping);
    }
}
