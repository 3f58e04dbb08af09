//! A machine's state on disk: a directory, or the same as one file.
//!
//! ```text
//! DIR/checkpoint.json       the manifest: what it is of, and every other file's size and sum; written last
//! DIR/images/               CRIU's images
//! DIR/round-1/, …           those of copies of memory made beforehand
//! DIR/tree.listing.zst      what the tree was like
//! DIR/tree.tar[.zst]        the tree, where it was asked for
//! ```
//!
//! The file is these as a tar archive, the manifest first, the whole compressed or not. What tar(1) makes of a file is the
//! directory.
//!
//! A checkpoint is written under a hidden name and gets its own when it is whole and on the disk ([`Draft`]); it is believed
//! only when every byte of it has been looked at ([`Checkpoint::unpack`]). The sums are against accidents: whoever can write a
//! checkpoint can write their own sums, too, and what is restored from it runs as it says.

mod cause;
mod draft;
mod file;
pub mod listing;
mod manifest;
mod mark;
mod member;
mod room;
mod scratch;
mod whole;
mod working;

pub use cause::{Cause, CheckpointError, Wanted};
pub use draft::{Draft, Form};
pub use file::Compression;
#[cfg(test)]
pub(crate) use manifest::tests::example;
pub use manifest::{Clocks, Console, Criu, Link, Machine, Manifest, Timer, TreeMark, VERSION};
pub use mark::{Cpu, Difference, HostMark, Weight};
pub use member::{
    IMAGES, LISTING, MANIFEST, Member, MemberName, NameError, Sum, SumError, Summing, TREE, TREE_COMPRESSED,
    round,
};
pub use room::{estimate, free, require};
pub use scratch::remove_stale;
pub use whole::{Checkpoint, Unpacked};
pub use working::{DIRECTORY as WORKING, Working};

/// Where checkpoints are that were not said to be elsewhere.
pub const DIRECTORY: &str = "/var/lib/osier/checkpoints";

/// Who follows the writing or reading of a checkpoint, and can stop it.
pub trait Watch {
    /// So many more bytes are done.
    fn bytes(&mut self, count: u64);

    /// Asked before each piece.
    ///
    /// # Errors
    /// Why to stop, as the end of a sentence.
    fn check(&mut self) -> Result<(), String>;
}

/// Nobody follows, and nothing stops it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn bytes(&mut self, _count: u64) {}

    fn check(&mut self) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
