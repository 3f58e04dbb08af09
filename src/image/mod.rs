//! What a machine runs from: finding it, knowing what is in it, keeping it to oneself.
//!
//! Everything read from a tree is resolved beneath its root (`RESOLVE_IN_ROOT`, man 2 openat2): a symlink that the tree's
//! owner made can never lead to a file of the host. This module refuses disk images, and changes no tree but those that it
//! builds, and those that are to be another range's ([`give`]).

pub mod archive;
mod bootstrap;
mod build;
mod finish;
mod fresh;
mod init;
mod lock;
mod lookup;
mod os;
mod owners;
mod recipe;
mod scratch;
mod tool;

/// Where what was booted once and saved is, for machines that start from there, if it was not said to be elsewhere.
pub const PREWARMED: &str = "/var/lib/osier/prewarmed";

pub use build::{BuildError, Built, MACHINES, Progress, build};
pub use fresh::{FreshError, make};
pub use init::{Init, Shutdown, Way};
pub use lock::{Access, TreeLock};
pub use lookup::{Image, Kind, LookupError, SEARCH_PATH, find, find_in, names_in};
pub use os::{FoundInit, NoInit, OsRelease, Tree};
pub use owners::{OwnersError, give};
pub use recipe::{Recipe, RecipeError, names};
pub use scratch::{Scratch, mounted_below};
