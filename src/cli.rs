//! The command line: the one definition behind parsing, `--help`, shell completions and the man page.
//!
//! It decides nothing. What `settings` parses with its origin (names, durations, signals, mounts) stays text here, as
//! typed; defaults are said in the help and applied in `spec`. Long option names are systemd-nspawn's wherever the
//! meaning is the same, verbs are machinectl's.

mod checkpoint;
pub mod complete;
mod console;
mod image;
mod launch;
mod migrate;
mod session;
mod set;
mod show;
mod steer;
mod sweep;
mod transfer;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use checkpoint::{Checkpoint, Content, ImagePrewarm, Restore, Source, Tool};
pub use console::{Attach, Enable, Logs, Start};
pub use image::{ImageClone, ImageExport, ImageImport};
pub use launch::{Invocation, Limits, MachineOptions};
pub use migrate::Migrate;
pub use session::{Login, Shell};
pub use set::Set;
pub use show::{Check, Clock, List, Show, Sort, Status, Top};
pub use steer::{Freeze, Kill, Shutdown, Terminate, Wait, Whom};
pub use sweep::Sweep;
pub use transfer::{Bind, CopyFrom, CopyOptions, CopyTo};

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
    /// Boot machines in the background
    Start(Start),
    /// Have machines booted with the host
    Enable(Enable),
    /// Have machines no longer booted with the host
    Disable(Enable),
    /// List the machines that run
    List(List),
    /// Show how a machine is, for people
    Status(Status),
    /// Show all that is known about a machine, for programs
    Show(Show),
    /// Show what the machines use, again and again
    Top(Top),
    /// Show the clocks of a machine beside the host's, or of two machines
    Clock(Clock),
    /// Show what a machine has logged
    Logs(Logs),
    /// Log in to a machine that runs, at a prompt of its own
    Login(Login),
    /// Open a shell, or run a command, in a machine that runs
    Shell(Shell),
    /// Attach the terminal to the console of a machine that runs
    Attach(Attach),
    /// Shut machines down, and wait until they have ended
    Poweroff(Shutdown),
    /// Shut machines down and boot them again, and wait until they do
    Reboot(Shutdown),
    /// End machines at once, without a shutdown
    Terminate(Terminate),
    /// Send a signal to the processes of machines
    Kill(Kill),
    /// Stop all processes of machines, until they are thawed
    Freeze(Freeze),
    /// Let the processes of frozen machines go on
    Thaw(Freeze),
    /// Wait until machines have ended
    Wait(Wait),
    /// Limit what a running machine may use, now and from now on
    Set(Set),
    /// Copy a file or a tree of the host's into a machine
    CopyTo(CopyTo),
    /// Copy a file or a tree of a machine's to the host
    CopyFrom(CopyFrom),
    /// Mount a file or a directory of the host's in a machine that runs
    Bind(Bind),
    /// Save a machine with all that runs in it
    Checkpoint(Checkpoint),
    /// Let a machine that was saved go on
    Restore(Restore),
    /// Have a machine go on at another host
    Migrate(Box<Migrate>),
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
    override_usage = "osier boot [OPTIONS] NAME|PATH [-- INIT-ARGS...]\n       osier boot [OPTIONS] --from CHECKPOINT --machine NAME",
    after_help = "Escapes on the console, within one second:\n  \
    ^]^]^]  end the machine   ^]^]p  power off   ^]^]r  reboot   ^]^]d  detach, the machine goes on"
)]
pub struct Boot {
    /// What of.
    #[command(flatten)]
    pub source: Source,
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
    /// Again and again.
    #[command(flatten)]
    pub sweep: Sweep,
    /// How.
    #[command(flatten)]
    pub options: MachineOptions,
}

/// `osier image`.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Make a tree from a recipe
    Build(ImageBuild),
    /// Make an image that is a copy of another
    Clone(ImageClone),
    /// Boot an image once and save it, for `osier boot --from`
    Prewarm(ImagePrewarm),
    /// Write an image into an archive
    Export(ImageExport),
    /// Make an image of what an archive holds
    Import(ImageImport),
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
            assert_eq!(boot.source.tree.as_deref(), Some("web".as_ref()));
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
        assert_eq!(boot.source.tree.as_deref(), Some("web".as_ref()));
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
