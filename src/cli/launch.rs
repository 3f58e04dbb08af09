//! The options of `boot` and `run`: how a machine is launched.

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};

/// The options that `boot` and `run` share, by heading.
#[derive(Debug, Args)]
pub struct MachineOptions {
    /// What osier itself does.
    #[command(flatten)]
    pub invocation: Invocation,
    /// Who the machine is.
    #[command(flatten)]
    pub identity: Identity,
    /// What its first process gets.
    #[command(flatten)]
    pub process: Process,
    /// What it sees of the file system.
    #[command(flatten)]
    pub files: Files,
    /// What time it is in it.
    #[command(flatten)]
    pub clocks: Clocks,
    /// Whether it can be saved.
    #[command(flatten)]
    pub checkpoint: Checkpoint,
    /// Its network.
    #[command(flatten)]
    pub network: Network,
    /// Its console.
    #[command(flatten)]
    pub console: Console,
    /// Its cgroup, its unit, who knows it.
    #[command(flatten)]
    pub cgroup: Cgroup,
    /// What it may use.
    #[command(flatten)]
    pub limits: Limits,
    /// What it may do.
    #[command(flatten)]
    pub security: Security,
}

/// What osier itself does.
#[derive(Debug, Args)]
pub struct Invocation {
    /// Print the launch plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Read NAME.nspawn: below the command line, not, above it, or all of one that came with the image [default: yes]
    #[arg(long, value_name = "MODE", value_parser = settings_values())]
    pub settings: Option<String>,
}

/// Who the machine is.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct Identity {
    /// Machine name [default: the tree's last path component]
    #[arg(short = 'M', long, value_name = "NAME")]
    pub machine: Option<String>,
    /// Machine ID [default: the tree's /etc/machine-id, else random]
    #[arg(long, value_name = "UUID")]
    pub uuid: Option<String>,
    /// Host name inside [default: the machine name]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
}

/// What its first process gets.
#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
pub struct Process {
    /// Set an environment variable; without `=VALUE`, pass osier's own (repeatable)
    #[arg(short = 'E', long, value_name = "NAME[=VALUE]")]
    pub setenv: Vec<String>,
    /// Working directory inside, absolute [default: the user's home, / for boot]
    #[arg(long, value_name = "PATH")]
    pub chdir: Option<String>,
    /// User inside, by name or number [default: root]
    #[arg(short = 'u', long, alias = "user", value_name = "USER")]
    pub uid: Option<String>,
    /// Signal that asks for a shutdown [default: the init's own way for boot, SIGKILL for run]
    #[arg(long, value_name = "SIGNAL")]
    pub kill_signal: Option<String>,
    /// Tell the service manager READY=1 only when the init has said so; `auto`: if it is one that does [default: no]
    #[arg(long, value_name = "BOOL", value_parser = yes_no_or_auto())]
    pub notify_ready: Option<String>,
}

/// What it sees of the file system.
#[derive(Debug, Args)]
#[command(next_help_heading = "File system")]
pub struct Files {
    /// Mount the tree read-only
    #[arg(long)]
    pub read_only: bool,
    /// Run from a throw-away layer over the tree; what is written is gone afterwards
    #[arg(short = 'x', long)]
    pub ephemeral: bool,
    /// Show a host path inside; `\:` is a colon (repeatable)
    #[arg(long, value_name = "SRC[:DST[:OPTIONS]]")]
    pub bind: Vec<String>,
    /// Show a host path inside, read-only (repeatable)
    #[arg(long, value_name = "SRC[:DST[:OPTIONS]]")]
    pub bind_ro: Vec<String>,
    /// Mount an empty tmpfs; OPTIONS as in mount(8) (repeatable)
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Cover a path inside with an empty node of mode 0 (repeatable)
    #[arg(long, value_name = "PATH")]
    pub inaccessible: Vec<String>,
}

/// What time it is in it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Clocks")]
pub struct Clocks {
    /// Where monotonic and boottime start: the host's, zero, or where they were [default: zero for boot, host for run]
    #[arg(long, value_name = "START", value_parser = ["host", "zero", "continue"])]
    pub clock: Option<String>,
    /// Let the machine believe that it has been up so long, such as 3d4h, 90.5s or uint32-ms-1min
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub uptime: Option<String>,
    /// Offset of CLOCK_MONOTONIC from the host's, such as +1h, -5s or 1500ns
    #[arg(long, value_name = "±DURATION", allow_hyphen_values = true)]
    pub clock_monotonic: Option<String>,
    /// Offset of CLOCK_BOOTTIME from the host's, such as +1h, -5s or 1500ns
    #[arg(long, value_name = "±DURATION", allow_hyphen_values = true)]
    pub clock_boottime: Option<String>,
}

/// Whether it can be saved.
#[derive(Debug, Args)]
#[command(next_help_heading = "Checkpoint")]
pub struct Checkpoint {
    /// Make a machine that `osier checkpoint` can save: nothing of the host's inside, and what CRIU cannot save refused
    #[arg(long)]
    pub checkpointable: bool,
}

/// Its network.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub struct Network {
    /// A link to the host, a loopback alone, or the host's network [default: veth for boot, host for run]
    #[arg(long, value_name = "KIND", value_parser = ["veth", "none", "host"])]
    pub network: Option<String>,
    /// Own network namespace with a loopback alone: --network=none
    #[arg(long)]
    pub private_network: bool,
    /// Own network namespace and a link to the host, ve-NAME and host0: --network=veth
    #[arg(short = 'n', long)]
    pub network_veth: bool,
}

/// Its console.
#[derive(Debug, Args)]
#[command(next_help_heading = "Console")]
pub struct Console {
    /// How the console is connected [default: interactive on a terminal, else read-only (boot) or pipe (run)]
    #[arg(long, value_name = "MODE")]
    #[arg(value_parser = ["interactive", "read-only", "passive", "pipe", "autopipe"])]
    pub console: Option<String>,
}

/// Its cgroup, its unit, who knows it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cgroup and registration")]
pub struct Cgroup {
    /// Register with systemd-machined; `auto`: where it is there [default: auto]
    #[arg(long, value_name = "BOOL", value_parser = yes_no_or_auto())]
    pub register: Option<String>,
    /// Slice for the machine's scope [default: machine.slice]
    #[arg(short = 'S', long, value_name = "SLICE")]
    pub slice: Option<String>,
    /// Set a property of the machine's scope, as systemctl set-property does (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub property: Vec<String>,
    /// Stay in the unit that osier was started in, make no scope
    #[arg(long)]
    pub keep_unit: bool,
}

/// What it may use.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Most memory: a size such as 2G, a percentage of the host's, or max; what cannot be kept to it is killed
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Most CPU time: a number of CPUs such as 1.5, a percentage of one such as 150%, or max
    #[arg(long, value_name = "CPUS")]
    pub cpus: Option<String>,
    /// Most processes and threads, or max
    #[arg(long, value_name = "NUMBER")]
    pub tasks: Option<String>,
    /// Most of a block device: `/dev/vda rbps=1M wiops=100`, any of rbps, wbps, riops, wiops (repeatable)
    #[arg(long, value_name = "DEVICE RATE=LIMIT...")]
    pub io: Vec<String>,
    /// CPUs that it may run on, such as 0-1,4
    #[arg(long, value_name = "CPUS")]
    pub cpuset: Option<String>,
}

/// What it may do.
#[derive(Debug, Args)]
#[command(next_help_heading = "Security")]
pub struct Security {
    /// Keep these capabilities too, separated by commas; `all`: every one (repeatable)
    #[arg(long, value_name = "CAP,...")]
    pub capability: Vec<String>,
    /// Drop these capabilities, separated by commas; `all`: every one (repeatable)
    #[arg(long, value_name = "CAP,...")]
    pub drop_capability: Vec<String>,
    /// Users of its own: the host's (no), the tree owner's range (yes), a free range (pick), the host's in a namespace of its own
    /// (identity), or this range [default: no]
    #[arg(long, value_name = "USERS", num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    pub private_users: Option<String>,
    /// Users of its own, a free range: --private-users=pick
    #[arg(short = 'U', conflicts_with = "private_users")]
    pub pick_users: bool,
    /// Whose the tree's files are then: as they are (off), or ID 0 the machine's 0 and so on, by mapped mounts (map), in the tree for
    /// good (chown), or by what its file system can (auto) [default: auto with pick, else off]
    #[arg(long, value_name = "WHOSE", value_parser = ["off", "map", "chown", "auto"])]
    pub private_users_ownership: Option<String>,
    /// /sys and /proc/sys: read-only, but for network settings, or writable [default: network with an own network, else ro]
    #[arg(long, value_name = "ACCESS", value_parser = ["ro", "network", "rw"])]
    pub api_vfs: Option<String>,
}

/// systemd's words for yes and no, of which two are shown as in systemd-nspawn, and `auto`.
fn yes_no_or_auto() -> PossibleValuesParser {
    PossibleValuesParser::new(yes_and_no().into_iter().chain([PossibleValue::new("auto")]))
}

fn settings_values() -> PossibleValuesParser {
    let more = ["override", "trusted"].map(PossibleValue::new);
    PossibleValuesParser::new(yes_and_no().into_iter().chain(more))
}

fn yes_and_no() -> [PossibleValue; 2] {
    [
        PossibleValue::new("yes").aliases(["true", "on", "1", "y", "t"]),
        PossibleValue::new("no").aliases(["false", "off", "0", "n", "f"]),
    ]
}
