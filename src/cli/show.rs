//! The command lines of the verbs that read.

use clap::Args;

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

/// `osier check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Print JSON: an array of objects
    #[arg(long)]
    pub json: bool,
}
