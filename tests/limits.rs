//! Limits on this very host, whatever controllers its cgroup2 has. What they do to processes is the vm tier's to show
//! (tests/host/limits.rs). Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;

use support::leftovers;
use support::machine::{Machine, code, run};
use support::tree::Tree;

/// Options, with the files that they are for and what is in them then.
const OPTIONS: [(&str, &str, &str); 4] = [
    ("--memory=64M", "memory.max", "67108864"),
    ("--cpus=0.5", "cpu.max", "50000 100000"),
    ("--tasks=50", "pids.max", "50"),
    ("--cpuset=0", "cpuset.cpus", "0"),
];

#[test]
fn a_limit_holds_or_its_controller_is_said_to_be_missing() {
    let there = fs::read_to_string(leftovers::cgroup2().join("cgroup.controllers")).unwrap();
    for (option, file, value) in OPTIONS {
        let (controller, _) = file.split_once('.').unwrap();
        if there.split_whitespace().any(|name| name == controller) {
            holds(option, file, value);
        } else {
            is_refused(option, file, controller);
        }
    }
}

/// The payload has a directory of its own with the same file, whose writing changes nothing above it.
fn holds(option: &str, file: &str, value: &str) {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[option]);
    let cgroup = machine.show()["cgroup"].as_str().unwrap().to_owned();
    machine.sh(&format!("echo max > /sys/fs/cgroup/{file}; true"));
    assert_eq!(fs::read_to_string(format!("{cgroup}/{file}")).unwrap().trim(), value);
}

fn is_refused(option: &str, file: &str, controller: &str) {
    let tree = Tree::minimal();
    let output = run(&tree, &[option], &["true"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(code(output.status), 125, "{stderr}");
    assert!(stderr.contains(&format!("cannot set {file}: cgroup2 at ")), "{stderr}");
    assert!(stderr.contains(&format!(" has no {controller} controller")), "{stderr}");
    let version_1 = fs::read_to_string("/proc/cgroups").unwrap();
    let line = version_1.lines().find(|line| line.split('\t').next() == Some(controller));
    if line.is_some_and(|line| line.split('\t').nth(1) != Some("0")) {
        assert!(stderr.contains(": version 1 of cgroups has it"), "{stderr}");
        assert!(stderr.contains("hint: boot the host with cgroup_no_v1=all"), "{stderr}");
    }
}

#[test]
fn a_value_that_is_none_is_refused_with_what_could_be() {
    let tree = Tree::minimal();
    for (option, reason) in [
        ("--memory=12", "--memory=12: '12' is out of range: 4K to just below 8E"),
        ("--cpus=0", "--cpus=0: '0' is out of range: 0.01 to 8192 CPUs"),
        ("--tasks=-3", "--tasks=-3: '-3' is not a number from 1 to 4194304"),
        ("--io=/dev/osier-none rbps=1M", "'/dev/osier-none': no such file or directory"),
        ("--cpuset=1-0", "--cpuset=1-0: '1-0' is not a list"),
    ] {
        let output = run(&tree, &[option], &["true"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(code(output.status), 2, "{stderr}");
        assert!(stderr.contains(reason), "{option}: {stderr}");
    }
}
