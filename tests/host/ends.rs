//! How machines end that nobody shuts down, and those that somebody does.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine::{
    Machine, cgroup_of, listed, osier, refused, said, shown, tree, tried, unique, unit, until,
};

pub(crate) fn sigterm() {
    let machine = Machine::boot("sigterm", &[]);
    machine.heard();
    machine.signal(Signal::SIGTERM);
    until("STOPPING=1", || machine.heard().iter().any(|message| message.contains("STOPPING=1")));
    let end = machine.end();
    assert_eq!(end.code, Some(0), "{}", end.output);
    assert!(end.output.contains("halt.target"), "{}", end.output);

    // One that does not answer is killed by the second.
    let machine = Machine::hold("sigcont", &["--register=yes", "--kill-signal=SIGCONT"]);
    machine.heard();
    machine.signal(Signal::SIGTERM);
    until("STOPPING=1", || machine.heard().iter().any(|message| message.contains("STOPPING=1")));
    assert!(listed().contains(&machine.name));
    machine.signal(Signal::SIGTERM);
    let end = machine.end();
    assert_eq!(end.code, Some(137), "{}", end.output);
}

/// What is left of a machine whose supervisor is gone goes without anybody's help.
pub(crate) fn killed_supervisor() {
    let mut machine = Machine::boot("orphan", &[]);
    let (scope, leader) = (machine.scope(), machine.leader());
    let start = Instant::now();
    machine.signal(Signal::SIGKILL);
    assert_eq!(machine.wait(), None);
    until("machined's oblivion", || !listed().contains(&machine.name));
    until("the scope's end", || unit(&scope, "LoadState") == "not-found");
    println!("gone after {} ms", start.elapsed().as_millis());
    assert!(!Path::new("/proc").join(leader).exists());
    let list = said(&osier(), &["list", "--no-legend"]);
    assert!(!list.contains(&machine.name), "{list}");
    drop(machine);
    // The next boot under the name finds nothing in its way, and takes the rest away.
    Machine::hold("orphan", &["--register=yes"]).stop();
    // At once, too: what the killed one's registrar still does must not meet the next machine of the name.
    for _ in 0..10 {
        let mut machine = Machine::hold("orphan", &["--register=yes"]);
        machine.signal(Signal::SIGKILL);
        machine.wait();
        drop(machine);
    }
    let machine = Machine::hold("orphan", &["--register=yes"]);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(shown(&machine.name, "Leader"), machine.leader());
    machine.stop();
}

pub(crate) fn killed_service() {
    let tree = tree();
    let name = Path::new(&tree).file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let service = format!("osier@{name}.service");
    said("systemctl", &["start", &service]);
    said("systemctl", &["kill", "--kill-whom=main", "--signal=SIGKILL", &service]);
    until("the service's end", || unit(&service, "ActiveState") == "failed");
    until("machined's oblivion", || !listed().contains(&name));
    said("systemctl", &["reset-failed", &service]);
    said("systemctl", &["start", &service]);
    said("systemctl", &["stop", &service]);
}

/// The process that talks to the bus is not the machine.
pub(crate) fn killed_registrar() {
    let mut machine = Machine::boot("registrar", &[]);
    let children = format!("/proc/{0}/task/{0}/children", machine.supervisor());
    let children = fs::read_to_string(children).expect("children");
    let comm = |pid: &&str| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "osier-bus")
    };
    let registrar = children.split_whitespace().find(comm).expect("the registrar");
    kill(Pid::from_raw(registrar.parse().expect("a pid")), Signal::SIGKILL).expect("kill");
    std::thread::sleep(Duration::from_millis(500));
    assert!(Path::new("/proc").join(machine.leader()).exists());
    assert_eq!(shown(&machine.name, "Leader"), machine.leader());
    machine.signal(Signal::SIGTERM);
    // What the registrar would have taken back, PID 1 and machined see for themselves.
    let (name, scope) = (machine.name.clone(), machine.scope());
    assert_eq!(machine.wait(), Some(0), "{}", machine.output());
    until("machined's oblivion", || !listed().contains(&name));
    until("the scope's end", || unit(&scope, "LoadState") == "not-found");
}

pub(crate) fn terminate() {
    let machines = [Machine::hold("first", &["--register=yes"]), Machine::start("second", &[])];
    let [first, second] = &machines;
    until("the second machine", || listed().contains(&second.name));
    said(&osier(), &["terminate", &first.name, &second.name]);
    for machine in &machines {
        machine.assert_gone();
    }
    for machine in machines {
        assert_eq!(machine.end().code, Some(137));
    }
}

/// The verbs that steer, on a machine in a scope.
pub(crate) fn steer() {
    let machine = Machine::boot("steer", &[]);
    let (name, leader) = (machine.name.as_str(), machine.leader());
    let frozen = || {
        let events =
            fs::read_to_string(cgroup_of(&machine.scope()).join("payload/cgroup.events")).expect("events");
        events.contains("frozen 1")
    };
    said(&osier(), &["freeze", name]);
    assert!(frozen());
    said(&osier(), &["thaw", name]);
    assert!(!frozen());
    said(&osier(), &["reboot", name]);
    assert_ne!(machine.leader(), leader);
    // machined's forgets the leader of before, and knows the one after.
    until("the next registration", || {
        listed().contains(&machine.name) && shown(name, "Leader") == machine.leader()
    });
    said(&osier(), &["kill", "--signal=CONT", name]);
    said(&osier(), &["freeze", name]);
    let word = tried(&osier(), &["poweroff", name]);
    let (code, text) = refused(&word);
    assert_eq!((code, text.contains("was frozen and is thawed")), (Some(0), true), "{text}");
    assert_eq!(machine.end().code, Some(0));

    // One that only machined knows.
    let name = unique("foreign");
    let mut child = Command::new("systemd-nspawn")
        .args([
            "--quiet",
            "--ephemeral",
            "--console=pipe",
            "--machine",
            &name,
            "-D",
            &tree(),
            "/bin/sleep",
            "600",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("systemd-nspawn");
    until("its registration", || listed().contains(&name));
    let late = tried(&osier(), &["wait", "--timeout=200ms", &name]);
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    let mut waiting = Command::new(osier()).args(["wait", &name]).spawn().expect("osier wait");
    std::thread::sleep(Duration::from_millis(200));
    assert!(waiting.try_wait().expect("its status").is_none());
    said(&osier(), &["kill", "--whom=leader", "--signal=KILL", &name]);
    assert!(waiting.wait().expect("its end").success());
    child.wait().expect("its end");
    assert!(!listed().contains(&name));
}

/// machined asks polkit about who is not root.
pub(crate) fn another_user() {
    let machine = Machine::hold("others", &["--register=yes"]);
    let name = machine.name.as_str();
    let program = osier();
    let nobody = |verb: &str| {
        tried("setpriv", &["--reuid=65534", "--regid=65534", "--clear-groups", &program, verb, name])
    };
    for (verb, action) in
        [("poweroff", "power off"), ("terminate", "terminate"), ("kill", "signal"), ("freeze", "freeze")]
    {
        let (code, text) = refused(&nobody(verb));
        let expected = format!("osier: cannot {action} '{name}': only root or its owner may\n");
        assert!(code == Some(1) && text.starts_with(&expected), "{verb}: {text}");
    }
    assert_eq!(shown(name, "Leader"), machine.leader());
    assert!(nobody("status").status.success());

    // Whom polkit grants it, it is granted; what machined has no method for stays root's.
    let rule = Rule::new("org.freedesktop.machine1.manage-machines");
    let (code, text) = refused(&nobody("freeze"));
    assert!(code == Some(1) && text.contains("only root or its owner may"), "{text}");
    // A command that runs as PID 1 has no signal for a shutdown that machined could send.
    let (code, text) = refused(&nobody("poweroff"));
    assert!(code == Some(1) && text.contains("only root or its owner may"), "{text}");
    let booted = Machine::boot("booted", &["--register=yes"]);
    let off = tried(
        "setpriv",
        &["--reuid=65534", "--regid=65534", "--clear-groups", &program, "poweroff", &booted.name],
    );
    assert!(off.status.success(), "{off:?}");
    assert_eq!(booted.end().code, Some(0));
    let terminated = nobody("terminate");
    drop(rule);
    assert!(terminated.status.success(), "{terminated:?}");
    machine.assert_gone();
    assert_eq!(machine.end().code, Some(137));
}

/// A rule of polkit's that lets nobody do something.
struct Rule;

impl Rule {
    const PATH: &str = "/etc/polkit-1/rules.d/00-osier.rules";

    fn new(action: &str) -> Self {
        let text = format!(
            "polkit.addRule(function(action, subject) {{\n    if (action.id == \"{action}\" && subject.user == \"nobody\")\n        return polkit.Result.YES;\n}});\n"
        );
        fs::write(Self::PATH, text).expect("a rule");
        said("systemctl", &["restart", "polkit.service"]);
        Self
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        let _ = fs::remove_file(Self::PATH);
        said("systemctl", &["stop", "polkit.service"]);
    }
}

/// Machines that are made and ended side by side.
pub(crate) fn many() {
    let start = Instant::now();
    let hold =
        |number| std::thread::spawn(move || Machine::hold(&format!("many{number}"), &["--register=yes"]));
    let machines: Vec<_> = (0..8).map(hold).collect();
    let machines: Vec<_> = machines.into_iter().map(|machine| machine.join().expect("a machine")).collect();
    println!("{} made in {} ms", machines.len(), start.elapsed().as_millis());
    for machine in &machines {
        assert_eq!(shown(&machine.name, "Leader"), machine.leader());
    }
    for machine in &machines {
        machine.signal(Signal::SIGTERM);
    }
    for machine in machines {
        let end = machine.end();
        assert_eq!(end.code, Some(137), "{}", end.output);
    }
}
