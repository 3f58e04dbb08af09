//! The options of `run` that make one command many runs.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

/// What cannot be said together with a sweep, which sets it for each run.
const SET_BY_IT: [&str; 6] = ["clock", "uptime", "clock_monotonic", "clock_boottime", "console", "keep_unit"];

/// One run of the command for each of several clocks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Clock sweep")]
pub struct Sweep {
    /// Run it once under each of these clocks, such as host,0,1d,uint32-ms-30s; --ephemeral unless --read-only is given
    #[arg(long, value_name = "CLOCK,...", allow_hyphen_values = true, conflicts_with_all = SET_BY_IT)]
    pub clock_sweep: Option<String>,
    /// So many runs at the same time [default: as many as CPUs]
    #[arg(long, value_name = "NUMBER", requires = "clock_sweep")]
    pub jobs: Option<NonZeroUsize>,
    /// Write what came out of a sweep to a file, as JUnit XML
    #[arg(long, value_name = "FILE", requires = "clock_sweep")]
    pub junit: Option<PathBuf>,
    /// End a run of a sweep that takes longer; it has failed then
    #[arg(long, value_name = "DURATION", requires = "clock_sweep")]
    pub timeout: Option<String>,
}
