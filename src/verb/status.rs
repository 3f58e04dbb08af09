//! `osier status`: how a machine is, for people.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;

use serde::Serialize;

use super::{age, json, print, running};
use crate::cgroup::usage::{self, Node, Usage};
use crate::cli::Status;
use crate::error::Result;
use crate::machine::record::{Record, Store};
use crate::net::addresses;

/// A record and what changes by the moment; what `osier status --json` prints.
#[derive(Debug, Serialize)]
struct Now {
    #[serde(flatten)]
    record: Record,
    addresses: Vec<IpAddr>,
    usage: Option<Usage>,
    processes: Option<Node>,
}

/// Prints how machines are.
///
/// # Errors
/// When a machine is not there, or standard output cannot be written to.
pub fn execute(options: &Status, store: &Store) -> Result<()> {
    let now: Vec<_> = running(store, &options.names)?.into_iter().map(look).collect();
    if options.json {
        let texts: Result<String> = now.iter().map(json).collect();
        return print(&texts?);
    }
    let texts: Vec<_> = now.iter().map(text).collect();
    print(&texts.join("\n"))
}

/// What cannot be read is left out: a machine may end at any time, and the caller may not be root.
fn look(record: Record) -> Now {
    let cgroup = record.cgroup.as_deref().filter(|path| path.is_dir());
    Now {
        addresses: addresses::read(record.leader).unwrap_or_default(),
        usage: cgroup.map(usage::read),
        processes: cgroup.and_then(|path| usage::tree(path).ok()),
        record,
    }
}

fn text(now: &Now) -> String {
    let record = &now.record;
    let mut text = format!("{}({})\n", record.name, record.id);
    for (key, value) in lines(now) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key:>12}: {value}");
    }
    if let (Some(cgroup), Some(tree)) = (&record.cgroup, &now.processes) {
        let _ = writeln!(text, "{:>12}: {}", "CGroup", cgroup.display());
        branches(tree, &" ".repeat(14), &mut text);
    }
    text
}

fn lines(now: &Now) -> Vec<(&'static str, String)> {
    let record = &now.record;
    let ago = age::span(age::since(record.started));
    let mut lines = vec![
        ("Since", format!("{}; {ago} ago", age::moment(record.started))),
        ("Leader", process(record.leader.into())),
        ("Supervisor", process(record.supervisor.into())),
        ("Service", format!("{}; class {}", super::SERVICE, record.class)),
        ("Root", record.root.display().to_string()),
    ];
    lines.extend(record.os.clone().map(|os| ("OS", os)));
    lines.extend(record.unit.clone().map(|unit| ("Unit", unit)));
    lines.push(("Clocks", clocks(record)));
    if !record.links.is_empty() {
        lines.push(("Interface", record.links.join(", ")));
    }
    lines.extend(now.addresses.iter().map(|address| ("Address", address.to_string())));
    if let Some(usage) = &now.usage {
        lines.extend(usage.tasks.map(|tasks| ("Tasks", tasks.to_string())));
        let peak = usage.memory_peak.map(|peak| format!(" (peak {})", size(peak))).unwrap_or_default();
        lines.extend(usage.memory.map(|memory| ("Memory", size(memory) + &peak)));
        lines.extend(usage.cpu().map(|cpu| ("CPU", age::span(cpu))));
    }
    lines
}

fn clocks(record: &Record) -> String {
    let clocks = record.clocks;
    if clocks.monotonic_offset_ns == 0 && clocks.boottime_offset_ns == 0 {
        return "the host's".to_owned();
    }
    let (monotonic, boottime) =
        (age::offset(clocks.monotonic_offset_ns), age::offset(clocks.boottime_offset_ns));
    format!("monotonic {monotonic}, boottime {boottime} from the host's")
}

/// `4711 (systemd)`.
fn process(pid: u64) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{pid} ({})", name.trim_end()),
        Err(_) => pid.to_string(),
    }
}

/// Binary units with one decimal, as systemd prints them: `33.1M`.
fn size(bytes: u64) -> String {
    let units = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    match units.iter().find(|(_, bits)| bytes >> bits > 0) {
        Some((name, bits)) => {
            let tenths = (u128::from(bytes) * 10) >> bits;
            format!("{}.{}{name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes}B"),
    }
}

/// The populated directories below `node` and the processes in it, drawn as a tree.
fn branches(node: &Node, indent: &str, text: &mut String) {
    let children: Vec<_> = node.children.iter().filter(|child| child.is_populated()).collect();
    let count = node.processes.len() + children.len();
    let mark = |position: usize| if position + 1 == count { ("└─", "  ") } else { ("├─", "│ ") };
    for (position, pid) in node.processes.iter().enumerate() {
        let _ = writeln!(text, "{indent}{}{pid} {}", mark(position).0, command(*pid));
    }
    for (position, child) in children.into_iter().enumerate() {
        let (branch, below) = mark(node.processes.len() + position);
        let _ = writeln!(text, "{indent}{branch}{}", child.name);
        branches(child, &format!("{indent}{below}"), text);
    }
}

/// The command line of a process; a machine's own text, so that control characters are not printed as they are.
fn command(pid: u64) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line: String = String::from_utf8_lossy(&line)
        .trim_end_matches('\0')
        .chars()
        .map(|char| if char == '\0' { ' ' } else { char })
        .flat_map(
            |char| {
                if char.is_control() { char.escape_default().collect::<Vec<_>>() } else { vec![char] }
            },
        )
        .collect();
    if line.is_empty() { process(pid) } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal() {
        for (bytes, text) in
            [(0, "0B"), (1023, "1023B"), (1536, "1.5K"), (33 << 20, "33.0M"), (u64::MAX, "16777215.9T")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn empty_directories_are_not_drawn() {
        let leaf = |name: &str, processes: &[u64]| Node {
            name: name.to_owned(),
            processes: processes.to_vec(),
            children: vec![],
        };
        let pid = u64::from(std::process::id());
        let tree = Node {
            name: "machine-web.scope".to_owned(),
            processes: vec![],
            children: vec![
                Node { children: vec![leaf("empty", &[])], ..leaf("gone", &[]) },
                Node { children: vec![leaf("init.scope", &[pid])], ..leaf("payload", &[]) },
                leaf("supervisor", &[pid]),
            ],
        };
        let mut text = String::new();
        branches(&tree, "", &mut text);
        let command = command(pid);
        let expected =
            format!("├─payload\n│ └─init.scope\n│   └─{pid} {command}\n└─supervisor\n  └─{pid} {command}\n");
        assert_eq!(text, expected);
    }
}
