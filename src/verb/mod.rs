//! The verbs: one file each. A verb looks at its own options, calls down, and formats what comes back.

mod age;
pub mod attach;
mod attended;
pub mod bind;
pub mod boot;
pub mod check;
pub mod checkpoint;
mod clean;
pub mod clock;
pub mod completions;
mod continuation;
pub mod copy;
pub mod enable;
pub mod freeze;
pub mod image;
pub mod kill;
mod lifetime;
pub mod list;
pub mod login;
pub mod logs;
mod may;
pub mod migrate;
mod opened;
mod prewarmed;
mod ranges;
pub mod restore;
pub mod run;
mod said;
mod schema;
pub mod set;
pub mod shell;
pub mod show;
pub mod start;
pub mod status;
pub mod stop;
mod subject;
mod sweep;
mod table;
mod target;
pub mod top;
pub mod wait;

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::bus;
use crate::cli::Verb;
use crate::error::{Error, Kind, Result};
use crate::exit;
use crate::machine::record::{Record, Store};

/// What osier calls itself towards machined and in lists.
const SERVICE: &str = "osier";

/// Runs a verb and gives the exit code to leave with.
///
/// # Errors
/// What the operator is to read; [`exit_code`] says what to leave with then.
pub fn execute(verb: &Verb) -> Result<u8> {
    match verb {
        Verb::Boot(options) => return boot::execute(options),
        Verb::Run(options) => return run::execute(options),
        Verb::Start(options) => return start::execute(options, &Store::default()),
        Verb::Enable(options) => enable::enable(options),
        Verb::Disable(options) => enable::disable(options),
        Verb::List(options) => list::execute(options, &Store::default()),
        Verb::Status(options) => status::execute(options, &Store::default()),
        Verb::Show(options) => show::execute(options, &Store::default()),
        Verb::Top(options) => return top::execute(options, &Store::default()),
        Verb::Clock(options) => clock::execute(options, &Store::default()),
        Verb::Logs(options) => logs::execute(options, &Store::default()),
        Verb::Login(options) => login::execute(options, &Store::default()),
        Verb::Shell(options) => return shell::execute(options, &Store::default()),
        Verb::Attach(options) => return attach::execute(options, &Store::default()),
        Verb::Poweroff(options) => stop::poweroff(options, &Store::default()),
        Verb::Reboot(options) => stop::reboot(options, &Store::default()),
        Verb::Terminate(options) => stop::terminate(options, &Store::default()),
        Verb::Kill(options) => kill::execute(options, &Store::default()),
        Verb::Freeze(options) => freeze::freeze(options, &Store::default()),
        Verb::Thaw(options) => freeze::thaw(options, &Store::default()),
        Verb::Wait(options) => wait::execute(options, &Store::default()),
        Verb::Set(options) => set::execute(options, &Store::default()),
        Verb::CopyTo(options) => copy::copy_to(options, &Store::default()),
        Verb::CopyFrom(options) => copy::copy_from(options, &Store::default()),
        Verb::Bind(options) => bind::execute(options, &Store::default()),
        Verb::Checkpoint(options) => checkpoint::execute(options, &Store::default()),
        Verb::Restore(options) => return restore::execute(options),
        Verb::Migrate(options) => return migrate::execute(options, &Store::default()),
        Verb::Check(options) => return check::execute(options, &Store::default()),
        Verb::Image(options) => return image::execute(options),
        Verb::Completions(options) => completions::execute(options),
    }?;
    Ok(0)
}

/// The exit code of a verb that failed (DESIGN §7).
pub fn exit_code(verb: &Verb, kind: Kind) -> u8 {
    let relays =
        matches!(verb, Verb::Boot(_) | Verb::Run(_) | Verb::Shell(_) | Verb::Attach(_) | Verb::Restore(_));
    match kind {
        Kind::Usage => exit::USAGE,
        Kind::CannotExecute if relays => exit::CANNOT_EXECUTE,
        Kind::CommandNotFound if relays => exit::NOT_FOUND,
        _ if relays => exit::OWN_FAILURE,
        _ => 1,
    }
}

/// Writes to standard output. A reader that has seen enough (`osier list | head -1`) is no failure.
fn print(text: &str) -> Result<()> {
    try_print(text).map(drop)
}

/// Who reads standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Somebody, as far as is known.
    There,
    /// Nobody any more.
    Gone,
}

/// As [`print`], for a verb that has more to say.
fn try_print(text: &str) -> Result<Reader> {
    try_write(text.as_bytes())
}

/// As [`try_print`], of what need not be text.
fn try_write(bytes: &[u8]) -> Result<Reader> {
    let mut output = io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Error::io("cannot write to standard output", &error)),
        Ok(()) => Ok(Reader::There),
    }
}

/// A value as indented JSON with a line's end.
fn json(value: &impl Serialize) -> Result<String> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => Ok(text + "\n"),
        Err(error) => Err(Error::new(Kind::Failed, "cannot write JSON").because(error)),
    }
}

/// The records of all machines named, for a verb that works on osier's own alone.
///
/// # Errors
/// When one of them does not run.
pub fn running(store: &Store, names: &[String]) -> Result<Vec<Record>> {
    names.iter().map(|name| store.read(name).ok_or_else(|| unknown(store, name))).collect()
}

/// What the os-release of a tree says that it is.
fn image_os(root: &Path) -> Option<String> {
    Some(crate::image::Tree::open(root).ok()?.read_os_release().ok()??.pretty_name)
}

fn unknown(store: &Store, name: &str) -> Error {
    if machined_knows(name) {
        let what = format!("'{name}' is not a machine of osier's");
        return Error::new(Kind::NotFound, what)
            .hint(format!("systemd-machined knows it: machinectl status {name}"));
    }
    let error = Error::new(Kind::NotFound, format!("no machine '{name}' is running"));
    let names: Vec<_> = store.list().unwrap_or_default().into_iter().map(|record| record.name).collect();
    let is_image = !name.contains('/') && crate::image::find(name).is_ok();
    match closest(name, &names) {
        _ if is_image => error.hint(format!("there is an image of that name; `osier start {name}` boots it")),
        Some(close) => error.hint(format!("did you mean '{close}'?")),
        None => error.hint("see `osier list`"),
    }
}

/// Whether machined has a machine of this name; a bus that does not answer knows nothing.
fn machined_knows(name: &str) -> bool {
    bus::available() && matches!(bus::machined::get(name), Ok(Some(_)))
}

/// The name that a mistyped one was probably meant to be: at most a third of it differs.
fn closest<'a>(name: &str, names: &'a [String]) -> Option<&'a str> {
    let slips = (name.chars().count() / 3).max(1);
    let measured = names.iter().map(|other| (strsim::osa_distance(name, other), other.as_str()));
    measured.filter(|(distance, _)| *distance <= slips).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn exit_codes_are_those_of_the_design() {
        let verb = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap().verb;
        let (run, list) = (verb("osier run /t -- x"), verb("osier list"));
        let codes = |verb: &Verb| {
            [Kind::Usage, Kind::Failed, Kind::InUse, Kind::CannotExecute, Kind::CommandNotFound]
                .map(|kind| exit_code(verb, kind))
        };
        assert_eq!(codes(&run), [2, 125, 125, 126, 127]);
        assert_eq!(codes(&verb("osier boot web")), [2, 125, 125, 126, 127]);
        assert_eq!(codes(&list), [2, 1, 1, 1, 1]);
    }

    #[test]
    fn a_slip_of_the_finger_finds_its_name() {
        let names = ["web", "database", "build-1"].map(str::to_owned);
        assert_eq!(closest("wbe", &names), Some("web"));
        assert_eq!(closest("databse", &names), Some("database"));
        assert_eq!(closest("mail", &names), None);
    }
}
