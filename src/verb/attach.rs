//! `osier attach`: the terminal becomes the console of a machine that runs already.

use std::io;

use super::may::may;
use super::running;
use crate::cli::Attach;
use crate::console::{AttachEnd, Hello, Role, ToFront, attach, listener};
use crate::error::{Context, Error, Kind, Result};
use crate::exit::Ended;
use crate::machine::record::{Record, Store};

/// `osier attach`: the exit code to leave with, the machine's own when it ended.
///
/// # Errors
/// When the machine is not there or has no console, and when its supervisor is killed.
pub fn execute(options: &Attach, store: &Store) -> Result<u8> {
    let name = &options.name;
    let what = || format!("cannot attach to '{name}'");
    let record = running(store, std::slice::from_ref(name))?.swap_remove(0);
    may(&record, "attach to")?;
    let socket = listener::connect(&record.name).map_err(|error| refuse(what(), &record, &error))?;
    let hello = if options.watch { Hello::Watch } else { Hello::Keyboard };
    let say = |text: &str| {
        if !options.quiet {
            // The terminal is raw: a line's end alone would not return the carriage.
            crate::error::say(format_args!("\r\nosier: {text}\r\n"));
        }
    };
    let end = attach(socket, hello, |told| say(words(told))).context(what)?;
    match end {
        AttachEnd::Detached => {
            say(&format!("detached; machine '{name}' goes on"));
            Ok(0)
        }
        AttachEnd::Ended(code) => {
            say(&format!("machine '{name}' has ended"));
            Ok(code)
        }
        AttachEnd::Left(signal) => Ok(Ended::Killed(signal).code()),
        AttachEnd::Lost => Err(Error::new(Kind::Failed, format!("lost the console of '{name}'"))
            .because(format!("its supervisor, process {}, is gone", record.supervisor))
            .hint("`osier list` shows the machines that run")),
    }
}

/// What a terminal may do from now on.
fn words(told: ToFront) -> &'static str {
    match told {
        ToFront::Role(Role::Keyboard) => "this terminal has the keyboard now",
        ToFront::Role(Role::Waiting | Role::Watching) => {
            "another terminal has the keyboard; this one watches (^]^]d leaves)"
        }
        _ => "this terminal only watches; ^]^]d leaves",
    }
}

fn refuse(what: String, record: &Record, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::new(Kind::Unsupported, what)
            .because("it runs without a console (--console=pipe)")
            .hint(format!("`osier shell {}` opens a terminal of its own in it", record.name)),
        io::ErrorKind::ConnectionRefused => Error::new(Kind::Failed, what).because("it has just ended"),
        io::ErrorKind::PermissionDenied => {
            Error::io(what, error).hint("run osier as root, for instance with sudo")
        }
        _ => Error::io(what, error),
    }
}
