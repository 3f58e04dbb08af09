//! The verbs that steer machines that run: what ends them, what stops them for a while, and waiting for their end.

use clap::{Args, ValueEnum};

/// `osier poweroff` and `osier reboot`.
#[derive(Debug, Args)]
pub struct Shutdown {
    /// Machine
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Come back at once; the machine does it in its own time
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,
    /// Longest wait; what has not ended or booted again by then goes on: exit code 1 [default: 90s]
    #[arg(long, value_name = "DURATION|infinity")]
    pub timeout: Option<String>,
}

/// `osier terminate`.
#[derive(Debug, Args)]
pub struct Terminate {
    /// Machine
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Longest wait until nothing is left of it [default: 10s]
    #[arg(long, value_name = "DURATION|infinity")]
    pub timeout: Option<String>,
}

/// `osier kill`.
#[derive(Debug, Args)]
pub struct Kill {
    /// Machine
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Signal by name or number, such as HUP, SIGRTMIN+3 or 9 [default: SIGTERM]
    #[arg(short, long, value_name = "SIGNAL")]
    pub signal: Option<String>,
    /// Whom to send it to [default: all]
    #[arg(long, value_enum, alias = "kill-whom", value_name = "WHOM")]
    pub whom: Option<Whom>,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Whom {
    /// The machine's first process alone.
    Leader,
    /// Every process of the machine.
    All,
}

/// `osier freeze` and `osier thaw`.
#[derive(Debug, Args)]
pub struct Freeze {
    /// Machine
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Longest wait until it is so [default: 10s]
    #[arg(long, value_name = "DURATION|infinity")]
    pub timeout: Option<String>,
}

/// `osier wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// Machine
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Longest wait; a machine that still runs then is exit code 1 [default: infinity]
    #[arg(long, value_name = "DURATION|infinity")]
    pub timeout: Option<String>,
}
