//! The options of `checkpoint`, `restore` and `migrate`: a machine saved, and going on elsewhere.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

/// `osier checkpoint`.
#[derive(Debug, Args)]
pub struct Checkpoint {
    /// Machine; it has to be one that was booted with --checkpointable
    pub name: String,
    /// Where to: a new directory, or a file NAME.osier [default: /var/lib/osier/checkpoints/NAME]
    #[arg(long, value_name = "DIR|FILE.osier")]
    pub to: Option<PathBuf>,
    /// Let the machine go on
    #[arg(long)]
    pub leave_running: bool,
    /// What is written.
    #[command(flatten)]
    pub content: Content,
    /// What does it.
    #[command(flatten)]
    pub tool: Tool,
}

/// What is in a checkpoint.
#[derive(Debug, Clone, Copy, Args)]
pub struct Content {
    /// Compress the file: less to keep, longer to make
    #[arg(long)]
    pub compress: bool,
    /// Take the tree along, as it is while everything stands still
    #[arg(long)]
    pub with_tree: bool,
}

/// `osier restore`.
#[derive(Debug, Args)]
#[command(override_usage = "osier restore [OPTIONS] DIR|FILE.osier")]
pub struct Restore {
    /// What `osier checkpoint` made
    #[arg(value_name = "DIR|FILE.osier")]
    pub from: PathBuf,
    /// Machine name [default: what it was]
    #[arg(short = 'M', long, alias = "machine", value_name = "NAME")]
    pub name: Option<String>,
    /// Tree to go on with [default: where it was; for a checkpoint with a tree: /var/lib/machines/NAME, which is made]
    #[arg(long, value_name = "PATH")]
    pub tree: Option<PathBuf>,
    /// The monotonic and boottime clocks: go on as if time had stood still, count the time in between, or be the host's
    #[arg(long, value_name = "HOW", value_parser = ["continue", "elapsed", "host"], default_value = "continue")]
    pub clock: String,
    /// How the console is connected [default: interactive on a terminal, else read-only]
    #[arg(long, value_name = "MODE")]
    #[arg(value_parser = ["interactive", "read-only", "passive"])]
    pub console: Option<String>,
    /// Do not wait for its end: it goes on in the background, as after `osier start`
    #[arg(short, long, conflicts_with = "console")]
    pub background: bool,
    /// Stay in the unit that osier was started in, make no scope
    #[arg(long, conflicts_with = "background")]
    pub keep_unit: bool,
    /// What does it.
    #[command(flatten)]
    pub tool: Tool,
}

/// The program that saves and restores processes.
#[derive(Debug, Args)]
pub struct Tool {
    /// CRIU's program [default: criu in PATH]
    #[arg(long, value_name = "PATH")]
    pub criu: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// What `osier boot` makes a machine of.
#[derive(Debug, Args)]
pub struct Source {
    /// Tree to boot: a name in the image search path, or a path (with a `/` in it)
    #[arg(value_name = "NAME|PATH", required_unless_present = "from", conflicts_with = "from")]
    pub tree: Option<OsString>,
    /// Go on from a machine that has booted, as another one: what `osier image prewarm` made, by name, or any checkpoint
    #[arg(long, value_name = "CHECKPOINT", requires = "machine")]
    pub from: Option<PathBuf>,
    /// With --from, CRIU's program [default: criu in PATH]
    #[arg(long, value_name = "PATH", requires = "from")]
    pub criu: Option<PathBuf>,
}

/// `osier image prewarm`.
#[derive(Debug, Args)]
pub struct ImagePrewarm {
    /// Image to boot: a name in the image search path, or a path (with a `/` in it); it is not changed
    #[arg(value_name = "NAME|PATH")]
    pub image: OsString,
    /// Where to: a new directory [default: /var/lib/osier/prewarmed/NAME]
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Longest wait until it is ready [default: 5min]
    #[arg(long, value_name = "DURATION|infinity")]
    pub timeout: Option<String>,
    /// What does it.
    #[command(flatten)]
    pub tool: Tool,
}
