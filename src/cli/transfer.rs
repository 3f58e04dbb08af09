//! The options of the verbs that carry files into and out of running machines.

use std::path::PathBuf;

use clap::Args;

/// `osier copy-to`.
#[derive(Debug, Args)]
pub struct CopyTo {
    /// Machine
    pub name: String,
    /// File or directory on the host
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Its copy in the machine; with a `/` at the end, the directory for it [default: as SRC]
    #[arg(value_name = "DST")]
    pub target: Option<PathBuf>,
    /// How.
    #[command(flatten)]
    pub options: CopyOptions,
}

/// `osier copy-from`.
#[derive(Debug, Args)]
pub struct CopyFrom {
    /// Machine
    pub name: String,
    /// File or directory in the machine
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Its copy on the host; with a `/` at the end, the directory for it [default: as SRC]
    #[arg(value_name = "DST")]
    pub target: Option<PathBuf>,
    /// How.
    #[command(flatten)]
    pub options: CopyOptions,
}

/// What both ways have in common.
#[derive(Debug, Args)]
pub struct CopyOptions {
    /// Owner of the copy: a number, or a name of the side that is copied to [default: as SRC]
    #[arg(long, value_name = "USER")]
    pub uid: Option<String>,
    /// Group of the copy: a number, or a name of the side that is copied to [default: as SRC]
    #[arg(long, value_name = "GROUP")]
    pub gid: Option<String>,
    /// What may be in the copy, and be overwritten by it.
    #[command(flatten)]
    pub consent: CopyConsent,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// What is only done when it is asked for.
#[derive(Debug, Args)]
pub struct CopyConsent {
    /// Replace files that are there, and merge into directories
    #[arg(short, long)]
    pub force: bool,
    /// Copy device nodes as nodes
    #[arg(long)]
    pub devices: bool,
}

/// `osier bind`.
#[derive(Debug, Args)]
pub struct Bind {
    /// Machine
    pub name: String,
    /// File or directory on the host
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Where it is to be seen in the machine [default: as SRC]
    #[arg(value_name = "DST")]
    pub target: Option<PathBuf>,
    /// Read-only, with all that is mounted below it
    #[arg(long, visible_alias = "read-only")]
    pub ro: bool,
    /// Make the mount point, and the directories above it, where it is missing
    #[arg(long)]
    pub mkdir: bool,
}
