//! The options of `set`: limits of a running machine.

use clap::Args;

/// `osier set`.
#[derive(Debug, Args)]
#[command(
    after_help = "Keys: memory.max, memory.high, memory.swap.max, cpu.max, cpu.weight, pids.max, io.max,\n\
    io.weight, cpuset.cpus, cpuset.mems; `max` is no limit"
)]
pub struct Set {
    /// Machine
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Limit, named as its file in cgroup v2: memory.max=2G, cpu.max=150%, pids.max=500, io.max='/dev/vda rbps=1M'
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub limits: Vec<String>,
    /// Only until the machine boots again, and not in its settings file
    #[arg(long)]
    pub runtime: bool,
}
