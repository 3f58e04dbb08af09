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
    #[arg(required = true, value_name = "NAME")]
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
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}
