//! `osier status`: how a machine is, for people.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::schema::{self, Live, Moment, Others, Own, Shown};
use super::shell::is_frozen;
use super::subject::{self, Subject};
use super::{age, json, logs, print};
use crate::cgroup::PAYLOAD;
use crate::cgroup::usage::{self, Limits, Node, Pressure, Usage};
use crate::cli::Status;
use crate::error::Result;
use crate::machine::record::{Clocks, Store};
use crate::net::addresses;

/// So many lines of a log are shown unless others were asked for, as machinectl shows them.
const LINES: usize = 10;

/// Prints how machines are.
///
/// # Errors
/// When a machine is not there, or standard output cannot be written to.
pub fn execute(options: &Status, store: &Store) -> Result<()> {
    // Before the bus is opened for what others run: zbus starts threads, and who has threads does not fork.
    let records: Vec<_> = options.names.iter().filter_map(|name| store.read(name)).collect();
    let logs: HashMap<_, _> = records
        .iter()
        .map(|record| (record.name.as_str(), logs::last(store, record, options.lines.unwrap_or(LINES))))
        .collect();
    let look = |subject: &Subject| {
        let log = logs.get(subject.name()).cloned().unwrap_or_default();
        look(subject.shown(), log)
    };
    let now: Vec<_> = subject::find(store, &options.names)?.iter().map(look).collect();
    if options.json {
        let texts: Result<String> = now.iter().map(json).collect();
        return print(&texts?);
    }
    let texts: Vec<_> = now.iter().map(text).collect();
    print(&texts.join("\n"))
}

/// What cannot be read is left out: a machine may end at any time, and the caller may not be root.
fn look(machine: Shown, log: Vec<String>) -> schema::Status {
    let cgroup = cgroup(&machine).filter(|path| path.is_dir());
    let live = Live {
        addresses: addresses::read(leader(&machine)).unwrap_or_default(),
        limits: cgroup.map(usage::read_limits),
        usage: cgroup.map(usage::read),
        pressure: cgroup.map(usage::read_pressure),
        // The payload's own directory; the unit's where there is none, as for machines of others.
        frozen: cgroup.is_some_and(|path| is_frozen(&path.join(PAYLOAD)) || is_frozen(path)),
        processes: cgroup.and_then(|path| usage::tree(path).ok()),
        log,
    };
    schema::Status { live, machine }
}

fn cgroup(machine: &Shown) -> Option<&Path> {
    match machine {
        Shown::Own(own) => own.record.cgroup.as_deref(),
        Shown::Others(others) => others.cgroup.as_deref(),
    }
}

fn leader(machine: &Shown) -> u32 {
    match machine {
        Shown::Own(own) => own.record.leader,
        Shown::Others(others) => others.leader,
    }
}

fn text(status: &schema::Status) -> String {
    let (name, id, lines) = match &status.machine {
        Shown::Own(own) => (&own.record.name, Some(&own.record.id), of_own(own)),
        Shown::Others(others) => (&others.name, others.id.as_ref(), of_others(others)),
    };
    let mut text = match id {
        Some(id) => format!("{name}({id})\n"),
        None => format!("{name}\n"),
    };
    for (key, mut value) in lines.into_iter().chain(of_live(&status.live)) {
        if key == "State" && status.live.frozen {
            value.push_str(" (frozen)");
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key:>12}: {value}");
    }
    if let (Some(cgroup), Some(tree)) = (cgroup(&status.machine), &status.live.processes) {
        let _ = writeln!(text, "{:>12}: {}", "CGroup", cgroup.display());
        branches(tree, &" ".repeat(14), &mut text);
    }
    if !status.live.log.is_empty() {
        text.push('\n');
    }
    for line in &status.live.log {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// What stands before a colon, and after it.
type Line = (&'static str, String);

fn of_own(own: &Own) -> Vec<Line> {
    let record = &own.record;
    let mut lines = vec![
        ("State", record.state.to_string()),
        ("Since", since(record.started, &own.moment)),
        ("Uptime", uptime(&own.moment)),
        ("Leader", process(record.leader.into())),
        ("Supervisor", process(record.supervisor.into())),
        ("Service", format!("{}; class {}", own.service, record.class)),
        ("Root", record.root.display().to_string()),
    ];
    lines.extend(record.os.clone().map(|os| ("OS", os)));
    lines.extend(record.init.map(|init| ("Init", init.to_string())));
    lines.extend(record.unit.clone().map(|unit| ("Unit", unit)));
    lines.extend(record.users.map(|ids| ("Users", format!("0 is {}; {} of them", ids.first(), ids.count()))));
    lines.push(("Clocks", clocks(record.clocks)));
    lines.extend(interfaces(&record.links));
    lines
}

fn of_others(others: &Others) -> Vec<Line> {
    let mut lines = vec![
        ("State", others.state.clone()),
        ("Since", since(others.started, &others.moment)),
        ("Uptime", uptime(&others.moment)),
        ("Leader", process(others.leader.into())),
        ("Service", format!("{}; class {}", others.service, others.class)),
    ];
    lines.extend(others.root.as_ref().map(|root| ("Root", root.display().to_string())));
    lines.extend(others.os.clone().map(|os| ("OS", os)));
    lines.extend(others.unit.clone().map(|unit| ("Unit", unit)));
    lines.extend(others.clocks.map(|offsets| ("Clocks", clocks(offsets))));
    lines.extend(interfaces(&others.links));
    lines
}

fn since(started: u64, moment: &Moment) -> String {
    let ago = age::span(Duration::from_micros(moment.uptime_usec));
    format!("{}; {ago} ago", age::moment(started))
}

/// Outside what the host has seen, inside what uptime(1) shows there.
fn uptime(moment: &Moment) -> String {
    let outside = age::span(Duration::from_micros(moment.uptime_usec));
    match &moment.clocks_now {
        Some(now) => {
            let inside = Duration::from_nanos(now.boottime_ns.max(0).unsigned_abs());
            format!("{outside}; inside {}", age::span(inside))
        }
        None => outside,
    }
}

fn interfaces(links: &[String]) -> Option<Line> {
    (!links.is_empty()).then(|| ("Interface", links.join(", ")))
}

fn of_live(live: &Live) -> Vec<Line> {
    let mut lines: Vec<Line> =
        live.addresses.iter().map(|address| ("Address", address.to_string())).collect();
    if let (Some(usage), Some(limits)) = (&live.usage, &live.limits) {
        lines.extend(of_usage(usage, limits));
    }
    lines.extend(live.pressure.as_ref().and_then(pressure).map(|pressure| ("Pressure", pressure)));
    lines
}

/// What is used, and beside it what may be. A controller that the host does not have has no line.
fn of_usage(usage: &Usage, limits: &Limits) -> Vec<Line> {
    let mut lines = Vec::new();
    let notes = |notes: &[Option<String>]| {
        let notes: Vec<_> = notes.iter().flatten().map(String::as_str).collect();
        if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) }
    };
    let noted = |what, value: Option<String>| value.map(|value| format!("{what} {value}"));
    if let Some(tasks) = usage.tasks {
        let limit = noted("limit", limits.tasks_max.map(|limit| limit.to_string()));
        lines.push(("Tasks", tasks.to_string() + &notes(&[limit])));
    }
    if let Some(memory) = usage.memory {
        let sizes = [("peak", usage.memory_peak), ("high", limits.memory_high), ("limit", limits.memory_max)];
        let noted = sizes.map(|(what, bytes)| noted(what, bytes.map(size)));
        lines.push(("Memory", size(memory) + &notes(&noted)));
    }
    lines.extend(usage.oom_kills.filter(|kills| *kills > 0).map(|kills| ("OOM kills", kills.to_string())));
    if let (Some(read), Some(written)) = (usage.io_read, usage.io_written) {
        lines.push(("IO", format!("{} read, {} written", size(read), size(written))));
    }
    if let Some(cpu) = usage.cpu() {
        let quota = limits.cpu_quota_usec.zip(limits.cpu_period_usec.filter(|period| *period > 0));
        let limit = noted("limit", quota.map(|(quota, period)| format!("{}%", quota * 100 / period)));
        lines.push(("CPU", age::span(cpu) + &notes(&[limit])));
    }
    lines
}

/// Over the last ten seconds; none where the kernel does not count it.
fn pressure(pressure: &Pressure) -> Option<String> {
    let parts = [("cpu", pressure.cpu), ("memory", pressure.memory), ("io", pressure.io)];
    let parts: Vec<_> = parts
        .into_iter()
        .filter_map(|(what, percent)| percent.map(|percent| format!("{what} {percent:.1}%")))
        .collect();
    (!parts.is_empty()).then(|| format!("{} of the last 10s waiting", parts.join(", ")))
}

fn clocks(clocks: Clocks) -> String {
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
        Ok(name) => format!("{pid} ({})", harmless(name.trim_end())),
        Err(_) => pid.to_string(),
    }
}

/// Binary units with one decimal, as systemd prints them: `33.1M`.
pub(super) fn size(bytes: u64) -> String {
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
        let _ = writeln!(text, "{indent}{branch}{}", harmless(&child.name));
        branches(child, &format!("{indent}{below}"), text);
    }
}

/// The command line of a process.
fn command(pid: u64) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ");
    if line.is_empty() { process(pid) } else { harmless(&line) }
}

/// A machine's own words: a terminal would obey the control characters in them.
fn harmless(text: &str) -> String {
    let escape =
        |char: char| if char.is_control() { char.escape_default().collect() } else { char.to_string() };
    text.chars().map(escape).collect()
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
    fn a_machines_words_are_no_escape_sequences() {
        assert_eq!(harmless("a\x1b]0;x\x07 gr\u{fc}n"), "a\\u{1b}]0;x\\u{7} gr\u{fc}n");
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
