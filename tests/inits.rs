//! Every init that Debian packages, booted from its recipe under images/: up, entered, rebooted, powered off, each in the
//! way that it wants. Needs root and the trees (tests/run makes them).
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::machine::{Machine, osier, output, wait};
use support::terminal::Terminal;
use support::tree::Tree;
use support::{await_that, leftovers, tree, unique};

/// An init, and how it shows.
struct Case {
    /// The recipe.
    tree: &'static str,
    /// What the record calls it.
    kind: &'static str,
    /// The file that PID 1 runs.
    program: &'static str,
    /// What root types to reboot and to power off.
    typed: [&'static str; 2],
}

const CASES: [Case; 8] = [
    Case {
        tree: "debian-12",
        kind: "systemd",
        program: "/usr/lib/systemd/systemd",
        typed: ["systemctl reboot", "poweroff"],
    },
    Case {
        tree: "debian-11",
        kind: "systemd",
        program: "/usr/lib/systemd/systemd",
        typed: ["systemctl reboot", "poweroff"],
    },
    Case {
        tree: "sysvinit",
        kind: "sysv",
        program: "/usr/sbin/init",
        typed: ["shutdown -r now", "poweroff"],
    },
    Case { tree: "openrc", kind: "openrc", program: "/usr/sbin/openrc-init", typed: ["reboot", "poweroff"] },
    Case { tree: "runit", kind: "runit", program: "/usr/sbin/runit", typed: ["reboot", "poweroff"] },
    Case { tree: "busybox", kind: "busybox", program: "/usr/bin/busybox", typed: ["reboot", "poweroff"] },
    Case { tree: "s6", kind: "s6", program: "/usr/bin/s6-svscan", typed: ["reboot", "poweroff"] },
    Case { tree: "finit", kind: "finit", program: "/usr/sbin/finit", typed: ["reboot", "poweroff"] },
];

/// All at the same time: most of it is waiting for gettys and for shutdowns that count seconds.
#[test]
fn every_init_lives_and_dies() {
    thread::scope(|scope| {
        let started = CASES.iter().map(|case| {
            let named = thread::Builder::new().name(case.tree.to_owned());
            (case.tree, named.spawn_scoped(scope, || live_and_die(case)).unwrap())
        });
        let started: Vec<_> = started.collect();
        let failed: Vec<_> =
            started.into_iter().filter_map(|(tree, thread)| thread.join().err().map(|_| tree)).collect();
        assert_eq!(failed, Vec::<&str>::new(), "what failed in each stands above");
    });
}

/// On a terminal: with an init that wants a signal, and with one that wants a command inside.
#[test]
fn the_escapes_of_the_console_work_with_every_init() {
    thread::scope(|scope| {
        for case in CASES.iter().filter(|case| ["busybox", "sysvinit"].contains(&case.tree)) {
            scope.spawn(move || {
                let (command, name, tree) = command(case);
                let terminal = Terminal::new();
                let mut osier = terminal.spawn(&command);
                terminal.await_text(" login: ");
                terminal.press(b"\x1d\x1dr");
                terminal.await_texts(" login: ", 2);
                terminal.press(b"\x1d\x1dp");
                let status = wait(&mut osier, &|| format!("{}: {}", case.tree, terminal.screen()));
                assert!(status.success(), "{}: {status} {}", case.tree, terminal.screen());
                leftovers::assert_none(&name, &tree);
            });
        }
    });
}

#[test]
fn an_init_that_nobody_knows_is_taken_to_be_as_systemd() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    assert_eq!(machine.show()["init"], "other");
    succeed(&["reboot", &machine.name]);
    machine.await_outputs("osier-minimal: ready", 2);
    succeed(&["poweroff", &machine.name]);
    assert_eq!(machine.end().0, 0);
}

/// The minimal tree's init under the name of one that is asked by a command, which does not come back.
#[test]
fn a_command_that_hangs_does_not_keep_the_machine_from_being_killed() {
    let tree = Tree::minimal();
    let init = tree.path().join("usr/bin/init");
    let script = fs::read_to_string(&init).unwrap();
    tree.executable(
        "usr/bin/runit-init",
        &format!("#!/bin/sh\n[ $$ = 1 ] || exec tail -f /dev/null\n{script}"),
    );
    fs::remove_file(&init).unwrap();
    symlink("runit-init", &init).unwrap();

    let machine = Machine::minimal(&tree, &[]);
    assert_eq!(machine.show()["init"], "runit");
    machine.signal(Signal::SIGTERM);
    await_that("the command", || machine.enter(&["pidof", "tail"]).status.success());
    machine.signal(Signal::SIGTERM);
    let asked = Instant::now();
    assert_eq!(machine.end().0, 137);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

/// The life of one machine, from its first prompt to nothing being left of it.
fn live_and_die(case: &Case) {
    let machine = boot(case);
    let name = machine.name.clone();
    let [reboot, poweroff] = case.typed;

    machine.await_output(" login: ");
    assert_eq!(machine.show()["init"], case.kind);
    let executes = fs::read_link(format!("/proc/{}/exe", machine.leader())).unwrap();
    assert!(executes.ends_with(case.program.trim_start_matches("/usr/")), "{}", executes.display());

    if case.kind == "systemd" {
        let state = shell(&name, "systemctl is-system-running --wait");
        assert_eq!(state.1, "running\n", "{:?}", shell(&name, "systemctl --failed"));
    }
    assert_eq!(shell(&name, "echo $((6 * 7)); exit 9"), (Some(9), "42\n".to_owned()));
    let (terminal, mut session) = log_in(&name);
    terminal.press(format!("{reboot}\n"));
    machine.await_outputs(" login: ", 2);
    wait(&mut session, &|| format!("the session that typed {reboot} outlives the machine"));

    succeed(&["reboot", &name]);
    machine.await_outputs(" login: ", 3);
    let (terminal, mut session) = log_in(&name);
    terminal.press(format!("{poweroff}\n"));
    end(machine, case);
    wait(&mut session, &|| format!("the session that typed {poweroff} outlives the machine"));

    let machine = boot(case);
    machine.await_output(" login: ");
    succeed(&["poweroff", &machine.name]);
    end(machine, case);

    // At once: an init that has not set up how it hears of anything is asked again until it has.
    let machine = boot(case);
    machine.show();
    machine.signal(Signal::SIGTERM);
    end(machine, case);
}

/// What boots it, and the machine's name and tree.
fn command(case: &Case) -> (Command, String, PathBuf) {
    let (name, tree) = (unique(case.tree), tree::of(case.tree));
    let mut command = osier(["boot", "--ephemeral", "--network=none"]);
    command.arg(format!("--machine={name}")).arg(&tree);
    (command, name, tree)
}

fn boot(case: &Case) -> Machine {
    let (command, name, tree) = command(case);
    Machine::spawn(command, &name, &tree)
}

fn end(machine: Machine, case: &Case) {
    let (name, tree) = (machine.name.clone(), machine.tree.clone());
    let (code, console, stderr) = machine.end();
    assert_eq!(code, 0, "{}: {console}\n{stderr}", case.tree);
    leftovers::assert_none(&name, &tree);
}

#[track_caller]
fn succeed(arguments: &[&str]) {
    let output = output(&mut osier(arguments));
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

fn shell(name: &str, script: &str) -> (Option<i32>, String) {
    let output = output(&mut osier(["shell", name, "--", "/bin/sh", "-c", script]));
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// As root on a terminal of one's own, up to the shell's prompt.
fn log_in(name: &str) -> (Terminal, Child) {
    let terminal = Terminal::new();
    let session = terminal.spawn(&osier(["login", name]));
    terminal.await_text("login: ");
    terminal.press("root\n");
    // The shell may not listen yet; what it echoes is not its answer.
    await_that("an answer of the shell", || {
        terminal.press("echo at-home-$((40 + 2))\n");
        thread::sleep(Duration::from_millis(200));
        terminal.screen().contains("at-home-42")
    });
    (terminal, session)
}
