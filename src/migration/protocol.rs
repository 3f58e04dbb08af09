//! The words of a migration, and both ends' states.
//!
//! ```text
//! source                                            target
//! Calling   ──Hello{name, host, …}────────────▶     Listening
//!           ◀─Welcome{host} or Failed──────────     Greeted      refused with a reason, or ready
//! Offering  ──Listing ════════════════════════▶     Receiving    any number of times
//!           ◀════════════════════════ Wanted───                  which paths it lacks; what it has too much it removes
//!           ──Tree ═══════════════════════════▶                  an archive of those
//!           ──Round{files} ═══════════════════▶                  memory beforehand, CRIU's images of it
//!           ──Frozen───────────────────────────▶                 from here on the machine stands still
//!           ──Images{manifest} ════════════════▶    Loading      the last, and the manifest of all
//! Sent      ◀─Restored─────────────────────────     Restored     all is there again, and held still
//! Held      ──Go──────────────────────────────▶
//! Gone      ◀─Running──────────────────────────     Going        the machine runs there
//!
//! Sent      ◀─Pages{which}─────────────────────     Fetching     with post-copy, any time from the images on
//!           ──Pages{which} ═══════════════════▶
//! Gone      ◀─Whole────────────────────────────                  after Running: all its memory is there
//!
//! source    ──Ask{id}─────────────────────────▶     Listening    later, over another link
//!           ◀─Fate─────────────────────────────
//! ```
//!
//! Each state owns the link and gives the next one, so that a step that is left out or done twice does not compile. A double
//! line is a stream. Either side may say `Failed` instead of anything, with the error as the operator is to read it; nothing
//! comes after that.
//!
//! **At no moment two run.** Up to `Go` the machine is the source's: whatever breaks, it goes on there, and a target that sees
//! its link end before it read `Go` throws away what it has. With `Go` the source gives it away. A source that has said `Go`
//! and hears nothing does not know ([`NotTaken::Undecided`]): the word may have been read or not. It keeps the machine held and asks over
//! a new link. A target that is asked for a machine which it does not run has first to make sure that it never will: the
//! answer [`Fate::Gone`] is a promise, to be kept against a `Go` that is still on its way.
//!
//! With post-copy the source keeps what the images have not, until `Whole`. A machine that ran there and whose memory cannot come any
//! more has to end ([`Fate::Lost`]); so has, without it, one that may have run and has ended. What the source holds is the machine as it
//! was before; to let that go on is the operator's decision, for what was done there in the meantime has been seen.

mod files;
mod source;
mod target;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use source::{Calling, Held, NotTaken, Offering, Sent, Store};
pub use target::{
    Asked, Call, Fetched, Fetching, Going, Greeted, Lacking, Listening, Loading, Next, Receiving, Restoring,
    Storing, Unpacking,
};

use super::stream::LinkError;
use crate::checkpoint::{HostMark, Member, VERSION};
use crate::criu::images::Pages;
use crate::error::Error;
use crate::ids::MachineId;

/// The version of what is said here. Both sides have to have the same.
pub const PROTOCOL: u32 = 2;

/// Who calls, and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// [`VERSION`] of checkpoints.
    pub checkpoint: u64,
    /// osier's version.
    pub osier: String,
    /// This migration: the later manifest's `id`.
    pub id: MachineId,
    /// The machine's name.
    pub name: String,
    /// What it may rely on.
    pub host: HostMark,
    /// About as much room its images and its memory need, bytes.
    pub memory: u64,
    /// About as much room its tree needs where there is none of it, bytes.
    pub tree: u64,
    /// Where the tree is at the source.
    pub path: String,
    /// The machine's ID (machine-id(5)): a tree of another machine is not to become this one's.
    #[serde(default)]
    pub machine: Option<MachineId>,
    /// Memory that can wait comes after it runs.
    #[serde(default)]
    pub postcopy: bool,
}

impl Hello {
    /// For the machine `name`, from this osier. `memory` and `tree` are bytes, `path` is where the tree is.
    pub fn new(name: &str, id: MachineId, host: HostMark) -> Self {
        Self {
            protocol: PROTOCOL,
            checkpoint: VERSION,
            osier: env!("CARGO_PKG_VERSION").to_owned(),
            id,
            name: name.to_owned(),
            host,
            memory: 0,
            tree: 0,
            path: String::new(),
            machine: None,
            postcopy: false,
        }
    }
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// osier's version.
    pub osier: String,
    /// The target host.
    pub host: HostMark,
}

/// What became of a machine that was given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// It runs there.
    Running,
    /// It does not, and never will from what was sent.
    Gone,
    /// It did, or may have, and has ended before it was the target's altogether: a part of its memory never came, or its supervisor was
    /// killed before it could say how far it was.
    Lost,
}

/// From the source.
#[derive(Debug, Serialize, Deserialize)]
enum FromSource {
    Hello(Box<Hello>),
    /// Instead of it.
    Ask(MachineId),
    /// The stream of a listing follows.
    Listing,
    /// The stream of an archive follows.
    Tree,
    /// The stream of each of these files follows: CRIU's images of a copy of memory beforehand.
    Round {
        number: u32,
        files: Vec<Member>,
    },
    Frozen,
    /// The stream of each file of `images` and of the other files that no round had follows.
    Images {
        /// The manifest's text.
        manifest: String,
    },
    Go,
    /// The stream of what is in them follows.
    Pages(Pages),
}

/// From the target.
#[derive(Debug, Serialize, Deserialize)]
enum FromTarget {
    Welcome(Box<Welcome>),
    /// The stream of paths follows.
    Wanted,
    Restored,
    Running,
    /// These, or the first of each, are wanted. Answers come in this order.
    Pages(Vec<Pages>),
    Whole,
    Fate(Fate),
}

/// What went wrong at this end or between the two.
#[derive(Debug)]
pub enum Broken {
    /// The link, or the other end through it.
    Link(LinkError),
    /// What this end did.
    Here(Error),
}

impl From<LinkError> for Broken {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl Broken {
    /// As an error: of `what` that could not be done.
    pub fn into_error(self, what: impl Into<String>) -> Error {
        match self {
            Self::Link(error) => error.into_error(what),
            Self::Here(error) => error.within(what),
        }
    }
}
