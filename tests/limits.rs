//! Limits on this very host, whatever controllers its cgroup2 has. What they do to processes is the vm tier's to show
//! (tests/host/limits.rs). Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

use nix::sys::signal::Signal;

use support::leftovers;
use support::machine::{Machine, code, osier, output, run};
use support::tree::{Scratch, Tree};

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
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
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

/// What `osier set` says about something that cannot be, by which nothing changes.
fn refused(name: &str, limits: &[&str]) -> (i32, String) {
    let output = output(osier(["set", name]).args(limits));
    assert!(!output.status.success(), "{limits:?}");
    let kept = ["/etc", "/run"].map(|root| format!("{root}/systemd/nspawn/{name}.nspawn"));
    assert!(kept.iter().all(|path| !Path::new(path).exists()), "{limits:?}");
    (code(output.status), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn set_refuses_what_cannot_be() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let name = machine.name.as_str();
    for (limit, reason) in [
        ("memory.maxx=1G", "there is no limit 'memory.maxx'\nhint: did you mean 'memory.max'?"),
        ("TasksMax=5", "there is no limit 'TasksMax'\nhint: did you mean 'pids.max'?"),
        ("colour=green", "there is no limit 'colour'\nhint: there are memory.max, "),
        ("memory.max", "'memory.max' is not KEY=VALUE, such as memory.max=2G"),
        ("pids.max=0", "pids.max=0: '0' is out of range: 1 to 4194304"),
        ("cpu.max=150", "cpu.max=150: '150' is not a percentage of one CPU"),
    ] {
        let (code, stderr) = refused(name, &["cpu.weight=50", limit]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(&format!("osier: cannot limit '{name}': {reason}")), "{stderr}");
    }
    // Not where the program was built, which others cannot reach.
    let reachable = Scratch::new();
    let program = reachable.path().join("osier");
    fs::copy(support::program(), &program).unwrap();
    let mut nobody = std::process::Command::new(program);
    nobody.args(["set", name, "pids.max=5"]).uid(65534).gid(65534).current_dir("/");
    let output = output(&mut nobody);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(code(output.status), 1, "{stderr}");
    assert!(stderr.contains(&format!("cannot limit '{name}': only root or its owner may")), "{stderr}");
    let slip = format!("{name}x");
    let (code, stderr) = refused(&slip, &["pids.max=5"]);
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("did you mean '{name}'?")), "{stderr}");

    let there = fs::read_to_string(leftovers::cgroup2().join("cgroup.controllers")).unwrap();
    if !there.split_whitespace().any(|controller| controller == "memory") {
        let (code, stderr) = refused(name, &["memory.max=1G"]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("cannot set memory.max: cgroup2 at "), "{stderr}");
        assert!(stderr.contains("has no memory controller"), "{stderr}");
    }
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}
