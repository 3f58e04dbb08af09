//! Machines with other inits, in short.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::await_that;
use crate::support::machine::{Machine, osier, output};
use crate::support::tree::{self, Layered, Tree};
use crate::{done, restoring, save};

/// A process of init's that counts in memory, and writes down how far it is.
const COUNTS: &str =
    "i=0; while :; do i=$((i + 1)); echo $i > /root/new; mv /root/new /root/count; sleep 0.05; done";

/// The machine of `tree`, in which `line` of its inittab has the counter started.
pub(crate) fn counting(tree: &Layered, line: &str) -> Machine {
    let path = tree.path().join("etc/inittab");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}\n{line}/bin/sh /usr/local/bin/counts\n")).unwrap();
    fs::create_dir_all(tree.path().join("usr/local/bin")).unwrap();
    fs::create_dir_all(tree.path().join("root")).unwrap();
    fs::write(tree.path().join("usr/local/bin/counts"), COUNTS).unwrap();
    let mut boot = osier(["boot", "--checkpointable"]);
    boot.arg(tree.path());
    let machine = Machine::spawn(boot, &tree.name, &tree.path());
    machine.await_output(" login: ");
    await_more(tree, 3);
    machine
}

/// How far the counter is.
pub(crate) fn count(tree: &Layered) -> u64 {
    let read = || fs::read_to_string(tree.path().join("root/count")).ok()?.trim().parse().ok();
    crate::support::await_some("the counter", read)
}

/// Waits until it has gone on so far.
pub(crate) fn await_more(tree: &Layered, more: u64) {
    let from = count(tree);
    await_that("the counter to go on", || count(tree) >= from + more);
}

fn goes_on(init: &str, line: &str) {
    let tree = Layered::over(&tree::of(init));
    let machine = counting(&tree, line);
    let saved = tree.scratch.path().join("saved.osier");
    let running = tree.scratch.path().join("running");
    save(&tree.name, &running, &["--leave-running"]);
    await_more(&tree, 3);
    save(&tree.name, &saved, &[]);
    assert_eq!(machine.end_leaving().0, 0);
    tree.assert_only(&tree.name);
    // What CRIU writes beside its log.
    let logs = fs::read_dir("/var/log/osier")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(
        !logs.into_iter().any(|name| name.contains(&*tree.name)),
        "CRIU's log of what was saved has stayed"
    );
    let before = count(&tree);

    assert_not_twice(&tree, &saved);
    let machine = Machine::spawn(restoring(&saved, &[]), &tree.name, &tree.path());
    await_that("the counter to go on", || count(&tree) > before);
    let now = count(&tree);
    assert!(now < before + 200, "{before} {now}");
    await_more(&tree, 3);
    assert_eq!(machine.show()["init"], if init == "sysvinit" { "sysv" } else { init });
    assert_eq!(done(&["shell", &tree.name, "--", "echo", "here"]), "here\n");
    done(&["poweroff", &tree.name]);
    let (code, console, said) = machine.end_leaving();
    // A busy host may bring it back more slowly than it guessed, and says so.
    let silent = said.lines().all(|line| line.starts_with("osier: its clocks are "));
    assert!(code == 0 && silent, "{code} {said} {console}");
    tree.assert_only(&tree.name);
}

/// Not while another machine has its name.
fn assert_not_twice(tree: &Layered, saved: &Path) {
    let other = Tree::minimal();
    let machine = Machine::minimal(&other, &[&format!("--machine={}", tree.name)]);
    let refused = output(&mut restoring(saved, &[]));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(125), "{text}");
    assert!(text.contains(&tree.name) && text.contains("in use"), "{text}");
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end_leaving().0, 0);
}

#[test]
fn a_machine_with_sysvinit_goes_on() {
    goes_on("sysvinit", "ct:2345:respawn:");
}

#[test]
fn a_machine_with_busybox_goes_on() {
    goes_on("busybox", "::respawn:");
}
