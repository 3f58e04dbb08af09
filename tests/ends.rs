//! How machines end: signals to the supervisor, what the payload does, SIGKILL, reboots, and the word READY. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::machine::{Machine, await_death, enter, osier, run, show};
use support::tree::{Scratch, Tree, debian};
use support::{await_some, await_that, leftovers, unique};

#[test]
fn signals_ask_for_a_shutdown_once_and_kill_twice() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let tree = Tree::minimal();
        let machine = Machine::minimal(&tree, &[]);
        machine.signal(signal);
        let (code, console, stderr) = machine.end();
        assert_eq!((code, stderr.as_str()), (0, ""), "{console}");
        assert!(console.contains("osier-minimal: halt\r\n"), "{console}");
    }
    let tree = Tree::minimal();
    tree.executable(
        "sbin/init",
        "#!/bin/sh\ntrap 'echo asked' 37\necho osier-minimal: ready\nwhile :; do sleep 0.1; done\n",
    );
    let machine = Machine::minimal(&tree, &[]);
    machine.signal(Signal::SIGTERM);
    machine.await_output("asked");
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 137);
}

#[test]
fn another_kill_signal_is_sent_when_one_was_said() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &["--kill-signal=SIGRTMIN+4"]);
    machine.signal(Signal::SIGTERM);
    let (code, console, _) = machine.end();
    assert_eq!(code, 0);
    assert!(console.contains("osier-minimal: poweroff\r\n"), "{console}");
}

#[test]
fn the_end_is_the_inits() {
    for (last, expected) in
        [("exec poweroff -f", 0), ("exec halt -f", 0), ("exit 3", 3), ("exit 0", 0), ("exit 255", 255)]
    {
        let tree = Tree::minimal();
        tree.executable("sbin/init", &format!("#!/bin/sh\necho osier-minimal: ready\n{last}\n"));
        let machine = Machine::start(&tree, &[]);
        let (code, console, _) = machine.end();
        assert_eq!((code, console.as_str()), (expected, "osier-minimal: ready\r\n"), "{last}");
    }
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    kill(Pid::from_raw(machine.leader().cast_signed()), Signal::SIGKILL).unwrap();
    assert_eq!(machine.end().0, 137);
}

#[test]
fn a_reboot_inside_boots_again_in_place() {
    for options in [&[][..], &["--ephemeral"]] {
        let tree = Tree::minimal();
        let before = tree.fingerprint();
        let machine = Machine::minimal(&tree, options);
        let (leader, supervisor) = (machine.leader(), machine.supervisor());
        let boot_id = machine.sh("cat /proc/sys/kernel/random/boot_id");
        let uuid = machine.show()["id"].clone();
        machine.sh("echo kept > /etc/kept; echo gone > /run/gone");
        std::thread::sleep(Duration::from_millis(1500));
        kill(Pid::from_raw(leader.cast_signed()), None).unwrap();
        machine.enter(&["kill", "-INT", "1"]);
        machine.await_outputs("osier-minimal: ready", 2);
        await_that("another leader", || show(&machine.name).is_some_and(|record| record["leader"] != leader));
        assert_eq!((machine.supervisor(), &machine.show()["supervisor"]), (supervisor, &supervisor.into()));
        assert_ne!(machine.sh("cat /proc/sys/kernel/random/boot_id"), boot_id);
        // What is written stays for the same machine, a throw-away one's as well; its clocks start anew.
        assert_eq!(
            machine.sh("cat /etc/kept; ls /run/gone 2>&1 | wc -l; ls /run/gone >/dev/null 2>&1 || echo gone"),
            "kept\n1\ngone"
        );
        let up: f64 = machine.sh("cut -d' ' -f1 /proc/uptime").parse().unwrap();
        assert!(up < 1.4, "{up}");
        assert!(leftovers::link(&machine.name).exists());
        if options.is_empty() {
            assert_eq!(machine.show()["id"].as_str().map(str::len), uuid.as_str().map(str::len));
        }
        machine.signal(Signal::SIGTERM);
        assert_eq!(machine.end().0, 0);
        assert_eq!(tree.fingerprint() == before, !options.is_empty());
    }
}

#[test]
fn a_reboot_keeps_the_pipes() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &["--console=pipe"]);
    machine.enter(&["kill", "-INT", "1"]);
    machine.await_outputs("osier-minimal: ready", 2);
    machine.signal(Signal::SIGTERM);
    let (code, stdout, _) = machine.end();
    let expected =
        ["ready", "reboot", "ready", "halt"].map(|word| format!("osier-minimal: {word}\n")).concat();
    assert_eq!((code, stdout), (0, expected));
}

#[test]
fn a_machine_that_was_asked_to_stop_does_not_boot_again() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &["--kill-signal=SIGRTMIN+5"]);
    machine.signal(Signal::SIGTERM);
    let (code, console, _) = machine.end();
    assert_eq!(code, 0);
    assert!(console.contains("osier-minimal: reboot\r\n"), "{console}");
}

/// A cgroup of the test's own, as a service manager makes one for a service.
struct Unit(PathBuf);

impl Unit {
    fn new() -> Self {
        let path = leftovers::cgroup2().join(unique("unit"));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// `osier` with these arguments, started in it.
    fn osier(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        let script = "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"";
        command.args(["-c", script, "sh"]).arg(&self.0).arg(support::program()).args(arguments);
        command.stdin(std::process::Stdio::null());
        command
    }

    fn children(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap().flatten().filter(|entry| entry.path().is_dir());
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().display().to_string()).collect();
        names.sort();
        names
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // As the service manager does when a service has ended.
        for child in self.children() {
            let _ = fs::remove_dir(self.0.join(child));
        }
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_kept_unit_holds_the_machine_and_is_told_of_a_reboot() {
    for (word, expected) in [("-INT", 133), ("-38", 0)] {
        let (tree, unit) = (Tree::minimal(), Unit::new());
        let mut command = unit.osier(&["boot", "--keep-unit"]);
        command.arg(tree.path());
        let machine = Machine::spawn(command, tree.name(), &tree.path());
        machine.await_output("osier-minimal: ready");
        assert_eq!(unit.children(), ["payload", "supervisor"]);
        assert_eq!(machine.show()["cgroup"], unit.0.to_str().unwrap());
        let payload = fs::read_to_string(unit.0.join("payload/cgroup.procs")).unwrap();
        assert!(payload.lines().any(|pid| pid == machine.leader().to_string()));
        assert_eq!(
            fs::read_to_string(unit.0.join("supervisor/cgroup.procs")).unwrap().trim(),
            machine.supervisor().to_string()
        );
        assert!(!leftovers::cgroup(&machine.name).exists());
        machine.enter(&["kill", word, "1"]);
        assert_eq!(machine.end().0, expected, "{word}");
        assert!(!unit.children().contains(&"payload".to_owned()));
    }
}

#[test]
fn a_killed_supervisor_takes_the_machine_with_it_and_the_next_one_cleans_up() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let leader = machine.leader();
    machine.sh("mkdir -p /sys/fs/cgroup/deep/er; (sleep 1000 >/dev/null 2>&1 &)");
    machine.signal(Signal::SIGKILL);
    assert_eq!(machine.end_leaving().0, 137);
    await_death(leader);
    // It is not listed any more, and what is left is known.
    assert_eq!(show(tree.name()), None);
    let left = leftovers::of(tree.name(), &tree.path());
    assert!(left.iter().any(|found| found.ends_with(&format!("machine-{}.scope", tree.name()))), "{left:?}");
    let again = Machine::minimal(&tree, &[]);
    assert_ne!(again.leader(), leader);
    assert_eq!(again.sh("ls -d /sys/fs/cgroup/deep 2>/dev/null || echo clean"), "clean");
    again.signal(Signal::SIGTERM);
    assert_eq!(again.end().0, 0);
}

#[test]
fn a_killed_supervisor_of_a_throw_away_machine_leaves_no_tree_behind() {
    let tree = Tree::minimal();
    let before = tree.fingerprint();
    let machine = Machine::minimal(&tree, &["--ephemeral"]);
    machine.sh("dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null");
    let leader = machine.leader();
    machine.signal(Signal::SIGKILL);
    assert_eq!(machine.end_leaving().0, 137);
    await_death(leader);
    assert_eq!(tree.fingerprint(), before);
    let next = run(&tree, &["--network=veth"], &["true"]);
    assert!(next.status.success(), "{next:?}");
}

/// A service manager that listens.
struct Listener {
    _scratch: Scratch,
    path: PathBuf,
    socket: UnixDatagram,
}

impl Listener {
    fn new() -> Self {
        let scratch = Scratch::new();
        let path = scratch.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { _scratch: scratch, path, socket }
    }

    fn heard(&self, text: &mut String) {
        let mut datagram = [0; 4096];
        while let Ok(count) = self.socket.recv(&mut datagram) {
            text.push_str(&String::from_utf8_lossy(&datagram[..count]));
            text.push('\n');
        }
    }
}

#[test]
fn the_service_manager_is_told_at_once_or_when_the_init_is_ready() {
    let listener = Listener::new();
    let tree = Tree::minimal();
    let mut command = osier(["boot"]);
    command.arg(tree.path()).env("NOTIFY_SOCKET", &listener.path);
    let machine = Machine::spawn(command, tree.name(), &tree.path());
    let mut heard = String::new();
    await_that("READY=1", || {
        listener.heard(&mut heard);
        heard.contains("READY=1\n")
    });
    machine.await_output("ready");
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
    listener.heard(&mut heard);
    assert!(heard.contains("STOPPING=1\n"), "{heard}");

    // An init that says it late; what others inside say is not believed.
    let tree = Tree::minimal();
    tree.executable(
        "sbin/init",
        "#!/bin/sh\ntrap 'exit 0' 37\n(while [ ! -e /run/go ]; do sleep 0.05; done)\necho going\nwhile :; do sleep 0.1; done\n",
    );
    let mut command = osier(["boot", "--notify-ready=yes"]);
    command.arg(tree.path()).env("NOTIFY_SOCKET", &listener.path);
    let machine = Machine::spawn(command, tree.name(), &tree.path());
    let leader = machine.leader();
    assert_eq!(machine.show()["state"], "starting");
    let inside = format!("/proc/{leader}/root/run/host/notify");
    UnixDatagram::unbound().unwrap().send_to(b"READY=1", inside).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let mut heard = String::new();
    listener.heard(&mut heard);
    assert!(!heard.contains("READY=1"), "{heard}");
    machine.sh("touch /run/go");
    machine.await_output("going");
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

#[test]
fn ready_of_debian_comes_from_its_systemd() {
    let listener = Listener::new();
    let name = unique("ready");
    let mut command = osier(["boot", "--ephemeral", "--notify-ready=yes"]);
    command.arg(format!("--machine={name}")).arg(debian()).env("NOTIFY_SOCKET", &listener.path);
    let started = Instant::now();
    let machine = Machine::spawn(command, &name, &debian());
    let mut heard = String::new();
    await_some("READY=1", || {
        listener.heard(&mut heard);
        heard.contains("READY=1\n").then_some(())
    });
    await_that("the record to say so", || machine.show()["state"] == "running");
    let state = machine.enter(&["systemctl", "is-system-running"]);
    let state = String::from_utf8(state.stdout).unwrap();
    assert!(["running\n", "starting\n"].contains(&state.as_str()), "{state}");
    // Its jobs were done by then: multi-user.target is reached.
    assert_eq!(
        machine.sh("systemctl is-active multi-user.target"),
        "active",
        "after {:?}",
        started.elapsed()
    );
    assert!(heard.contains("STATUS="), "{heard}");
    machine.signal(Signal::SIGTERM);
    let (code, console, _) = machine.end();
    assert_eq!(code, 0, "{console}");
}

#[test]
fn debian_powers_off_and_reboots() {
    let name = unique("power");
    let mut command = osier(["boot", "--ephemeral"]);
    command.arg(format!("--machine={name}")).arg(debian());
    let machine = Machine::spawn(command, &name, &debian());
    machine.await_output(" login: ");
    let leader = machine.leader();
    machine.sh("echo kept > /root/kept; systemctl reboot");
    await_that("another leader", || show(&name).is_some_and(|record| record["leader"] != leader));
    machine.await_outputs(" login: ", 2);
    assert_eq!(machine.sh("cat /root/kept"), "kept");
    machine.enter(&["systemctl", "poweroff"]);
    let (code, console, _) = machine.end();
    assert_eq!(code, 0, "{console}");
}

#[test]
fn many_machines_at_once_leave_nothing() {
    let trees: Vec<_> = (0..8).map(|_| Tree::minimal()).collect();
    let machines: Vec<_> = trees.iter().map(|tree| Machine::start(tree, &[])).collect();
    for machine in &machines {
        machine.await_output("osier-minimal: ready");
    }
    for machine in &machines {
        machine.signal(Signal::SIGTERM);
    }
    for machine in machines {
        assert_eq!(machine.end().0, 0);
    }
    // Started and ended again and again at the same time: directories that they share come and go under them.
    std::thread::scope(|scope| {
        for tree in &trees {
            scope.spawn(move || {
                for _ in 0..10 {
                    let output = run(tree, &[], &["true"]);
                    assert!(output.status.success(), "{output:?}");
                }
            });
        }
    });
}

/// An init that ends when it is asked and /run/end is there.
const SLOW_TO_END: &str = "#!/bin/sh\ntrap 'asked=1' 37\necho ready\n\
    while [ -z \"$asked\" ] || [ ! -e /run/end ]; do sleep 0.05; done\nexit 0\n";

#[test]
fn the_record_says_where_a_machine_is_in_its_life() {
    let tree = Tree::minimal();
    tree.executable("sbin/init", SLOW_TO_END);
    let machine = Machine::start(&tree, &[]);
    machine.await_output("ready");
    // An init that tells nobody runs from the start.
    assert_eq!(machine.show()["state"], "running");
    machine.signal(Signal::SIGTERM);
    await_that("the record to say so", || machine.show()["state"] == "stopping");
    machine.sh("touch /run/end");
    assert_eq!(machine.end().0, 0);
}

#[test]
fn a_full_run_does_not_keep_the_record_from_the_truth() {
    let tree = Tree::minimal();
    tree.executable("sbin/init", SLOW_TO_END);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-c"]);
    command.arg("mount -t tmpfs -o size=256k tmpfs /run && exec \"$@\"").arg("sh");
    let osier = osier(["boot"]);
    command.arg(osier.get_program()).args(osier.get_args()).arg(tree.path()).stdin(Stdio::null());
    let machine = Machine::spawn(command, tree.name(), &tree.path());
    machine.await_output("ready");
    let run = format!("/proc/{}/root/run", machine.supervisor());
    let record = || fs::read_to_string(format!("{run}/osier/machines/{}.json", tree.name())).unwrap();
    let leader = serde_json::from_str::<serde_json::Value>(&record()).unwrap()["leader"].as_u64().unwrap();
    // Refused for want of room, and that is the point.
    let filled = fs::write(format!("{run}/full"), vec![0; 1 << 20]).unwrap_err();
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
    machine.signal(Signal::SIGTERM);
    // There is no room for another file, but there is that of the one before.
    await_that("the record to say so", || record().contains("\"stopping\""));
    fs::remove_file(format!("{run}/full")).unwrap();
    let end = enter(u32::try_from(leader).unwrap(), &["touch", "/run/end"]);
    assert!(end.status.success(), "{end:?}");
    assert_eq!(machine.end().0, 0);
}
