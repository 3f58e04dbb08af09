//! The verbs that carry images: clone, export, import.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

/// `osier image clone`.
#[derive(Debug, Args)]
pub struct ImageClone {
    /// Image to copy: a name in the image search path, or a path (with a `/` in it)
    #[arg(value_name = "NAME|PATH")]
    pub source: OsString,
    /// Its name in /var/lib/machines, or its path (with a `/` in it)
    #[arg(value_name = "NEW|PATH")]
    pub target: OsString,
    /// What goes along.
    #[command(flatten)]
    pub along: Along,
}

/// `osier image export`.
#[derive(Debug, Args)]
pub struct ImageExport {
    /// Image to write: a name in the image search path, or a path (with a `/` in it)
    #[arg(value_name = "NAME|PATH")]
    pub image: OsString,
    /// File to make, compressed as its name says: .tar, .tar.zst or .tar.gz; `-`: standard output, not compressed
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What goes along.
    #[command(flatten)]
    pub along: Along,
}

/// `osier image import`.
#[derive(Debug, Args)]
pub struct ImageImport {
    /// Archive to read, whatever its name: tar, also compressed by zstd or gzip; `-`: standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Its name in /var/lib/machines, or its path (with a `/` in it) [default: the file's name, without .tar and the like]
    #[arg(value_name = "NEW|PATH")]
    pub target: Option<OsString>,
    /// What goes along.
    #[command(flatten)]
    pub along: Along,
}

/// What goes along with an image.
#[derive(Debug, Args)]
pub struct Along {
    /// With where its machine's clocks are, so that those of the next one go on from there (--clock=continue)
    #[arg(long)]
    pub with_clocks: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}
