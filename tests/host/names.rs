//! Names and trees that are in use: refused before anything is made, on both sides.

use nix::sys::signal::Signal;

use crate::machine::{
    Machine, Nspawn, command, listed, osier, refused, said, scope_of, shown, tree, tried, unique, unit,
};

/// Boots under this name, which cannot be had.
fn refuse(name: &str, arguments: &[&str]) -> String {
    let (named, tree) = (format!("--machine={name}"), tree());
    let links = || std::fs::read_dir("/sys/class/net").expect("links").count();
    let before = links();
    let output = tried(&osier(), &[&["boot", &named], arguments, &[&tree]].concat());
    assert_eq!(links(), before);
    let (code, error) = refused(&output);
    assert_eq!(code, Some(125), "{error}");
    error
}

pub(crate) fn own() {
    let machine = Machine::hold("name", &["--register=yes"]);
    let leader = machine.leader();
    for register in ["--register=yes", "--register=no"] {
        let error = refuse(&machine.name, &["--ephemeral", register]);
        assert!(error.contains(&machine.name) && error.contains("use"), "{error}");
    }
    assert_eq!(shown(&machine.name, "Leader"), leader);
    // systemd-nspawn is refused by machined, and leaves osier's machine as it is.
    let tree = tree();
    let nspawn = [
        "--quiet",
        "--private-network",
        "--read-only",
        "--machine",
        &machine.name,
        "--directory",
        &tree,
        "/bin/true",
    ];
    assert!(!tried("systemd-nspawn", &nspawn).status.success());
    assert_eq!(shown(&machine.name, "Leader"), leader);
    machine.stop();
}

pub(crate) fn of_nspawn() {
    let other = Nspawn::start("nspawn", &["--read-only"]);
    let leader = shown(&other.name, "Leader");
    let error = refuse(&other.name, &["--ephemeral"]);
    assert!(error.contains(&other.name) && error.contains("in use"), "{error}");
    assert_eq!(shown(&other.name, "Leader"), leader);
    other.stop();
}

pub(crate) fn of_unit() {
    let name = unique("unit");
    let scope = scope_of(&name);
    let mut sleep = command("systemd-run", &["--quiet", "--scope", "--unit", &scope, "/bin/sleep", "60"]);
    let mut sleep = sleep.spawn().expect("systemd-run");
    crate::machine::until("the scope", || unit(&scope, "ActiveState") == "active");
    let error = refuse(&name, &["--ephemeral"]);
    assert!(error.contains(&scope) && error.contains("in use"), "{error}");
    assert_eq!(unit(&scope, "ActiveState"), "active");
    said("systemctl", &["stop", &scope]);
    sleep.wait().expect("its end");
}

pub(crate) fn tree_of_nspawn() {
    let other = Nspawn::start("tree", &[]);
    let name = unique("second");
    let error = refuse(&name, &[]);
    assert!(error.contains("another machine runs from it"), "{error}");
    let error = refuse(&name, &["--read-only"]);
    assert!(error.contains("another machine runs from it"), "{error}");
    assert!(!listed().contains(&name));
    // A throw-away layer writes nothing to the tree.
    Machine::hold("layer", &[]).stop();
    other.stop();
}

pub(crate) fn tree_of_osier() {
    let (name, tree) = (unique("tree"), tree());
    let named = format!("--machine={name}");
    let sleep = ["run", "--console=read-only", &named, &tree, "--", "/bin/sleep", "infinity"];
    let mut machine = Machine::spawn(name, &sleep);
    machine.await_ready();
    for access in ["--register=yes", "--read-only"] {
        let second = format!("--machine={}", unique("second"));
        let nspawn = tried(
            "systemd-nspawn",
            &["--quiet", "--private-network", access, &second, "--directory", &tree, "/bin/true"],
        );
        assert!(!nspawn.status.success());
        let said = refused(&nspawn).1;
        assert!(said.contains("currently busy"), "{said}");
    }
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().code, Some(137));
}

pub(crate) fn shared_tree() {
    let other = Nspawn::start("shared", &["--read-only"]);
    let tree = tree();
    let named = format!("--machine={}", unique("reader"));
    let read = said(&osier(), &["run", "--read-only", &named, &tree, "--", "cat", "/etc/debian_version"]);
    assert!(read.starts_with("13"), "{read}");
    other.stop();
}
