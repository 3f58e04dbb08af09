//! `osier list`: the machines that run.

use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;

use super::{age, json, print, table};
use crate::bus::{self, machined::Machine};
use crate::cli::List;
use crate::error::Result;
use crate::image;
use crate::machine::record::{Record, Store};
use crate::net::addresses;

/// A machine in the list; `osier list --json` prints an array of these.
#[derive(Debug, Serialize)]
struct Row {
    machine: String,
    class: String,
    /// What registered it, as machined names it.
    service: String,
    os: Option<String>,
    /// Microseconds of CLOCK_REALTIME since the epoch.
    started: Option<u64>,
    leader: u32,
    addresses: Vec<IpAddr>,
}

/// Prints the list.
///
/// # Errors
/// When records cannot be read or standard output cannot be written to.
pub fn execute(options: &List, store: &Store) -> Result<()> {
    let mut rows: Vec<Row> = store.list()?.into_iter().map(row).collect();
    rows.extend(others(&rows));
    rows.sort_by(|one, other| one.machine.cmp(&other.machine));
    if options.json {
        return print(&json(&rows)?);
    }
    print(&text(&rows, options.no_legend))
}

fn row(record: Record) -> Row {
    Row {
        // A machine may end while it is listed: no addresses then.
        addresses: addresses::read(record.leader).unwrap_or_default(),
        machine: record.name,
        class: record.class,
        service: super::SERVICE.to_owned(),
        os: record.os,
        started: Some(record.started),
        leader: record.leader,
    }
}

/// The machines that machined knows and osier did not boot. A bus that does not answer hides them, not osier's own.
fn others(own: &[Row]) -> Vec<Row> {
    if !bus::available() {
        return Vec::new();
    }
    let known = bus::machined::list().unwrap_or_default().into_iter();
    // `.host` is the host itself.
    let known = known.filter(|machine| !machine.name.starts_with('.'));
    known.filter(|machine| own.iter().all(|row| row.machine != machine.name)).map(other).collect()
}

fn other(machine: Machine) -> Row {
    Row {
        addresses: addresses::read(machine.leader).unwrap_or_default(),
        machine: machine.name,
        class: machine.class,
        service: machine.service,
        os: machine.root.and_then(|root| os(&root)),
        started: None,
        leader: machine.leader,
    }
}

/// What the os-release of a tree says that it is.
fn os(root: &Path) -> Option<String> {
    Some(image::Tree::open(root).ok()?.read_os_release().ok()??.pretty_name)
}

fn text(rows: &[Row], bare: bool) -> String {
    if rows.is_empty() {
        return if bare { String::new() } else { "No machines.\n".to_owned() };
    }
    let cells: Vec<[String; 6]> = rows.iter().map(cells).collect();
    if bare {
        return table::columns(None, &cells);
    }
    let heading = ["MACHINE", "CLASS", "SERVICE", "OS", "UPTIME", "ADDRESSES"];
    let plural = if rows.len() == 1 { "" } else { "s" };
    format!("{}\n{} machine{plural} listed.\n", table::columns(Some(heading), &cells), rows.len())
}

fn cells(row: &Row) -> [String; 6] {
    let dash = || "-".to_owned();
    let addresses: Vec<_> = row.addresses.iter().map(IpAddr::to_string).collect();
    [
        row.machine.clone(),
        row.class.clone(),
        row.service.clone(),
        row.os.clone().unwrap_or_else(dash),
        row.started.map_or_else(dash, |started| age::span(age::since(started))),
        if addresses.is_empty() { dash() } else { addresses.join(", ") },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_heading_and_a_count_unless_bare() {
        let row = Row {
            machine: "web".to_owned(),
            class: "container".to_owned(),
            service: "osier".to_owned(),
            os: None,
            started: None,
            leader: 1,
            addresses: vec!["10.0.0.2".parse().unwrap(), "fe80::1".parse().unwrap()],
        };
        let rows = [row];
        let expected = "MACHINE CLASS     SERVICE OS UPTIME ADDRESSES\n\
            web     container osier   -  -      10.0.0.2, fe80::1\n\n1 machine listed.\n";
        assert_eq!(text(&rows, false), expected);
        assert_eq!(text(&rows, true), "web container osier - - 10.0.0.2, fe80::1\n");
        assert_eq!(text(&[], false), "No machines.\n");
        assert_eq!(text(&[], true), "");
    }
}
