//! What supervisor and registrar say to each other: one message a packet, one enum a direction, JSON in it.
//!
//! The pidfd of a leader travels in the packet of the request that needs it (man 7 unix, `SCM_RIGHTS`).

use serde::{Deserialize, Serialize};

use super::{BusError, Event, Registration, Unit};

/// From the supervisor. Each is answered once, in order.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Is the scope's name free? Machine name.
    ClaimUnit(String),
    /// Does machined know the name? Machine name.
    ClaimMachine(String),
    /// Make the scope, or find the unit to keep. With the leader's pidfd.
    OpenUnit(Registration),
    /// Register with machined. With the leader's pidfd.
    Register(Registration),
    /// Take back what was registered and made.
    Release,
    /// The same, then end.
    Finish,
}

/// From the registrar.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// To the oldest request without an answer.
    Answer(Result<Answer, BusError>),
    /// At any time.
    Event(Event),
}

/// What a request gives.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Done; there is nothing to tell.
    Done,
    /// The unit that holds the machine.
    Unit(Unit),
}
