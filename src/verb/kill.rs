//! `osier kill`: a signal for the processes of machines.

use std::os::fd::AsFd;

use super::closest;
use super::may::{Way, refused, way};
use super::target::{Target, find_all};
use crate::bus::machined;
use crate::cgroup::PAYLOAD;
use crate::cgroup::signals::{self, Reach};
use crate::cli::{Kill, Whom};
use crate::error::{Context, Error, Kind, Result};
use crate::machine::process::{is_current, open_leader};
use crate::machine::record::{Record, Store};
use crate::settings::Setting;
use crate::signal::Signal;
use crate::sys;

/// Sends the signal to all machines named, whatever becomes of one; all of them have to be there.
///
/// # Errors
/// When the signal is none, a machine is not there or has ended, or may not be signalled.
pub fn execute(options: &Kill, store: &Store) -> Result<()> {
    let signal = options.signal.as_deref().map_or(Ok(Signal::TERM), parse)?;
    let whom = options.whom.unwrap_or(Whom::All);
    let targets = find_all(store, &options.names)?;
    let ways: Result<Vec<_>> = targets.iter().map(|target| way(target, "signal")).collect();
    let sent: Vec<_> =
        targets.iter().zip(ways?).map(|(target, way)| send(store, target, way, whom, signal)).collect();
    sent.into_iter().collect()
}

fn parse(text: &str) -> Result<Signal> {
    text.parse().map_err(|reason| {
        let refusal = Setting::flag("--signal", text).refuse(reason);
        let name = text.to_ascii_uppercase();
        let name = format!("SIG{}", name.strip_prefix("SIG").unwrap_or(&name));
        let names: Vec<_> = Signal::names().map(str::to_owned).collect();
        match closest(&name, &names) {
            Some(close) => refusal.hint(format!("did you mean '{close}'?")),
            None => refusal,
        }
    })
}

fn send(store: &Store, target: &Target, way: Way, whom: Whom, signal: Signal) -> Result<()> {
    match (target, way, whom) {
        (Target::Own(record), Way::Direct, Whom::Leader) => send_leader(store, record, signal),
        (Target::Own(record), Way::Direct, Whom::All) => send_all(store, record, signal),
        _ => {
            let whom = match whom {
                Whom::Leader => machined::Whom::Leader,
                Whom::All => machined::Whom::All,
            };
            machined::kill(target.name(), whom, signal.number())
                .map_err(|error| refused(target.name(), "signal", &error))
        }
    }
}

fn send_leader(store: &Store, record: &Record, signal: Signal) -> Result<()> {
    let what = || format!("cannot signal '{}'", record.name);
    let leader = open_leader(store, record).context(what)?.ok_or_else(|| ended(record))?;
    match sys::pidfd_send_realtime(leader.as_fd(), signal.number()) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(ended(record)),
        sent => sent.context(what),
    }
}

fn send_all(store: &Store, record: &Record, signal: Signal) -> Result<()> {
    let what = || format!("cannot signal '{}'", record.name);
    let Some(cgroup) = &record.cgroup else { return send_leader(store, record, signal) };
    // A directory of this name could be the next machine's; this one's is there as long as its supervisor has not taken
    // it back.
    if !is_current(store, record) {
        return Err(ended(record));
    }
    match signals::send(&cgroup.join(PAYLOAD), signal) {
        Ok(Reach::All(_)) => Ok(()),
        Ok(Reach::Some(count)) => Err(Error::new(Kind::Failed, what())
            .because(format!("{count} processes got it, and there are always new ones"))
            .hint(format!(
                "`osier freeze {0}` stops them, `osier kill --signal=KILL {0}` ends them",
                record.name
            ))),
        Err(_) if !is_current(store, record) => Err(ended(record)),
        Err(error) => Err(error).context(what),
    }
}

fn ended(record: &Record) -> Error {
    Error::new(Kind::NotFound, format!("machine '{}' has ended", record.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_none_is_refused_with_the_one_that_was_meant() {
        for (text, hint) in [
            ("TREM", Some("SIGTERM")),
            ("sigkil", Some("SIGKILL")),
            ("hub", Some("SIGHUP")),
            ("whatever", None),
        ] {
            let refusal = parse(text).unwrap_err();
            assert_eq!(refusal.kind(), Kind::Usage);
            assert!(refusal.to_string().starts_with(&format!("--signal={text}: not a signal")), "{refusal}");
            let meant = hint.map(|name| format!("did you mean '{name}'?"));
            assert_eq!(refusal.hint_text(), meant.as_deref(), "{text}");
        }
        assert_eq!(parse("RTMIN+3"), Ok(Signal::realtime(3)));
    }
}
