//! Whether machined is told, and what it tells.

use std::process::Output;

use crate::machine::{
    Machine, Nspawn, command, inside, listed, osier, refused, said, scope_of, shown, tree, tried, unique,
    unit, until,
};

fn list() -> String {
    said(&osier(), &["list", "--no-legend"])
}

pub(crate) fn none() {
    let machine = Machine::boot("unregistered", &["--register=no"]);
    assert!(!listed().contains(&machine.name));
    assert!(list().contains(&machine.name), "{}", list());
    assert_eq!(machine.record()["registered"], false);
    assert_eq!(unit(&machine.scope(), "ActiveState"), "active");
    // PID 1's request to stop comes without machined as well.
    said("systemctl", &["stop", &machine.scope()]);
    let end = machine.end();
    assert_eq!(end.code, Some(0), "{}", end.output);
}

fn boot(tail: &str, arguments: &[&str], environment: &[(&str, &str)]) -> (String, Output) {
    let (name, tree) = (unique(tail), tree());
    let named = format!("--machine={name}");
    let mut osier = command(&osier(), &[&["boot", "--ephemeral", &named], arguments, &[&tree]].concat());
    (name, osier.envs(environment.iter().copied()).output().expect("osier"))
}

/// Keeps machined away until dropped.
struct Away;

impl Away {
    fn take() -> Self {
        said("systemctl", &["mask", "--runtime", "--quiet", "systemd-machined.service"]);
        let away = Self;
        said("systemctl", &["stop", "systemd-machined.service"]);
        away
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        tried("systemctl", &["unmask", "--runtime", "--quiet", "systemd-machined.service"]);
    }
}

pub(crate) fn without_machined() {
    let away = Away::take();
    let (name, output) = boot("masked", &["--register=yes"], &[]);
    let (code, error) = refused(&output);
    assert_eq!(code, Some(125), "{error}");
    assert!(
        error.contains(&format!("cannot register '{name}'")) && error.contains("hint: --register=no"),
        "{error}"
    );
    assert_eq!(unit(&scope_of(&name), "LoadState"), "not-found");

    let machine = Machine::hold("auto", &["--register=auto"]);
    assert_eq!(machine.record()["registered"], false);
    assert!(list().contains(&machine.name), "{}", list());
    assert_eq!(unit(&machine.scope(), "ActiveState"), "active");
    said(&osier(), &["terminate", &machine.name]);
    let end = machine_end_without_machined(machine);
    assert_eq!(end, Some(137));
    drop(away);
}

fn machine_end_without_machined(mut machine: Machine) -> Option<i32> {
    // Whether it is gone from machinectl's list cannot be asked while machined is away.
    let code = machine.wait();
    assert_eq!(unit(&machine.scope(), "LoadState"), "not-found");
    code
}

pub(crate) fn without_bus() {
    let nowhere = [("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/osier-no-bus")];
    let (name, output) = boot("busless", &["--register=yes"], &nowhere);
    let (code, error) = refused(&output);
    assert_eq!(code, Some(125), "{error}");
    assert!(error.contains("cannot reach the system bus"), "{error}");
    assert_eq!(unit(&scope_of(&name), "LoadState"), "not-found");
    // The records need no bus.
    let output = command(&osier(), &["list"]).envs(nowhere).output().expect("osier");
    assert!(output.status.success(), "{}", refused(&output).1);
}

pub(crate) fn machined_restarts() {
    let machine = Machine::boot("restart", &[]);
    said("systemctl", &["restart", "systemd-machined.service"]);
    // machined keeps what it knows under /run.
    assert_eq!(shown(&machine.name, "Leader"), machine.leader());
    assert_eq!(inside(&machine.name, "echo well").trim(), "well");
    machine.stop();
}

pub(crate) fn others() {
    let own = Machine::hold("own", &["--register=yes"]);
    let mut other = Nspawn::start("other", &["--read-only"]);
    let listed = list();
    let row = listed.lines().find(|line| line.starts_with(&other.name)).expect("a row");
    assert!(row.contains("systemd-nspawn") && row.contains("Debian GNU/Linux 13"), "{listed}");
    assert!(!listed.contains(".host"), "{listed}");
    said(&osier(), &["terminate", &other.name]);
    assert!(!list().contains(&other.name), "{}", list());
    other.end();
    until("machined's own clean-up", || unit(&scope_of(&other.name), "LoadState") == "not-found");
    own.stop();
}
