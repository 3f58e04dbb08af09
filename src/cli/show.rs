//! The command lines of the verbs that read.

use clap::{Args, ValueEnum};

/// `osier list`.
#[derive(Debug, Args)]
pub struct List {
    /// Print JSON: an array of objects
    #[arg(long)]
    pub json: bool,
    /// Print neither the heading nor the count
    #[arg(long)]
    pub no_legend: bool,
}

/// `osier status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Machine
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Show so many lines of the log [default: 10]
    #[arg(short = 'n', long, value_name = "LINES")]
    pub lines: Option<usize>,
    /// Print JSON: an object for each machine
    #[arg(long)]
    pub json: bool,
}

/// `osier show`.
#[derive(Debug, Args)]
pub struct Show {
    /// Machine
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Only these properties, separated by commas (repeatable)
    #[arg(short, long, value_name = "KEY,...", value_delimiter = ',')]
    pub property: Vec<String>,
    /// Print values without `KEY=`
    #[arg(long)]
    pub value: bool,
    /// Print JSON: an object for each machine
    #[arg(long, conflicts_with_all = ["value", "property"])]
    pub json: bool,
}

/// `osier top`.
#[derive(Debug, Args)]
#[command(
    after_help = "Keys: c, m, t, i, n, u order by cpu, memory, tasks, io, name, uptime; space looks now; q quits"
)]
pub struct Top {
    /// How long from one snapshot to the next [default: 1s]
    #[arg(short, long, value_name = "DURATION")]
    pub delay: Option<String>,
    /// End after so many snapshots
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub iterations: Option<u64>,
    /// Order, the greatest first [default: cpu]
    #[arg(long, value_name = "KEY", value_enum, default_value = "cpu", hide_default_value = true)]
    pub sort: Sort,
    /// Print one snapshot after the other, without a screen [default: where standard output is no terminal]
    #[arg(short, long)]
    pub batch: bool,
    /// Print JSON: an array of objects on a line for each snapshot
    #[arg(long)]
    pub json: bool,
}

/// What `osier top` orders by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Processes and threads.
    Tasks,
    /// What is read and written.
    Io,
    /// The machine's name.
    Name,
    /// How long it has run.
    Uptime,
}

/// `osier clock`.
#[derive(Debug, Args)]
pub struct Clock {
    /// Machine; with --compare `host` is the host
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Compare the clocks of two: two machines, or a machine and the host
    #[arg(long)]
    pub compare: bool,
    /// Print JSON: an object for each machine, or one for the comparison
    #[arg(long)]
    pub json: bool,
}

/// `osier check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Remove what machines left whose supervisor was killed, and print what was removed
    #[arg(long)]
    pub clean: bool,
    /// Print JSON: an array of objects
    #[arg(long)]
    pub json: bool,
}
