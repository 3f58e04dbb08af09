//! Machines in a service: `--keep-unit`, and units/osier@.service.

use std::fs;
use std::path::Path;

use crate::machine::{
    cgroup_of, inside, listed, osier, refused, said, shown, tree, tried, unique, unit, until,
};

/// Starts osier in a transient service; it returns when the machine is ready.
fn start(name: &str, properties: &[&str]) -> String {
    let service = format!("{name}.service");
    let unit = format!("--unit={service}");
    let (osier, tree, machine) = (osier(), tree(), format!("--machine={name}"));
    let run = [
        "--quiet",
        "--collect",
        &unit,
        "--property=Type=notify",
        "--property=Delegate=yes",
        "--property=KillMode=mixed",
    ];
    let boot = [
        &osier,
        "boot",
        "--keep-unit",
        "--ephemeral",
        "--console=read-only",
        "--notify-ready=yes",
        &machine,
        &tree,
    ];
    said("systemd-run", &[&run, properties, &boot].concat());
    service
}

pub(crate) fn check(name: &str, service: &str) {
    assert_eq!(shown(name, "Unit"), service);
    assert_eq!(said(&osier(), &["show", name, "--value", "--property=Unit"]).trim(), service);
    assert_eq!(unit(service, "ActiveState"), "active");
    assert_eq!(unit(service, "StatusText"), "The machine is ready.");
    let cgroup = cgroup_of(service);
    let members =
        |below: &str| fs::read_to_string(cgroup.join(below).join("cgroup.procs")).expect("a cgroup");
    assert_eq!(members(""), "", "processes in the unit's own directory keep its controllers from being used");
    assert!(members("supervisor").lines().any(|pid| pid == unit(service, "MainPID")));
    assert_eq!(members("payload/init.scope").trim(), shown(name, "Leader"));
    // Every controller that the unit has comes through.
    let controllers = fs::read_to_string(cgroup.join("cgroup.controllers")).expect("controllers");
    assert_eq!(inside(name, "cat /sys/fs/cgroup/cgroup.controllers"), controllers);
    assert_eq!(inside(name, "systemctl is-system-running --wait").trim(), "running");
    assert!(said("machinectl", &["status", name]).contains("└─supervisor"));
}

pub(crate) fn stop(name: &str, service: &str) {
    let cgroup = cgroup_of(service);
    said("systemctl", &["stop", service]);
    assert!(!listed().iter().any(|listed| listed == name), "machined knows '{name}' still");
    assert!(!cgroup.exists(), "{} is left", cgroup.display());
}

pub(crate) fn kept() {
    let name = unique("kept");
    let service = start(&name, &["--property=DelegateSubgroup=supervisor"]);
    check(&name, &service);
    stop(&name, &service);
}

pub(crate) fn kept_without_subgroup() {
    let name = unique("alone");
    let service = start(&name, &[]);
    check(&name, &service);
    stop(&name, &service);
}

/// What PID 1 has not given away stays as it is: the processes of this very unit too.
pub(crate) fn kept_undelegated() {
    let name = unique("undelegated");
    let (osier, tree, machine) = (osier(), tree(), format!("--machine={name}"));
    let boot = [&osier, "boot", "--keep-unit", "--ephemeral", &machine, &tree];
    let output = tried("systemd-run", &[&["--quiet", "--scope", "--collect"][..], &boot].concat());
    let (code, error) = refused(&output);
    assert_eq!(code, Some(125), "{error}");
    assert!(error.contains("has not delegated") && error.contains("hint: set Delegate=yes"), "{error}");
}

/// A scope takes osier with all that it forks.
pub(crate) fn kept_scope() {
    let name = unique("scope");
    let (osier, tree, machine) = (osier(), tree(), format!("--machine={name}"));
    let run = [
        &osier,
        "run",
        "--keep-unit",
        "--ephemeral",
        &machine,
        &tree,
        "--",
        "cat",
        "/sys/fs/cgroup/cgroup.controllers",
    ];
    let scope = ["--quiet", "--scope", "--collect", "--property=Delegate=yes"];
    let inside = said("systemd-run", &[&scope[..], &run].concat());
    let given =
        std::fs::read_to_string("/sys/fs/cgroup/system.slice/cgroup.subtree_control").expect("controllers");
    let systemd_gives = |one: &&str| ["cpu", "io", "memory", "pids"].contains(one);
    for controller in given.split_whitespace().filter(systemd_gives) {
        assert!(inside.split_whitespace().any(|one| one == controller), "{controller} is not among {inside}");
    }
}

/// The unit as it is shipped, on the tree as it stands in /var/lib/machines.
pub(crate) fn template() {
    let tree = tree();
    let name = Path::new(&tree).file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let service = format!("osier@{name}.service");
    said("systemctl", &["start", &service]);
    check(&name, &service);
    assert_eq!(unit(&service, "Slice"), "machine.slice");

    let (leader, restarts) = (shown(&name, "Leader"), unit(&service, "NRestarts"));
    assert_eq!(restarts, "0");
    said("machinectl", &["reboot", &name]);
    until("a restart", || unit(&service, "NRestarts") == "1" && unit(&service, "ActiveState") == "active");
    assert_ne!(shown(&name, "Leader"), leader);
    check(&name, &service);

    let start = std::time::Instant::now();
    stop(&name, &service);
    println!("stopped in {} ms", start.elapsed().as_millis());
    assert_eq!(unit(&service, "Result"), "success");
    let journal = said("journalctl", &["--no-pager", "--unit", &service]);
    assert!(journal.contains("halt.target"), "{journal}");

    said("systemctl", &["start", &service]);
    check(&name, &service);
    said("machinectl", &["poweroff", &name]);
    until("the service's end", || unit(&service, "ActiveState") == "inactive");
    assert_eq!(unit(&service, "Result"), "success");

    said("systemctl", &["enable", "--quiet", &service]);
    assert!(Path::new("/etc/systemd/system/machines.target.wants").join(&service).exists());
    said("systemctl", &["disable", "--quiet", &service]);
}

pub(crate) fn template_without_tree() {
    let service = format!("osier@{}.service", unique("nowhere"));
    assert!(!tried("systemctl", &["start", &service]).status.success());
    let journal = said("journalctl", &["--no-pager", "--unit", &service]);
    assert!(journal.contains("no image"), "{journal}");
    assert_eq!(unit(&service, "Result"), "exit-code");
    said("systemctl", &["reset-failed", &service]);
}
