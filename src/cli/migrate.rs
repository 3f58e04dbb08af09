//! The options of `migrate`: a machine that goes on elsewhere.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::Tool;

/// `osier migrate`.
#[derive(Debug, Args)]
#[command(
    override_usage = "osier migrate [OPTIONS] NAME [USER@]HOST\n       osier migrate [OPTIONS] NAME --to-pipe\n       \
    osier migrate [OPTIONS] --from-pipe",
    group(ArgGroup::new("where").args(["host", "to_pipe", "from_pipe"]).required(true))
)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option that is there or not")]
pub struct Migrate {
    /// Machine; it has to be one that was booted with --checkpointable
    #[arg(required_unless_present = "from_pipe", conflicts_with = "from_pipe")]
    pub name: Option<String>,
    /// Host that it goes to, as ssh(1) takes it
    #[arg(value_name = "[USER@]HOST")]
    pub host: Option<String>,
    /// Talk to the other osier through standard input and output
    #[arg(long)]
    pub to_pipe: bool,
    /// Receive a machine from the osier at the other end of standard input and output; it goes on in the background
    #[arg(long)]
    pub from_pipe: bool,
    /// Machine name there [default: what it is here]
    #[arg(short = 'M', long = "to-name", alias = "machine", value_name = "NAME")]
    pub new_name: Option<String>,
    /// Tree there, which becomes what it is here [default: the image of that name, or a new one in /var/lib/machines]
    #[arg(long, value_name = "PATH")]
    pub tree: Option<PathBuf>,
    /// The monotonic and boottime clocks: go on as if time had stood still, count the time in between, or be the host's
    #[arg(long, value_name = "HOW", value_parser = ["continue", "elapsed", "host"], default_value = "continue")]
    pub clock: String,
    /// Send memory before the machine stands still, and then again what has changed; N rounds [default: 2]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "2", require_equals = true)]
    pub precopy: Option<u32>,
    /// Let it go on there before most of its memory has come, which follows; a link that breaks then ends it there
    #[arg(long, conflicts_with_all = ["precopy", "from_pipe"])]
    pub postcopy: bool,
    /// Program and arguments that lead to the host
    #[arg(long, value_name = "COMMAND", default_value = "ssh")]
    pub ssh: String,
    /// osier's program there
    #[arg(long, value_name = "PATH", default_value = "osier")]
    pub remote_osier: String,
    /// CRIU's program there [default: criu in PATH]
    #[arg(long, value_name = "PATH")]
    pub remote_criu: Option<String>,
    /// What does it.
    #[command(flatten)]
    pub tool: Tool,
}
