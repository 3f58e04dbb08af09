//! `osier show`: all that is known about a machine, for programs.

use super::{age, json, print, running};
use crate::cli::Show;
use crate::error::{Error, Result};
use crate::machine::record::{Record, Store};

/// Prints properties, or the record as JSON.
///
/// # Errors
/// When a machine is not there, a property is not known, or standard output cannot be written to.
pub fn execute(options: &Show, store: &Store) -> Result<()> {
    let records = running(store, &options.names)?;
    if options.json {
        let texts: Result<String> = records.iter().map(json).collect();
        return print(&texts?);
    }
    let texts: Result<Vec<_>> = records.iter().map(|record| text(options, record)).collect();
    print(&texts?.join(if options.value { "" } else { "\n" }))
}

fn text(options: &Show, record: &Record) -> Result<String> {
    let known = properties(record);
    if let Some(wrong) = options.property.iter().find(|wanted| known.iter().all(|(key, _)| key != *wanted)) {
        let keys: Vec<_> = known.iter().map(|(key, _)| key.as_str()).collect();
        return Err(
            Error::usage(format!("no property '{wrong}'")).hint(format!("there are {}", keys.join(", ")))
        );
    }
    let wanted = |key: &String| options.property.is_empty() || options.property.contains(key);
    let lines = known
        .iter()
        .filter(|(key, _)| wanted(key))
        .map(|(key, value)| if options.value { format!("{value}\n") } else { format!("{key}={value}\n") });
    Ok(lines.collect())
}

/// The record as properties: machinectl's names where it has them.
fn properties(record: &Record) -> Vec<(String, String)> {
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let pairs = [
        ("Name", record.name.clone()),
        ("Id", record.id.clone()),
        ("Class", record.class.clone()),
        ("Service", super::SERVICE.to_owned()),
        ("Verb", record.verb.clone()),
        ("State", record.state.to_string()),
        ("Timestamp", age::moment(record.started)),
        ("Leader", record.leader.to_string()),
        ("Supervisor", record.supervisor.to_string()),
        ("RootDirectory", record.root.display().to_string()),
        ("OS", record.os.clone().unwrap_or_default()),
        ("Unit", record.unit.clone().unwrap_or_default()),
        ("Registered", if record.registered { "yes" } else { "no" }.to_owned()),
        ("ControlGroup", path(&record.cgroup).unwrap_or_default()),
        ("NetworkInterfaces", record.links.join(" ")),
        ("ClockMonotonicOffsetNSec", record.clocks.monotonic_offset_ns.to_string()),
        ("ClockBoottimeOffsetNSec", record.clocks.boottime_offset_ns.to_string()),
    ];
    let namespaces = record.namespaces.iter().map(|(kind, id)| (format!("Namespace-{kind}"), id.to_string()));
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(namespaces).collect()
}
