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
