//! Completion: a shell's script asks osier itself, which knows its command line, the machines that run and the images.
//!
//! The script sets [`ASKED`] in the environment; without it this costs one look there. No bus is asked: machined keeps a
//! file for each machine, and osier its records.
//!
//! Which names an argument takes is said by what the definition calls its value: `NAME` a machine's, `IMAGE` and `NAME|PATH`
//! an image's.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Arg, Command, CommandFactory};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::{CompleteEnv, Shells};

use super::Cli;
use crate::bus::machined;
use crate::cgroup::limits::Key;
use crate::image;
use crate::machine::record::Store;

/// The variable by which a script asks.
const ASKED: &str = "_OSIER_COMPLETE";
/// Whether a script asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// No: osier was started to do something.
    No,
    /// Yes, and the answer was written to standard output.
    Answered,
}

/// Answers a script that asks.
///
/// # Errors
/// When its shell is none that is known, or standard output cannot be written to.
pub fn answer() -> clap::error::Result<Asked> {
    if std::env::var_os(ASKED).is_none() {
        return Ok(Asked::No);
    }
    let directory = std::env::current_dir().ok();
    let answered = CompleteEnv::with_factory(command)
        .var(ASKED)
        .try_complete(std::env::args_os(), directory.as_deref())?;
    Ok(if answered { Asked::Answered } else { Asked::No })
}

/// The script for a shell, by the name of the shell.
///
/// # Errors
/// `Unsupported` for a shell that the engine does not have.
pub fn script(shell: &str) -> std::io::Result<Vec<u8>> {
    let shells = Shells::builtins();
    let shell = shells.completer(shell).ok_or(std::io::ErrorKind::Unsupported)?;
    let mut script = Vec::new();
    shell.write_registration(ASKED, "osier", "osier", "osier", &mut script)?;
    Ok(script)
}

/// The definition, with the completion of names added to it.
fn command() -> Command {
    let with_names = |verb: Command| verb.mut_args(complete);
    Cli::command().mut_subcommands(|verb| with_names(verb).mut_subcommands(with_names))
}

fn complete(argument: Arg) -> Arg {
    if !argument.is_positional() {
        return argument;
    }
    let value = argument.get_value_names().and_then(|names| names.first()).map(|name| name.to_string());
    match value.as_deref() {
        Some("NAME") => argument.add(ArgValueCompleter::new(machines)),
        Some("[USER@]NAME") => argument.add(ArgValueCompleter::new(users_machines)),
        Some("IMAGE") => argument.add(ArgValueCompleter::new(images)),
        Some("NAME|PATH") => argument.add(ArgValueCompleter::new(trees)),
        Some("RECIPE|PATH") => argument.add(ArgValueCompleter::new(recipes)),
        Some("KEY=VALUE") => argument.add(ArgValueCompleter::new(limits)),
        _ => argument,
    }
}

fn candidates(names: impl IntoIterator<Item = String>, typed: &str) -> Vec<CompletionCandidate> {
    names.into_iter().filter(|name| name.starts_with(typed)).map(CompletionCandidate::new).collect()
}

fn machines(typed: &OsStr) -> Vec<CompletionCandidate> {
    candidates(running(), &typed.to_string_lossy())
}

/// The machines that run: osier's, and those that machined knows.
fn running() -> Vec<String> {
    let records = Store::default().list().unwrap_or_default();
    let mut names: Vec<_> = records.into_iter().map(|record| record.name).chain(machined::names()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// `memory.max=`, to go on with what it is to be.
fn limits(typed: &OsStr) -> Vec<CompletionCandidate> {
    candidates(Key::files().map(|(name, _)| format!("{name}=")), &typed.to_string_lossy())
}

/// A machine after who it is that goes in.
fn users_machines(typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let before = typed.rfind('@').map_or("", |at| &typed[..=at]);
    candidates(running().into_iter().map(|name| format!("{before}{name}")), &typed)
}

fn images(typed: &OsStr) -> Vec<CompletionCandidate> {
    candidates(image::names_in(&image::SEARCH_PATH.map(Path::new)), &typed.to_string_lossy())
}

/// An image by its name, or a directory as soon as there is a slash.
fn trees(typed: &OsStr) -> Vec<CompletionCandidate> {
    or_path(typed, images, PathCompleter::dir())
}

fn recipes(typed: &OsStr) -> Vec<CompletionCandidate> {
    let names = |typed: &OsStr| candidates(image::names(), &typed.to_string_lossy());
    or_path(typed, names, PathCompleter::file())
}

fn or_path(
    typed: &OsStr,
    names: impl Fn(&OsStr) -> Vec<CompletionCandidate>,
    paths: PathCompleter,
) -> Vec<CompletionCandidate> {
    let is_path = typed.to_string_lossy().contains('/');
    if is_path { paths.complete(&OsString::from(typed)) } else { names(typed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_that_is_a_name_completes() {
        let names = |argument: &&Arg| {
            let value = argument.get_value_names().and_then(|names| names.first());
            argument.is_positional()
                && value
                    .is_some_and(|value| ["NAME", "IMAGE"].iter().any(|word| value.as_str().contains(word)))
        };
        let command = command();
        let verbs: Vec<_> =
            command.get_subcommands().flat_map(|verb| verb.get_subcommands().chain([verb])).collect();
        let found: Vec<_> = verbs
            .iter()
            .flat_map(|verb| verb.get_arguments().filter(names).map(move |name| (verb, name)))
            .collect();
        assert!(found.len() > 5, "{found:?}");
        for (verb, name) in found {
            assert!(name.get::<ArgValueCompleter>().is_some(), "{} {}", verb.get_name(), name.get_id());
        }
    }
}
