//! `osier list`: the machines that run.

use std::net::IpAddr;

use super::schema::{self, Listed};
use super::subject::{self, Subject};
use super::{age, image_os, json, print, table};
use crate::cli::List;
use crate::error::Result;
use crate::machine::record::Store;
use crate::net::addresses;

/// Prints the list.
///
/// # Errors
/// When records cannot be read or standard output cannot be written to.
pub fn execute(options: &List, store: &Store) -> Result<()> {
    let rows: Vec<Listed> = subject::all(store)?.into_iter().map(row).collect();
    if options.json {
        return print(&json(&rows)?);
    }
    print(&text(&rows, options.no_legend))
}

fn row(subject: Subject) -> Listed {
    match subject {
        Subject::Own(record) => Listed {
            // A machine may end while it is listed: no addresses then.
            addresses: addresses::read(record.leader).unwrap_or_default(),
            version: schema::VERSION,
            name: record.name,
            class: record.class,
            service: super::SERVICE.to_owned(),
            state: record.state.to_string(),
            os: record.os,
            started: record.started,
            leader: record.leader,
        },
        Subject::Others(machine) => Listed {
            addresses: addresses::read(machine.leader).unwrap_or_default(),
            version: schema::VERSION,
            name: machine.name,
            class: machine.class,
            service: machine.service,
            state: machine.state,
            os: machine.root.as_deref().and_then(image_os),
            started: machine.started,
            leader: machine.leader,
        },
    }
}

fn text(rows: &[Listed], bare: bool) -> String {
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

fn cells(row: &Listed) -> [String; 6] {
    let dash = || "-".to_owned();
    let addresses: Vec<_> = row.addresses.iter().map(IpAddr::to_string).collect();
    [
        row.name.clone(),
        row.class.clone(),
        row.service.clone(),
        row.os.clone().unwrap_or_else(dash),
        age::span(age::since(row.started)),
        if addresses.is_empty() { dash() } else { addresses.join(", ") },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_heading_and_a_count_unless_bare() {
        let row = Listed {
            version: 1,
            name: "web".to_owned(),
            state: "running".to_owned(),
            class: "container".to_owned(),
            service: "osier".to_owned(),
            os: None,
            // The clock was set back since.
            started: u64::MAX,
            leader: 1,
            addresses: vec!["10.0.0.2".parse().unwrap(), "fe80::1".parse().unwrap()],
        };
        let rows = [row];
        let expected = "MACHINE CLASS     SERVICE OS UPTIME ADDRESSES\n\
            web     container osier   -  0ms    10.0.0.2, fe80::1\n\n1 machine listed.\n";
        assert_eq!(text(&rows, false), expected);
        assert_eq!(text(&rows, true), "web container osier - 0ms 10.0.0.2, fe80::1\n");
        assert_eq!(text(&[], false), "No machines.\n");
        assert_eq!(text(&[], true), "");
    }
}
