//! Steering machines that run: poweroff, reboot, terminate, kill, freeze, thaw, wait; several at once, in time and late, for
//! root and for others. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::machine::{Machine, osier, output, run, show};
use support::tree::{Tree, debian};
use support::{await_that, leftovers, unique};

fn said(arguments: &[&str]) -> Output {
    output(&mut osier(arguments))
}

/// The verb has to succeed, and says nothing.
fn quietly(arguments: &[&str]) {
    let output = said(arguments);
    assert!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "{arguments:?}: {output:?}"
    );
}

/// The exit code and the first line of the error, without osier's name.
fn refused(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().next().unwrap_or_default();
    (output.status.code().unwrap(), line.strip_prefix("osier: ").unwrap_or(line).to_owned())
}

fn hint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap_or_default().to_owned()
}

fn payload(machine: &Machine) -> PathBuf {
    Path::new(machine.show()["cgroup"].as_str().unwrap()).join("payload")
}

fn is_frozen(machine: &Machine) -> bool {
    fs::read_to_string(payload(machine).join("cgroup.events")).unwrap().contains("frozen 1")
}

/// A script's start in the background, in the machine's cgroup: who enters from outside is not there by itself.
fn in_cgroup(script: &str) -> String {
    format!("(echo 0 > /sys/fs/cgroup/cgroup.procs; {script}) >/dev/null 2>&1 &")
}

/// An init that hears no request for a shutdown.
fn deaf() -> Tree {
    let tree = Tree::minimal();
    tree.executable(
        "sbin/init",
        "#!/bin/sh\ntrap '' 37 38 39\necho osier-minimal: ready\nwhile :; do sleep 0.1; done\n",
    );
    tree
}

#[test]
fn poweroff_waits_for_the_end_of_all_named() {
    let trees = [Tree::minimal(), Tree::minimal()];
    let machines = [Machine::minimal(&trees[0], &[]), Machine::minimal(&trees[1], &[])];
    let names = [trees[0].name(), trees[1].name()];
    let slip = said(&["poweroff", names[0], "no-such-machine"]);
    assert_eq!(refused(&slip), (1, "no machine 'no-such-machine' is running".to_owned()));
    assert!(
        show(names[0]).is_some_and(|record| record["state"] != "stopping"),
        "none is touched when one is not there"
    );
    quietly(&["poweroff", names[0], names[1], names[0]]);
    assert_eq!(names.map(show), [None, None], "it came back before they had ended");
    for machine in machines {
        let (code, console, _) = machine.end();
        assert_eq!(code, 0, "{console}");
        assert!(console.contains("osier-minimal: poweroff\r\n"), "{console}");
    }
}

#[test]
fn poweroff_that_is_not_heard_says_so_and_terminate_ends_it() {
    let tree = deaf();
    let machine = Machine::minimal(&tree, &[]);
    let start = Instant::now();
    let late = said(&["poweroff", "--timeout=300ms", tree.name()]);
    assert!(start.elapsed() >= Duration::from_millis(300) && start.elapsed() < Duration::from_secs(5));
    let (code, line) = refused(&late);
    assert_eq!(code, 1);
    let begin = format!("cannot power off '{}': still running", tree.name());
    assert!(line.starts_with(&begin), "{line}");
    assert_eq!(hint(&late), format!("`osier terminate {}` ends it at once", tree.name()));
    assert_eq!(machine.show()["state"], "stopping");
    quietly(&["poweroff", "--no-wait", tree.name()]);
    assert!(show(tree.name()).is_some(), "the machine goes on");
    quietly(&["terminate", tree.name()]);
    assert_eq!(show(tree.name()), None);
    assert_eq!(machine.end().0, 137);
}

#[test]
fn reboot_waits_for_the_next_boot() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let before = machine.show();
    quietly(&["reboot", tree.name()]);
    let after = show(tree.name()).expect("it runs again");
    assert_ne!(after["leader"], before["leader"]);
    assert_eq!(after["supervisor"], before["supervisor"]);
    machine.await_outputs("osier-minimal: ready", 2);
    assert!(machine.console().contains("osier-minimal: reboot\r\n"), "{}", machine.console());
    // One that comes while it boots is the same reboot.
    for _ in 0..3 {
        quietly(&["reboot", "--no-wait", tree.name()]);
    }
    quietly(&["reboot", tree.name()]);
    assert!(show(tree.name()).is_some());
    quietly(&["poweroff", tree.name()]);
    assert_eq!(machine.end().0, 0);

    // One that powers off instead.
    let tree = Tree::minimal();
    tree.executable(
        "sbin/init",
        "#!/bin/sh\ntrap 'exec poweroff -f' 39\necho osier-minimal: ready\nwhile :; do sleep 0.1; done\n",
    );
    let machine = Machine::minimal(&tree, &[]);
    let other = said(&["reboot", tree.name()]);
    let expected = format!("cannot reboot '{}': it has ended and does not boot again", tree.name());
    assert_eq!(refused(&other), (1, expected));
    assert_eq!(machine.end().0, 0);
}

#[test]
fn an_init_that_does_not_listen_yet_is_asked_when_it_does() {
    let tree = Tree::minimal();
    tree.executable(
        "sbin/init",
        "#!/bin/sh\necho osier-minimal: ready\nsleep 0.5\ntrap 'exec poweroff -f' 38\nwhile :; do sleep 0.1; done\n",
    );
    let machine = Machine::minimal(&tree, &[]);
    quietly(&["poweroff", "--timeout=20s", tree.name()]);
    assert_eq!(machine.end().0, 0);
}

#[test]
fn terminate_ends_a_machine_that_reboots_all_the_time() {
    let tree = Tree::minimal();
    tree.executable("sbin/init", "#!/bin/sh\nexec reboot -f\n");
    let machine = Machine::start(&tree, &["--network=none"]);
    machine.show();
    quietly(&["terminate", tree.name()]);
    assert_eq!(show(tree.name()), None);
    assert_eq!(machine.end().0, 137);
}

#[test]
fn a_command_is_powered_off_by_its_end_and_cannot_reboot() {
    let tree = Tree::minimal();
    let name = tree.name().to_owned();
    let mut command = osier(["run"]);
    command.arg(tree.path()).args(["--", "/bin/sleep", "600"]);
    let machine = Machine::spawn(command, &name, &tree.path());
    machine.show();
    let other = said(&["reboot", &name]);
    assert_eq!(refused(&other), (1, format!("cannot reboot '{name}': it runs one command and has no init")));
    quietly(&["poweroff", &name]);
    assert_eq!(machine.end().0, 137);
}

#[test]
fn kill_reaches_the_leader_or_all() {
    let tree = Tree::minimal();
    tree.executable("sbin/init", "#!/bin/sh\ntrap 'echo leader' HUP\ntrap 'exit 7' USR1\n(trap 'echo child' HUP; while :; do sleep 0.1; done) &\n(while :; do sleep 0.1; done) &\necho osier-minimal: ready\nwhile :; do sleep 0.1; done\n");
    let machine = Machine::minimal(&tree, &[]);
    // Deeper in the tree too.
    machine.sh("mkdir -p /sys/fs/cgroup/deep/er; (trap 'echo deep > /dev/console; exit' HUP; echo 0 > /sys/fs/cgroup/deep/er/cgroup.procs; while :; do sleep 0.1; done) >/dev/null 2>&1 & sleep 0.3");
    quietly(&["kill", "--signal=HUP", "--whom=leader", tree.name()]);
    machine.await_output("leader");
    assert!(!machine.console().contains("child"), "{}", machine.console());
    quietly(&["kill", "-s", "SIGHUP", "--kill-whom=all", tree.name()]);
    machine.await_outputs("leader", 2);
    machine.await_output("child");
    machine.await_output("deep");
    quietly(&["kill", "-s", "10", "--whom", "leader", tree.name()]);
    assert_eq!(machine.end().0, 7);

    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    quietly(&["kill", "--signal=KILL", tree.name()]);
    assert_eq!(machine.end().0, 137);
}

#[test]
fn kill_gives_up_on_what_multiplies() {
    let tree = Tree::minimal();
    // Every process forks the next one and goes: there is always one that was not there before.
    tree.executable("bin/breed", "#!/bin/sh\ntrap '' WINCH\n/bin/breed & exit\n");
    let machine = Machine::minimal(&tree, &[]);
    machine.sh(&in_cgroup("/bin/breed"));
    let start = Instant::now();
    let output = said(&["kill", "--signal=WINCH", tree.name()]);
    // Whether it met all in some round is luck; that it comes back is not.
    assert!(start.elapsed() < Duration::from_secs(30));
    if !output.status.success() {
        let (code, line) = refused(&output);
        assert!(code == 1 && line.ends_with("and there are always new ones"), "{line}");
    }
    quietly(&["kill", "--signal=KILL", tree.name()]);
    assert_eq!(machine.end().0, 137);
}

#[test]
fn a_signal_that_does_not_exist_is_wrong_usage() {
    let output = said(&["kill", "--signal=TREM", "no-such-machine"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(hint(&output), "did you mean 'SIGTERM'?");
    for wrong in ["0", "65", "-1", "RTMIN+99", ""] {
        assert_eq!(said(&["kill", &format!("--signal={wrong}"), "x"]).status.code(), Some(2), "{wrong}");
    }
    for wrong in ["later", "-1s", "", "3x"] {
        for verb in ["poweroff", "reboot", "terminate", "freeze", "thaw", "wait"] {
            let output = said(&[verb, &format!("--timeout={wrong}"), "no-such-machine"]);
            assert_eq!(output.status.code(), Some(2), "{verb} {wrong}: {output:?}");
        }
    }
}

#[test]
fn freeze_stops_and_thaw_goes_on() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    machine.sh(&in_cgroup(
        "n=0; while :; do n=$((n+1)); echo $n > /run/tick.new; mv /run/tick.new /run/tick; done",
    ));
    let tick = || fs::read_to_string(format!("/proc/{}/root/run/tick", machine.leader())).unwrap_or_default();
    await_that("a tick", || !tick().is_empty());
    quietly(&["freeze", tree.name()]);
    assert!(is_frozen(&machine), "it came back before it was so");
    let stopped = tick();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(tick(), stopped);
    quietly(&["freeze", tree.name()]);
    quietly(&["thaw", tree.name()]);
    assert!(!is_frozen(&machine));
    await_that("the next tick", || tick() != stopped);
    quietly(&["thaw", tree.name()]);

    // What is frozen can be shut down and killed.
    quietly(&["freeze", tree.name()]);
    let output = said(&["reboot", tree.name()]);
    let word = format!("osier: '{}' was frozen and is thawed to shut down\n", tree.name());
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), word.clone()));
    quietly(&["freeze", tree.name()]);
    let output = said(&["poweroff", tree.name()]);
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), word));
    assert_eq!(machine.end().0, 0);
    for end in [&["terminate"][..], &["kill", "--signal=KILL"], &["kill", "--signal=9", "--whom=leader"]] {
        let tree = Tree::minimal();
        let machine = Machine::minimal(&tree, &[]);
        quietly(&["freeze", tree.name()]);
        quietly(&[end, &[tree.name()]].concat());
        assert_eq!(machine.end().0, 137, "{end:?}");
    }
    // As is one that a signal to the supervisor ends, as a service manager would.
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    quietly(&["freeze", tree.name()]);
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

#[test]
fn wait_ends_with_the_last_machine() {
    let trees = [Tree::minimal(), Tree::minimal()];
    let machines = [Machine::minimal(&trees[0], &[]), Machine::minimal(&trees[1], &[])];
    let late = said(&["wait", "--timeout=100ms", trees[0].name()]);
    let expected =
        format!("cannot wait any longer for '{}': still running when the time was over", trees[0].name());
    assert_eq!(refused(&late), (1, expected));
    let mut waiting = osier(["wait", trees[0].name(), trees[1].name()]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    // A reboot is no end.
    quietly(&["reboot", trees[0].name()]);
    quietly(&["poweroff", trees[0].name()]);
    std::thread::sleep(Duration::from_millis(100));
    assert!(waiting.try_wait().unwrap().is_none());
    // Nor does a supervisor that is killed keep anybody waiting.
    let [first, second] = machines;
    second.signal(Signal::SIGKILL);
    let status = support::machine::wait(&mut waiting, &|| "osier wait".to_owned());
    assert!(status.success());
    assert_eq!(first.end().0, 0);
    assert_eq!(second.end_leaving().0, 137);
    let next = run(&trees[1], &["--network=veth"], &["true"]);
    assert!(next.status.success(), "the next one of the name cleans up: {next:?}");
}

#[test]
fn another_user_is_refused_in_one_line() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let name = tree.name();
    // Not where the program was built, which others cannot reach.
    let program = std::env::temp_dir().join(unique("osier"));
    fs::copy(support::program(), &program).unwrap();
    let nobody = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.args(arguments).stdin(std::process::Stdio::null()).uid(65534).gid(65534).current_dir("/");
        output(&mut command)
    };
    for (line, action) in [
        (&["poweroff", name][..], "power off"),
        (&["reboot", name], "reboot"),
        (&["terminate", name], "terminate"),
        (&["kill", name], "signal"),
        (&["freeze", name], "freeze"),
        (&["thaw", name], "thaw"),
        (&["set", name, "pids.max=100"], "limit"),
        (&["attach", name], "attach to"),
        (&["shell", name], "open a shell in"),
        (&["bind", name, "/tmp"], "bind in"),
    ] {
        let output = nobody(line);
        let expected = format!("cannot {action} '{name}': only root or its owner may");
        let relays = ["attach", "shell"].contains(&line[0]);
        assert_eq!(refused(&output), (if relays { 125 } else { 1 }, expected), "{output:?}");
        assert_eq!(hint(&output), "run it as root, with sudo for instance");
    }
    for reading in [&["list"][..], &["show", name], &["status", name], &["show", name, "--json"]] {
        let output = nobody(reading);
        assert!(
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains(name),
            "{output:?}"
        );
    }
    assert_eq!(refused(&nobody(&["wait", "--timeout=0", name])).0, 1);
    let check = nobody(&["check"]);
    assert!(check.status.code() == Some(1) && !check.stdout.is_empty(), "{check:?}");
    fs::remove_file(&program).unwrap();
    assert!(!is_frozen(&machine));
    quietly(&["poweroff", name]);
    assert_eq!(machine.end().0, 0);
}

#[test]
fn debian_powers_off_and_reboots_by_the_verbs() {
    let name = unique("verbs");
    let mut command = osier(["boot", "--ephemeral"]);
    command.arg(format!("--machine={name}")).arg(debian());
    let machine = Machine::spawn(command, &name, &debian());
    machine.await_output(" login: ");
    quietly(&["reboot", &name]);
    machine.await_outputs(" login: ", 2);
    quietly(&["freeze", &name]);
    quietly(&["thaw", &name]);
    quietly(&["poweroff", &name]);
    assert_eq!(machine.end().0, 0);
    assert_eq!(leftovers::of(&name, &debian()), Vec::<String>::new());
}

#[test]
fn terminate_waits_for_no_reader_that_does_not_read() {
    let tree = Tree::minimal();
    // Its standard output is a pipe that nobody reads, and full.
    let (reader, writer) = std::io::pipe().unwrap();
    let mut supervisor = osier(["boot"]).arg(tree.path()).stdout(writer).spawn().unwrap();
    let leader = support::await_some("the machine", || show(tree.name()))["leader"].as_u64().unwrap();
    let leader = u32::try_from(leader).unwrap();
    let script = "(yes > /dev/console) >/dev/null 2>&1 & sleep 0.5";
    assert!(support::machine::enter(leader, &["sh", "-c", script]).status.success());
    quietly(&["terminate", tree.name()]);
    assert_eq!(support::machine::code(supervisor.wait().unwrap()), 137);
    leftovers::assert_none(tree.name(), &tree.path());
    drop(reader);
}
