//! `osier show`: all that is known about a machine, for programs.

use std::fmt::Display;

use super::schema::{Moment, Others, Own, Shown};
use super::subject::{self, Subject};
use super::{age, json, print};
use crate::bus::machined::Machine;
use crate::cli::Show;
use crate::error::{Error, Result};
use crate::machine::record::{Clocks, Store};

/// Prints properties, or all there is as JSON.
///
/// # Errors
/// When a machine is not there, a property is not known, or standard output cannot be written to.
pub fn execute(options: &Show, store: &Store) -> Result<()> {
    let subjects = subject::find(store, &options.names)?;
    if options.json {
        let texts: Result<String> = subjects.iter().map(|subject| json(&subject.shown())).collect();
        return print(&texts?);
    }
    let texts: Result<Vec<_>> = subjects.iter().map(|subject| text(options, subject)).collect();
    print(&texts?.join(if options.value { "" } else { "\n" }))
}

fn text(options: &Show, subject: &Subject) -> Result<String> {
    let known = properties(subject);
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

/// Keys and values in the order in which they are printed.
type Properties = Vec<(String, String)>;

/// All that `machinectl show` has, by its names and in its order, then osier's own.
fn properties(subject: &Subject) -> Properties {
    match (subject, subject.shown()) {
        (_, Shown::Own(own)) => of_own(&own),
        (Subject::Others(machine), Shown::Others(others)) => of_others(machine, &others),
        // `shown` keeps the kind.
        (Subject::Own(_), Shown::Others(_)) => Properties::new(),
    }
}

fn of_own(own: &Own) -> Properties {
    let record = &own.record;
    let indices = record.links.iter().filter_map(|link| nix::net::if_::if_nametoindex(link.as_str()).ok());
    let pairs = [
        ("Name", record.name.clone()),
        ("Id", record.id.clone()),
        ("Timestamp", age::moment(record.started)),
        ("TimestampMonotonic", record.started_monotonic.to_string()),
        ("Service", own.service.clone()),
        ("Unit", text_of(record.unit.as_ref())),
        ("Leader", record.leader.to_string()),
        ("Class", record.class.clone()),
        ("RootDirectory", record.root.display().to_string()),
        ("NetworkInterfaces", words(indices)),
        ("VSockCID", u32::MAX.to_string()),
        ("SSHAddress", String::new()),
        ("SSHPrivateKeyPath", String::new()),
        ("State", record.state.to_string()),
        ("Verb", record.verb.clone()),
        ("Init", text_of(record.init)),
        ("Supervisor", record.supervisor.to_string()),
        ("Owner", record.owner.to_string()),
        ("OS", text_of(record.os.as_ref())),
        ("Registered", if record.registered { "yes" } else { "no" }.to_owned()),
        ("ControlGroup", text_of(record.cgroup.as_ref().map(|path| path.display()))),
        ("Links", record.links.join(" ")),
        ("Users", text_of(record.users)),
    ];
    let namespaces = record.namespaces.iter().map(|(kind, id)| (format!("Namespace-{kind}"), id.to_string()));
    let pairs = pairs.into_iter().chain(clocks(Some(record.clocks), &own.moment));
    pairs.map(|(key, value)| (key.to_owned(), value)).chain(namespaces).collect()
}

fn of_others(machine: &Machine, others: &Others) -> Properties {
    let pairs = [
        ("Name", machine.name.clone()),
        ("Id", machine.id.clone()),
        ("Timestamp", age::moment(machine.started)),
        ("TimestampMonotonic", machine.started_monotonic.to_string()),
        ("Service", machine.service.clone()),
        ("Unit", machine.unit.clone()),
        ("Leader", machine.leader.to_string()),
        ("Class", machine.class.clone()),
        ("RootDirectory", text_of(machine.root.as_ref().map(|path| path.display()))),
        ("NetworkInterfaces", words(machine.ifindices.iter())),
        ("VSockCID", machine.vsock_cid.unwrap_or(u32::MAX).to_string()),
        ("SSHAddress", machine.ssh_address.clone()),
        ("SSHPrivateKeyPath", machine.ssh_key.clone()),
        ("State", machine.state.clone()),
        ("OS", text_of(others.os.as_ref())),
        ("ControlGroup", text_of(others.cgroup.as_ref().map(|path| path.display()))),
        ("Links", others.links.join(" ")),
    ];
    let pairs = pairs.into_iter().chain(clocks(others.clocks, &others.moment));
    pairs.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The offsets, what the machine's clocks show, and how long it has run; what is not known is empty.
fn clocks(offsets: Option<Clocks>, moment: &Moment) -> [(&'static str, String); 5] {
    let now = moment.clocks_now.as_ref();
    [
        ("ClockMonotonicOffsetNSec", text_of(offsets.map(|offsets| offsets.monotonic_offset_ns))),
        ("ClockBoottimeOffsetNSec", text_of(offsets.map(|offsets| offsets.boottime_offset_ns))),
        ("ClockMonotonicNSec", text_of(now.map(|now| now.monotonic_ns))),
        ("ClockBoottimeNSec", text_of(now.map(|now| now.boottime_ns))),
        ("UptimeUSec", moment.uptime_usec.to_string()),
    ]
}

fn text_of(value: Option<impl Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn words(items: impl Iterator<Item = impl Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}
