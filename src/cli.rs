//! The command line: the one definition behind parsing, `--help`, shell completions and the man page.
//!
//! It decides nothing. What `settings` parses with its origin (names, durations, signals, mounts) stays text here, as
//! typed; defaults are said in the help and applied in `spec`. Long option names are systemd-nspawn's wherever the
//! meaning is the same, verbs are machinectl's.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Parser, Subcommand};

/// Boots OS trees as machines, with their own init, namespaces, cgroup and clocks
#[derive(Debug, Parser)]
#[command(name = "osier", version, arg_required_else_help = true, subcommand_value_name = "VERB")]
#[command(subcommand_help_heading = "Verbs", infer_subcommands = false, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Boot a machine; the terminal becomes its console
    Boot(Box<Boot>),
    /// Run one command in a machine of its own and relay its exit status
    Run(Box<Run>),
    /// List the machines that run
    List(List),
    /// Show how a machine is, for people
    Status(Status),
    /// Show all that is known about a machine, for programs
    Show(Show),
    /// End machines at once, without a shutdown
    Terminate(Terminate),
    /// Say what this host can do, and what to do about what is missing
    Check(Check),
    /// Make the trees that machines run from
    #[command(subcommand)]
    Image(Image),
    /// Print a shell's completion script
    Completions(Completions),
}

/// `osier boot`.
#[derive(Debug, Args)]
#[command(
    override_usage = "osier boot [OPTIONS] NAME|PATH [-- INIT-ARGS...]",
    after_help = "Escapes on the console, within one second:\n  \
    ^]^]^]  end the machine   ^]^]p  power off   ^]^]r  reboot   ^]^]d  detach, the machine goes on"
)]
pub struct Boot {
    /// Tree to boot: a name in the image search path, or a path (with a `/` in it)
    #[arg(value_name = "NAME|PATH")]
    pub tree: OsString,
    /// Arguments for the init
    #[arg(last = true, value_name = "INIT-ARGS")]
    pub arguments: Vec<OsString>,
    /// How.
    #[command(flatten)]
    pub options: MachineOptions,
}

/// `osier run`.
#[derive(Debug, Args)]
#[command(override_usage = "osier run [OPTIONS] NAME|PATH -- COMMAND...")]
pub struct Run {
    /// Tree to run it in: a name in the image search path, or a path (with a `/` in it)
    #[arg(value_name = "NAME|PATH")]
    pub tree: OsString,
    /// Command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    /// Run the command as PID 2, below a stub init that reaps
    #[arg(short = 'a', long)]
    pub as_pid2: bool,
    /// How.
    #[command(flatten)]
    pub options: MachineOptions,
}

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
    /// Its network.
    #[command(flatten)]
    pub network: Network,
    /// Its console.
    #[command(flatten)]
    pub console: Console,
    /// Its cgroup, its unit, who knows it.
    #[command(flatten)]
    pub cgroup: Cgroup,
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
    /// Signal that asks for a shutdown [default: SIGRTMIN+3 for boot, SIGKILL for run]
    #[arg(long, value_name = "SIGNAL")]
    pub kill_signal: Option<String>,
    /// Tell the service manager READY=1 only when the init has said so [default: no]
    #[arg(long, value_name = "BOOL", value_parser = booleans())]
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
    /// Where monotonic and boottime start: the host's or zero [default: zero for boot, host for run]
    #[arg(long, value_name = "START", value_parser = ["host", "zero"])]
    pub clock: Option<String>,
    /// Let the machine believe that it has been up so long, such as 3d4h or 90.5s
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub uptime: Option<String>,
    /// Offset of CLOCK_MONOTONIC from the host's, such as +1h, -5s or 1500ns
    #[arg(long, value_name = "±DURATION", allow_hyphen_values = true)]
    pub clock_monotonic: Option<String>,
    /// Offset of CLOCK_BOOTTIME from the host's, such as +1h, -5s or 1500ns
    #[arg(long, value_name = "±DURATION", allow_hyphen_values = true)]
    pub clock_boottime: Option<String>,
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
    #[arg(long, value_name = "BOOL", value_parser = register_values())]
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
    /// /sys and /proc/sys: read-only, but for network settings, or writable [default: network with an own network, else ro]
    #[arg(long, value_name = "ACCESS", value_parser = ["ro", "network", "rw"])]
    pub api_vfs: Option<String>,
}

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

/// `osier terminate`.
#[derive(Debug, Args)]
pub struct Terminate {
    /// Machine
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// `osier check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Print JSON: an array of objects
    #[arg(long)]
    pub json: bool,
}

/// `osier image`.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Make a tree from a recipe
    Build(ImageBuild),
}

/// `osier image build`.
#[derive(Debug, Args)]
pub struct ImageBuild {
    /// Recipe: a name, or the path of a TOML file (with a `/` in it)
    #[arg(value_name = "RECIPE|PATH")]
    pub recipe: PathBuf,
    /// Directory to make [default: /var/lib/machines/RECIPE]
    #[arg(long, value_name = "PATH")]
    pub to: Option<PathBuf>,
}

/// `osier completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// Shell
    pub shell: clap_complete::Shell,
}

/// systemd's words for yes and no; as in systemd-nspawn, only two of them are shown.
fn booleans() -> PossibleValuesParser {
    PossibleValuesParser::new(yes_and_no())
}

fn register_values() -> PossibleValuesParser {
    PossibleValuesParser::new(yes_and_no().into_iter().chain([PossibleValue::new("auto")]))
}

fn yes_and_no() -> [PossibleValue; 2] {
    [
        PossibleValue::new("yes").aliases(["true", "on", "1", "y", "t"]),
        PossibleValue::new("no").aliases(["false", "off", "0", "n", "f"]),
    ]
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Verb {
        Cli::try_parse_from(line.split(' ')).unwrap().verb
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_negative_offset_is_a_value() {
        for line in ["osier boot --clock-boottime=-5s web", "osier boot --clock-boottime -5s web"] {
            let Verb::Boot(boot) = parse(line) else { panic!("not boot") };
            assert_eq!(boot.options.clocks.clock_boottime.as_deref(), Some("-5s"));
            assert_eq!(boot.tree, "web");
        }
    }

    #[test]
    fn what_follows_the_dashes_is_the_payloads() {
        let Verb::Run(run) = parse("osier run -x /tree -- /bin/sh -c -x") else { panic!("not run") };
        assert!(run.options.files.ephemeral);
        assert_eq!(run.command, ["/bin/sh", "-c", "-x"]);
        assert!(Cli::try_parse_from(["osier", "run", "/tree"]).is_err(), "run needs a command");
        assert!(Cli::try_parse_from(["osier", "run", "/tree", "/bin/sh"]).is_err(), "and the dashes");
    }

    #[test]
    fn lists_of_values_do_not_eat_the_tree() {
        let Verb::Boot(boot) = parse("osier boot --bind /a --bind /b:/c -E A=1 -E B --property X=1 web")
        else {
            panic!("not boot")
        };
        assert_eq!(boot.options.files.bind, ["/a", "/b:/c"]);
        assert_eq!(boot.options.process.setenv, ["A=1", "B"]);
        assert_eq!(boot.options.cgroup.property, ["X=1"]);
        assert_eq!(boot.tree, "web");
    }

    #[test]
    fn every_help_text_is_one_line() {
        fn walk(command: &clap::Command) {
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                let name = format!("{} {}", command.get_name(), argument.get_id());
                assert!(!help.is_empty() && !help.contains('\n') && !help.ends_with('.'), "{name}: {help:?}");
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }
}
