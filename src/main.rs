//! Parse, run the verb, leave with its exit code: the only place where the process ends.

use std::process::ExitCode;

use clap::Parser;

use osier::cli::{Cli, complete};
use osier::error::Error;
use osier::verb;

fn main() -> ExitCode {
    match complete::answer() {
        Ok(complete::Asked::No) => {}
        Ok(complete::Asked::Answered) => return ExitCode::SUCCESS,
        Err(refusal) => return usage(&refusal),
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refusal) => return usage(&refusal),
    };
    match verb::execute(&cli.verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&error);
            ExitCode::from(verb::exit_code(&cli.verb, error.kind()))
        }
    }
}

/// `--help` and `--version` come this way too; those go to standard output and are no failure.
fn usage(refusal: &clap::Error) -> ExitCode {
    if refusal.use_stderr() {
        let text = refusal.to_string();
        say(text
            .strip_prefix("error")
            .map_or_else(|| text.clone(), |rest| format!("osier{rest}"))
            .trim_end());
    } else {
        // A reader that has seen enough of it is no failure.
        let _ = refusal.print();
    }
    ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(osier::exit::USAGE))
}

fn report(error: &Error) {
    say(&format!("osier: {error}"));
    if let Some(hint) = error.hint_text() {
        say(&format!("hint: {hint}"));
    }
}

/// A line to standard error; when that is closed there is nobody to tell.
fn say(line: &str) {
    osier::error::say(format_args!("{line}\n"));
}
