//! The clocks of machines (DESIGN §6): what they start at, that everything inside agrees about them, and what is refused.
//! Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;

use nix::sys::signal::Signal;
use rustix::time::{ClockId, clock_gettime};

use support::machine::{Machine, code, osier, output, run, stdout_of_run};
use support::tree::{Tree, debian};
use support::{await_that, unique};

/// The clocks of the time namespace that the tests run in, in seconds: monotonic and boottime.
fn here() -> (f64, f64) {
    let read = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    (read(ClockId::Monotonic), read(ClockId::Boottime))
}

/// The offsets of monotonic and boottime, in seconds, from the text of /proc/PID/timens_offsets.
fn offsets(text: &str) -> (f64, f64) {
    let mut values = text.lines().map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[1].parse::<f64>().unwrap() + fields[2].parse::<f64>().unwrap() / 1e9
    });
    (values.next().unwrap(), values.next().unwrap())
}

/// Uptime and offsets in a machine that ran with these options.
fn inside(tree: &Tree, options: &[&str]) -> (f64, (f64, f64)) {
    let text = stdout_of_run(
        tree,
        options,
        &["sh", "-c", "cut -d' ' -f1 /proc/uptime; cat /proc/self/timens_offsets"],
    );
    let (uptime, rest) = text.split_once('\n').unwrap();
    (uptime.parse().unwrap(), offsets(rest))
}

#[track_caller]
fn assert_near(found: f64, expected: f64, within: f64) {
    assert!((found - expected).abs() <= within, "{found} is not {expected}, give or take {within}");
}

#[test]
fn a_boot_starts_at_zero_and_a_run_keeps_the_hosts() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let up: f64 = machine.sh("cut -d' ' -f1 /proc/uptime").parse().unwrap();
    assert!((0.0..30.0).contains(&up), "{up}");
    let shown = machine.show()["clocks"].clone();
    let (monotonic, boottime) = offsets(&machine.sh("cat /proc/self/timens_offsets"));
    assert_near(shown["monotonic_offset_ns"].as_f64().unwrap() / 1e9, monotonic, 1e-6);
    assert_near(shown["boottime_offset_ns"].as_f64().unwrap() / 1e9, boottime, 1e-6);
    let (of_host, _) = here();
    assert!(-monotonic < of_host && -monotonic > of_host - 60.0, "{monotonic} on a host at {of_host}");
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);

    let (up, offsets) = inside(&tree, &[]);
    assert_near(up, here().1, 5.0);
    assert_eq!(offsets, (0.0, 0.0));
    let machine = Machine::minimal(&tree, &["--clock=host"]);
    assert_near(machine.sh("cut -d' ' -f1 /proc/uptime").parse().unwrap(), here().1, 5.0);
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
    assert!(inside(&tree, &["--clock=zero"]).0 < 5.0);
}

/// Each boot begins where the options say; what is set off from the host's clock goes on.
#[test]
fn a_reboot_begins_anew() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &["--uptime=3d", "--clock-boottime=+1h"]);
    let read = || offsets(&machine.sh("cat /proc/self/timens_offsets"));
    let before = read();
    assert_eq!(code(output(&mut osier(["reboot", tree.name()])).status), 0);
    machine.await_outputs("osier-minimal: ready", 2);
    let after = read();
    assert!(after.0 < before.0 && after.0 > before.0 - 60.0, "{before:?} {after:?}");
    assert_near(after.1, before.1, 0.0);
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

#[test]
fn an_uptime_is_believed() {
    let tree = Tree::minimal();
    for (text, seconds) in
        [("3d", 259_200.0), ("3d4h 5min", 273_900.0), ("90.5s", 90.5), ("0", 0.0), ("10y", 315_576_000.0)]
    {
        let (up, (monotonic, boottime)) = inside(&tree, &[&format!("--uptime={text}")]);
        assert_near(up, seconds, 5.0);
        let here = here();
        assert_near(here.0 + monotonic, seconds, 5.0);
        assert_near(here.1 + boottime, seconds, 5.0);
    }
}

#[test]
fn each_clock_can_be_set_off_by_itself_to_the_nanosecond() {
    let tree = Tree::minimal();
    let text = |options: &[&str]| stdout_of_run(&tree, options, &["cat", "/proc/self/timens_offsets"]);
    let fields = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        fields(&text(&["--clock-monotonic=+1h", "--clock-boottime=-1500ns"])),
        ["monotonic", "3600", "0", "boottime", "-1", "999998500"]
    );
    assert_eq!(fields(&text(&["--clock-boottime=1ns"])), ["monotonic", "0", "0", "boottime", "0", "1"]);
    assert_eq!(
        fields(&text(&["--clock-monotonic", "-10s"])),
        ["monotonic", "-10", "0", "boottime", "0", "0"]
    );
    // What was said of one clock goes before what was said of both.
    let (up, (monotonic, _)) = inside(&tree, &["--uptime=1h", "--clock-monotonic=+5s"]);
    assert_near(up, 3600.0, 5.0);
    assert_near(monotonic, 5.0, 0.0);
}

#[test]
fn a_point_has_a_name() {
    let tree = Tree::minimal();
    let (up, _) = inside(&tree, &["--uptime=uint32-ms-1min"]);
    assert_near(up, 4_294_967.296 - 60.0, 5.0);
    let (_, offsets) = inside(&tree, &["--clock-monotonic=int32-us", "--clock-boottime=+int32-s - 1d"]);
    assert_eq!(offsets, (2_147.483_648, 2_147_483_648.0 - 86_400.0));
    // In settings files as well.
    let file = tree.outside().join(format!("{}.nspawn", tree.name()));
    fs::write(file, "[X-Osier]\nUptime=uint32-cs-1min\n").unwrap();
    let (up, _) = inside(&tree, &["--settings=trusted"]);
    assert_near(up, 42_949_672.96 - 60.0, 5.0);
}

#[test]
fn what_the_clocks_cannot_show_is_refused_with_the_range() {
    let tree = Tree::minimal();
    for (option, reason) in [
        ("--uptime=-1s", "the monotonic clock cannot start at -1s; it can start between 0 and 146y"),
        ("--uptime=147y", "it can start between 0 and 146y"),
        ("--clock-monotonic=-200y", "the monotonic clock cannot be set off by -200y"),
        ("--clock-boottime=+146.5y", "the boottime clock cannot be set off by +146y"),
        ("--clock-boottime=-200y", "it can be between -"),
        ("--uptime=300y", "longer than 292 years"),
        ("--uptime=3x", "'x' is no unit of time"),
        ("--uptime=", "a length of time is missing"),
        ("--uptime=soon", "a number was expected at 'soon'"),
        ("--clock-monotonic=1.5ns", "finer than a nanosecond"),
        ("--uptime=uint32-sm", "'uint32-sm' is no point that has a name; did you mean 'uint32-ms'?"),
        (
            "--uptime=uint32-ns-10s",
            "the monotonic clock cannot start at -5.705032704s; it can start between 0",
        ),
        ("--clock-boottime=uint32-s-soon", "a number was expected at 'soon'"),
    ] {
        for verb in ["boot", "run"] {
            let mut command = osier([verb, option]);
            command.arg(tree.path());
            if verb == "run" {
                command.args(["--", "true"]);
            }
            let output = output(&mut command);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(code(output.status), 2, "{option}: {said}");
            assert!(said.contains(reason), "{option}: '{reason}' is not in: {said}");
        }
    }
    assert_eq!(code(run(&tree, &["--clock=host", "--uptime=1h"], &["true"]).status), 2);
    assert_eq!(code(run(&tree, &["--clock=later"], &["true"]).status), 2);
    // The edges are not refused.
    let (_, boottime) = here();
    inside(&tree, &["--uptime=146y"]);
    inside(&tree, &[&format!("--clock-boottime=-{}s", boottime as u64 - 1)]);
}

/// What osier-clocks(7) says of systemd, in a machine that began with three days.
fn assert_systemd_agrees(machine: &Machine) {
    let shown = |of: &str| machine.sh(&format!("systemctl show {of} --value"));
    let userspace: f64 = shown("-p UserspaceTimestampMonotonic").parse().unwrap();
    assert_near(userspace / 1e6, 259_200.0, 60.0);
    let logged =
        machine.sh("journalctl -o short-monotonic --no-pager | head -n1 | tr -d '[ ' | cut -d']' -f1");
    assert_near(logged.parse().unwrap(), 259_200.0, 60.0);
    // OnBootSec=15min: in a container from systemd's start.
    let due = shown("-p NextElapseUSecMonotonic systemd-tmpfiles-clean.timer");
    assert!(due.starts_with("3d 15min "), "{due}");
    assert!(machine.sh("systemctl list-timers --no-pager").contains("14min"), "and so it is shown");
    machine.sh("systemd-run --quiet --on-active=100ms --timer-property=AccuracySec=1ms touch /run/fired");
    await_that("a monotonic timer", || machine.enter(&["test", "-e", "/run/fired"]).status.success());
    let analyzed = machine.sh("systemd-analyze time");
    let took =
        analyzed.strip_prefix("Startup finished in ").and_then(|rest| rest.split(" (").next()).unwrap();
    assert!(took.ends_with('s') && !took.contains('h') && !took.contains('d'), "{analyzed}");
}

#[test]
fn everything_in_a_debian_tree_agrees() {
    let name = unique("clocks");
    let mut command = osier(["boot", "--ephemeral", "--uptime=3d"]);
    command.arg(format!("--machine={name}")).arg(debian());
    let machine = Machine::spawn(command, &name, &debian());
    machine.await_output(" login: ");
    let up: f64 = machine.sh("cut -d' ' -f1 /proc/uptime").parse().unwrap();
    assert_near(up, 259_200.0, 120.0);
    assert!(machine.sh("uptime").contains(" up 3 days,"), "{}", machine.sh("uptime"));
    let now: f64 = machine.sh("date +%s").parse().unwrap();
    // The leader began when its clocks had been up for three days.
    let started: f64 = machine.sh("date +%s -d \"$(ps -o lstart= -p 1)\"").parse().unwrap();
    let age: f64 = machine.sh("ps -o etimes= -p 1").trim().parse().unwrap();
    assert_near(now - started, age, 3.0);
    assert_near(age, up - 259_200.0, 3.0);
    // When it was booted, whoever says it; who(1) has the minute.
    for (since, within) in [
        ("date +%s -d \"$(uptime -s)\"", 3.0),
        ("sed -n 's/^btime //p' /proc/stat", 3.0),
        ("date +%s -d \"$(who -b | tr -s ' ' | cut -d' ' -f4-)\"", 63.0),
    ] {
        assert_near(now - machine.sh(since).parse::<f64>().unwrap(), up, within);
    }
    assert_systemd_agrees(&machine);
    // CLOCK_REALTIME has no namespace.
    let of_host = clock_gettime(ClockId::Realtime).tv_sec as f64;
    assert_near(machine.sh("date +%s").parse().unwrap(), of_host, 5.0);
    // What enters later is in the same time, and so is every child.
    assert_eq!(
        fs::read_link(format!("/proc/{}/ns/time", machine.leader())).unwrap().display().to_string(),
        machine.sh("readlink /proc/self/ns/time")
    );
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}
