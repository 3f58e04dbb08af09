//! The verbs for a machine's console.

use clap::Args;

/// `osier attach`.
#[derive(Debug, Args)]
#[command(
    after_help = "Escapes, within one second: ^]^]d leaves; who has the keyboard also has those of `osier boot`."
)]
pub struct Attach {
    /// Machine
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Only watch, whoever has the keyboard
    #[arg(short, long, alias = "read-only")]
    pub watch: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// `osier start`.
#[derive(Debug, Args)]
pub struct Start {
    /// Tree to boot: a name in the image search path
    #[arg(required = true, value_name = "IMAGE")]
    pub names: Vec<String>,
    /// Wait until the machine's init says that it is ready, if it is one that does
    #[arg(short, long)]
    pub wait: bool,
    /// Longest wait; what is not ready by then goes on: exit code 1 [default: infinity]
    #[arg(long, value_name = "DURATION|infinity", requires = "wait")]
    pub timeout: Option<String>,
}

/// `osier enable` and `osier disable`.
#[derive(Debug, Args)]
pub struct Enable {
    /// Tree: a name in the image search path
    #[arg(required = true, value_name = "IMAGE")]
    pub names: Vec<String>,
}

/// `osier logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Machine, or the image of one that ran
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Go on until the machine ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many lines [default: all; 10 with --follow]
    #[arg(short = 'n', long, value_name = "LINES")]
    pub lines: Option<usize>,
    /// What the console showed, whether there is a journal or not
    #[arg(long)]
    pub console: bool,
}
