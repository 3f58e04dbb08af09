//! `osier clock`: what it says is what the machine sees, and what the machine does cannot mislead it. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::os::unix::process::CommandExt;

use nix::sys::signal::Signal;
use serde_json::Value;

use support::machine::{Machine, code, osier, output};
use support::tree::Tree;

const DAY: i64 = 86_400 * SECOND;
const SECOND: i64 = 1_000_000_000;

fn said(arguments: &[&str]) -> String {
    let output = output(osier(["clock"]).args(arguments));
    assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn object(arguments: &[&str]) -> Value {
    serde_json::from_str(&said(&[arguments, &["--json"]].concat())).unwrap()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("{value}"))
}

#[track_caller]
fn assert_near(found: i64, expected: i64, within: i64) {
    assert!((found - expected).abs() <= within, "{found} is not {expected}, give or take {within}");
}

/// Both offsets, in nanoseconds, as a process inside reads them.
fn offsets(machine: &Machine) -> [i64; 2] {
    let text = machine.sh("cat /proc/self/timens_offsets");
    let mut lines = text.lines().map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[1].parse::<i64>().unwrap() * SECOND + fields[2].parse::<i64>().unwrap()
    });
    [lines.next().unwrap(), lines.next().unwrap()]
}

fn boot(tree: &Tree, clocks: &[&str]) -> Machine {
    Machine::minimal(tree, &[clocks, &["--network=none", "--register=no"]].concat())
}

fn end(machine: Machine) {
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

#[test]
fn it_shows_what_the_machine_sees_beside_what_the_host_does() {
    let tree = Tree::minimal();
    let machine = boot(&tree, &["--uptime=uint32-ms-1d", "--clock-monotonic=+1h"]);
    let shown = object(&[&machine.name]);
    let uptime: f64 = machine.sh("cut -d' ' -f1 /proc/uptime").parse().unwrap();
    let btime: i64 = machine.sh("sed -n 's/btime //p' /proc/stat").parse().unwrap();
    let [monotonic, boottime] = offsets(&machine);
    assert_eq!((shown["version"].as_i64(), shown["read_inside"].as_bool()), (Some(1), Some(true)), "{shown}");
    assert_eq!(shown["name"], machine.name);

    let (host, inside) = (&shown["host"], &shown["machine"]);
    assert_near(number(&inside["boottime_ns"]), (uptime * 1e9) as i64, 5 * SECOND);
    assert_near(number(&inside["uptime_ns"]), (uptime * 1e9) as i64, 5 * SECOND);
    assert_near(number(&inside["uptime_ns"]), number(&inside["boottime_ns"]), SECOND);
    assert_eq!(number(&inside["uptime_ns"]) % 10_000_000, 0, "the kernel shows hundredths");
    assert_near(number(&inside["btime_sec"]), btime, 1);
    assert_near(number(&inside["monotonic_ns"]) - number(&host["monotonic_ns"]), 3600 * SECOND, SECOND / 2);
    assert_near(number(&inside["realtime_ns"]), number(&host["realtime_ns"]), SECOND / 2);
    let of_host = std::fs::read_to_string("/proc/stat").unwrap();
    assert!(of_host.contains(&format!("btime {}\n", host["btime_sec"])), "{shown}");

    assert_eq!(shown["clocks"]["monotonic_offset_ns"], monotonic);
    assert_eq!(shown["clocks"]["boottime_offset_ns"], boottime);
    let offset = &shown["offset"];
    assert_eq!((&offset["monotonic_ns"], &offset["realtime_ns"]), (&(3600 * SECOND).into(), &0.into()));
    assert_near(number(&offset["uptime_ns"]), number(&offset["boottime_ns"]), SECOND);
    assert_near(number(&offset["btime_sec"]), -number(&offset["boottime_ns"]) / SECOND, 1);

    let text = said(&[&machine.name, &machine.name]);
    let rows: Vec<_> = text.lines().map(|line| line.split_whitespace().next().unwrap_or_default()).collect();
    let block = ["HOST", "monotonic", "boottime", "realtime", "uptime", "btime"];
    assert_eq!(rows, [&block[..], &[""], &block[..]].concat(), "{text}");
    assert!(text.contains("48d 17h 2min ") && text.contains(" +1h\n") && text.contains(" 0\n"), "{text}");
    end(machine);
}

#[test]
fn two_are_compared_with_each_other_and_with_the_host() {
    let trees = [Tree::minimal(), Tree::minimal()];
    let [young, old] =
        [("--clock=zero", 0), ("--uptime=60y", 1)].map(|(clocks, at)| boot(&trees[at], &[clocks]));
    let compared = object(&["--compare", &young.name, &old.name]);
    assert_eq!(compared["names"], Value::from(vec![young.name.clone(), old.name.clone()]));
    let ([_, one], [_, other]) = (offsets(&young), offsets(&old));
    let difference = &compared["difference"];
    assert_eq!(number(&difference["boottime_ns"]), other - one);
    assert_near(number(&difference["boottime_ns"]), 21_915 * DAY, 60 * SECOND);
    assert_near(
        number(&compared["second"]["boottime_ns"]) - number(&compared["first"]["boottime_ns"]),
        other - one,
        SECOND / 2,
    );
    assert!(number(&compared["second"]["btime_sec"]) < 0, "older than the epoch: {compared}");
    let back = object(&["--compare", &old.name, &young.name]);
    assert_eq!(number(&back["difference"]["boottime_ns"]), one - other);

    for host in ["host", ".host"] {
        let compared = object(&[host, "--compare", &young.name]);
        let shown = object(&[&young.name]);
        assert_eq!(compared["difference"]["boottime_ns"], shown["offset"]["boottime_ns"]);
        assert_eq!(compared["names"][0], host);
    }
    let text = said(&["--compare", &young.name, &old.name]);
    assert!(text.contains("DIFFERENCE") && text.contains(" before 1970 "), "{text}");
    let same = object(&["--compare", "host", "host"]);
    assert_eq!(
        (&same["difference"]["monotonic_ns"], &same["read_inside"]),
        (&0.into(), &true.into()),
        "{same}"
    );
    end(young);
    end(old);
}

#[test]
fn the_hosts_clocks_are_told_as_such() {
    let tree = Tree::minimal();
    let machine = boot(&tree, &["--clock=host"]);
    let shown = object(&[&machine.name]);
    assert_eq!(shown["offset"]["monotonic_ns"], 0);
    assert_eq!(shown["offset"]["boottime_ns"], 0);
    assert_eq!(shown["offset"]["btime_sec"], 0);
    end(machine);
}

#[test]
fn nothing_inside_can_hold_it_up_or_mislead_it() {
    let tree = Tree::minimal();
    let machine = boot(&tree, &["--uptime=7d"]);
    // A FIFO that nobody writes to, where a reader inside would wait for ever; and lies.
    machine.sh("mkfifo /tmp/fifo && mount -o bind /tmp/fifo /proc/uptime");
    machine.sh("echo btime 1 >/tmp/lie && mount -o bind /tmp/lie /proc/stat");
    let shown = object(&[&machine.name]);
    assert_near(number(&shown["machine"]["uptime_ns"]), 7 * DAY, 60 * SECOND);
    let booted = number(&shown["machine"]["realtime_ns"]) / SECOND - 7 * 86_400;
    assert_near(number(&shown["machine"]["btime_sec"]), booted, 60);
    // What is frozen has clocks that go on.
    assert!(osier(["freeze", &machine.name]).status().unwrap().success());
    let later = object(&[&machine.name]);
    assert!(number(&later["machine"]["boottime_ns"]) > number(&shown["machine"]["boottime_ns"]), "{later}");
    assert_eq!(later["clocks"], shown["clocks"]);
    assert!(osier(["thaw", &machine.name]).status().unwrap().success());
    end(machine);
}

#[test]
fn who_may_not_look_inside_gets_what_the_offsets_say() {
    let tree = Tree::minimal();
    let machine = boot(&tree, &["--uptime=7d"]);
    // Where anybody may execute it.
    let program = std::env::temp_dir().join(support::unique("osier"));
    std::fs::copy(support::program(), &program).unwrap();
    let nobody = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.arg("clock").args(arguments).uid(65534).gid(65534).current_dir("/");
        let output = output(&mut command);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let reckoned: Value = serde_json::from_str(&nobody(&["--json", &machine.name])).unwrap();
    let text = nobody(&[&machine.name]);
    std::fs::remove_file(&program).unwrap();
    let read = object(&[&machine.name]);
    assert_eq!((&reckoned["read_inside"], &read["read_inside"]), (&false.into(), &true.into()));
    for key in ["monotonic_ns", "boottime_ns", "realtime_ns"] {
        assert_eq!(reckoned["offset"][key], read["offset"][key], "{key}");
    }
    assert_near(number(&reckoned["machine"]["uptime_ns"]), number(&read["machine"]["uptime_ns"]), 5 * SECOND);
    assert_near(number(&reckoned["machine"]["btime_sec"]), number(&read["machine"]["btime_sec"]), 1);
    assert!(text.ends_with("Reckoned from the offsets: only root can read the clocks inside.\n"), "{text}");
    end(machine);
}

#[test]
fn wrong_names_and_numbers_of_them_are_refused() {
    for (arguments, expected, words) in [
        (&["t-nobody"][..], 1, "no machine 't-nobody' is running"),
        (&["host"], 1, "no machine 'host' is running"),
        (&["--compare", "host", "t-nobody"], 1, "no machine 't-nobody' is running"),
        (&["--compare", "host"], 2, "--compare takes two"),
        (&["--compare", "host", "host", "host"], 2, "--compare takes two"),
        (&["../etc"], 1, "no machine '../etc' is running"),
        (&[], 2, "required"),
    ] {
        let output = output(osier(["clock"]).args(arguments));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(code(output.status), expected, "{arguments:?}: {stderr}");
        assert!(stderr.contains(words) && output.stdout.is_empty(), "{arguments:?}: {stderr}");
    }
}
