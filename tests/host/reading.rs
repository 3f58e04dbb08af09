//! The verbs that read, beside the distribution's machinectl: on a machine of osier's, and on one that osier did not boot.

use serde_json::Value;

use crate::machine::{Machine, Nspawn, osier, said};

/// What `show` has, in its order.
fn properties(program: &str, arguments: &[&str], name: &str) -> Vec<(String, String)> {
    let text = said(program, &[arguments, &["show", name]].concat());
    let pairs = text.lines().map(|line| line.split_once('=').expect("KEY=VALUE"));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Every property that machinectl shows osier shows too. When each of the two learned of the machine is not to the second
/// the same moment; all else is the same.
fn compare(name: &str) {
    let theirs = properties("machinectl", &["--all"], name);
    let own = properties(&osier(), &[], name);
    assert!(theirs.len() >= 12, "{theirs:?}");
    for (key, value) in theirs {
        let (_, found) =
            own.iter().find(|(own, _)| *own == key).unwrap_or_else(|| panic!("no {key} ({value}): {own:?}"));
        match key.as_str() {
            "Timestamp" => assert_eq!(found.split(' ').count(), value.split(' ').count(), "{found} {value}"),
            "TimestampMonotonic" => {
                let [found, value] = [found, &value].map(|text| text.parse::<u64>().expect("microseconds"));
                assert!(found.abs_diff(value) < 5_000_000, "{found} {value}");
            }
            // machinectl has no words for an array of numbers; `known` compares it with the bus.
            "NetworkInterfaces" if value == "[unprintable]" => {}
            _ => assert_eq!(*found, value, "{key}"),
        }
    }
}

pub(crate) fn own() {
    let machine = Machine::boot("props", &["--register=yes"]);
    compare(&machine.name);
    let status = said(&osier(), &["status", &machine.name]);
    for part in ["State: running", "Unit: machine-", "; inside ", "Tasks: ", "Memory: ", "init.scope"] {
        // What the host has no controller for has no line.
        let absent = ["Tasks: ", "Memory: "].contains(&part) && !controllers().contains("memory");
        assert!(absent || status.contains(part), "no '{part}': {status}");
    }
    machine.stop();
}

fn controllers() -> String {
    std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default()
}

pub(crate) fn others() {
    let mut other = Nspawn::start("foreign", &["--read-only"]);
    let name = other.name.as_str();
    compare(name);
    let shown: Value =
        serde_json::from_str(&said(&osier(), &["show", name, "--json"])).expect("an object of its own");
    assert_eq!((&shown["name"], &shown["service"]), (&name.into(), &"systemd-nspawn".into()), "{shown}");
    assert_eq!(shown["clocks"]["boottime_offset_ns"], host_offset(), "it has no clocks of its own: {shown}");
    let clocks: Value =
        serde_json::from_str(&said(&osier(), &["clock", name, "--json"])).expect("its clocks");
    assert_eq!(
        (&clocks["read_inside"], &clocks["offset"]["boottime_ns"]),
        (&true.into(), &0.into()),
        "{clocks}"
    );
    let compared: Value =
        serde_json::from_str(&said(&osier(), &["clock", "--json", "--compare", name, "host"])).expect("both");
    assert_eq!((&compared["read_inside"], &compared["difference"]["btime_sec"]), (&true.into(), &0.into()));
    let status = said(&osier(), &["status", name]);
    for part in ["systemd-nspawn; class container", "State: running", "OS: Debian", "CGroup: ", "└─"] {
        assert!(status.contains(part), "no '{part}': {status}");
    }
    let top: Vec<Value> =
        serde_json::from_str(&said(&osier(), &["top", "--json", "-n1", "-d100ms"])).expect("one snapshot");
    let row = top.iter().find(|row| row["name"] == name).expect("a row");
    assert!(row["cpu_percent"].is_number(), "{row}");
    said(&osier(), &["terminate", name]);
    other.end();
}

/// The offset of the time namespace that this host itself may be in.
fn host_offset() -> i64 {
    let text = std::fs::read_to_string("/proc/self/timens_offsets").expect("offsets");
    let line = text.lines().find_map(|line| line.strip_prefix("boottime")).expect("boottime");
    let fields: Vec<i64> = line.split_whitespace().map(|field| field.parse().expect("a number")).collect();
    fields[0] * 1_000_000_000 + fields[1]
}
