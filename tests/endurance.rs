//! A machine that went on from a checkpoint is left alone for five minutes: longer than any watchdog of systemd's waits, and than
//! any timeout of its. Not a part of `cargo test`: tests/tiers/in-place runs it beside everything else.
//!
//! Needs root, a Debian tree (`OSIER_TREE`) and a criu: `OSIER_CRIU`, or one in PATH.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::machine::{osier, output};
use support::tree::{Scratch, debian};
use support::{await_that, leftovers, unique};

/// systemd-journald's and systemd-logind's watchdogs wait for three minutes (WatchdogSec=3min in their units).
const LONG: Duration = Duration::from_secs(310);

/// Ended when the test fails.
struct Guard(String);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = output(&mut osier(["terminate", &self.0]));
    }
}

#[track_caller]
fn done(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What runs in the machine `name`; its status is the caller's to look at.
fn inside(name: &str, script: &str) -> String {
    let output = output(&mut osier(["shell", name, "--", "/bin/sh", "-c", script]));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The state of the system, what failed, and who serves it: process IDs and restarts.
fn state(name: &str) -> String {
    inside(
        name,
        "systemctl is-system-running; systemctl --failed --plain --no-legend; \
         systemctl show --property=Id,MainPID,NRestarts systemd-journald systemd-logind dbus",
    )
}

#[test]
fn systemd_keeps_running_for_five_minutes_after_a_restore() {
    let criu = format!("--criu={}", std::env::var("OSIER_CRIU").unwrap_or_else(|_| "criu".to_owned()));
    // A copy: a layer would be a mount of the tree that the tests beside this one count the mounts of.
    let scratch = Scratch::new();
    let tree = scratch.path().join("tree");
    done(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(debian()).arg(&tree));
    let name = unique("endurance");
    let guard = Guard(name.clone());
    let mut booting = osier(["boot", "--quiet", "--checkpointable", "--console=passive", "--machine", &name]);
    let mut booted = booting.arg(&tree).spawn().unwrap();
    await_that("systemd in the machine runs", || state(&name).starts_with("running\n"));
    let before = state(&name);
    let target = scratch.path().join("saved.osier");
    done(osier(["checkpoint", &criu, &name, "--to"]).arg(&target));
    assert!(booted.wait().unwrap().success());
    done(osier(["restore", "--background", &criu]).arg(&target));
    std::fs::remove_file(&target).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        assert_eq!(state(&name), before, "after {:?}", begun.elapsed());
        thread::sleep(Duration::from_secs(5));
    }
    // They are not only there but do their work.
    let word = unique("word");
    inside(&name, &format!("logger {word}; systemd-run --quiet --wait true"));
    let found = inside(&name, &format!("journalctl --sync; journalctl --quiet --grep {word} --output cat"));
    assert!(found.contains(&word), "{found}");
    assert!(inside(&name, "loginctl list-sessions --no-legend; echo answered").ends_with("answered"));
    done(&mut osier(["poweroff", &name]));
    std::mem::forget(guard);
    leftovers::assert_none(&name, &tree);
}
