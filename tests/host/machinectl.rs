//! The distribution's machinectl on machines that osier booted.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::machine::{Machine, command, inside, osier, said, scope_of, shown, tree, tried, unit, until};
use crate::terminal::Terminal;

/// A property of a machine's object on the bus, as busctl writes it.
pub(crate) fn on_bus(name: &str, property: &str) -> String {
    let machined = "org.freedesktop.machine1";
    let manager = ["call", machined, "/org/freedesktop/machine1", "org.freedesktop.machine1.Manager"];
    let object = said("busctl", &[&manager[..], &["GetMachine", "s", name]].concat());
    let object = object.trim().trim_start_matches("o ").trim_matches('"');
    let interface = "org.freedesktop.machine1.Machine";
    said("busctl", &["get-property", machined, object, interface, property]).trim().to_owned()
}

pub(crate) fn known() {
    let start = Instant::now();
    let machine = Machine::boot("known", &["--register=yes"]);
    println!("booted to READY in {} ms", start.elapsed().as_millis());
    let name = machine.name.as_str();

    let list = said("machinectl", &["list", "--no-legend"]);
    let row = list.lines().find(|line| line.starts_with(name)).expect("a row");
    assert_eq!(
        row.split_whitespace().skip(1).take(4).collect::<Vec<_>>(),
        ["container", "osier", "debian", "13"]
    );
    for (property, value) in [
        ("Name", name),
        ("Class", "container"),
        ("Service", "osier"),
        ("State", "running"),
        ("Unit", &machine.scope()),
        ("RootDirectory", &fs::canonicalize(tree()).expect("the tree").display().to_string()),
        ("Leader", &machine.leader()),
        ("Id", machine.record()["id"].as_str().expect("an ID")),
    ] {
        assert_eq!(shown(name, property), value, "{property}");
    }
    let index = fs::read_to_string(format!("/sys/class/net/{}/ifindex", machine.link()));
    assert_eq!(on_bus(name, "NetworkInterfaces"), format!("ai 1 {}", index.expect("the link").trim()));
    // The moment is what `osier show` has, to the second in which it was registered.
    let started = machine.record()["started"].as_u64().expect("microseconds");
    let registered: u64 = on_bus(name, "Timestamp").trim_start_matches("t ").parse().expect("microseconds");
    assert!(started.abs_diff(registered) < 5_000_000, "{started} and {registered}");

    let status = said("machinectl", &["status", name]);
    for part in [
        "Service: osier; class container",
        "└─payload",
        "/usr/lib/systemd/systemd",
        "OS: Debian GNU/Linux 13",
    ] {
        assert!(status.contains(part), "no '{part}': {status}");
    }
    let list = said(&osier(), &["list", "--no-legend"]);
    assert_eq!(list.lines().filter(|line| line.starts_with(name)).count(), 1, "{list}");

    assert_eq!(inside(name, "systemctl is-system-running --wait").trim(), "running");
    assert_eq!(inside(name, "systemctl --failed --no-legend --plain").trim(), "");
    // The machine's clocks begin with it, for what is started from outside too.
    let uptime: f64 = inside(name, "cut -d' ' -f1 /proc/uptime").trim().parse().expect("seconds");
    assert!(uptime < start.elapsed().as_secs_f64() + 1.0, "{uptime}");
    machine.stop();
}

pub(crate) fn shell_and_login() {
    let machine = Machine::boot("shell", &[]);
    let name = machine.name.as_str();

    let script = "echo one-$((1+1)); tty; id -un; cut -d. -f1 /proc/uptime; hostname";
    let mut shell =
        Terminal::start(&mut command("machinectl", &["--quiet", "shell", name, "/bin/sh", "-c", script]));
    shell.expect("one-2");
    shell.expect("/dev/pts/");
    shell.expect("root");
    shell.expect(name);
    assert_eq!(shell.end(), Some(0));

    let mut login = Terminal::start(&mut command("machinectl", &["login", name]));
    login.expect("login: ");
    login.type_line("root");
    login.expect(":~#");
    login.type_line("echo two-$((1+2)); loginctl --no-legend --no-pager list-sessions");
    login.expect("two-3");
    login.expect("root");
    login.expect(":~#");
    login.type_bytes(b"\x1d\x1d\x1d");
    login.expect("Connection to machine");
    login.end();
    machine.stop();
}

pub(crate) fn copies() {
    let machine = Machine::boot("copy", &[]);
    let directory = std::env::temp_dir().join(&machine.name);
    fs::create_dir_all(directory.join("there/below")).expect("a directory");
    fs::write(directory.join("there/below/file"), "osier\n").expect("a file");
    let [there, back] = ["there", "back"].map(|part| directory.join(part).display().to_string());
    said("machinectl", &["copy-to", &machine.name, &there, "/srv/there"]);
    assert_eq!(inside(&machine.name, "cat /srv/there/below/file"), "osier\n");
    said("machinectl", &["copy-from", &machine.name, "/srv/there", &back]);
    assert_eq!(fs::read_to_string(directory.join("back/below/file")).expect("the copy"), "osier\n");
    fs::remove_dir_all(directory).expect("removed");
    machine.stop();
}

pub(crate) fn binds() {
    let machine = Machine::boot("bind", &[]);
    let name = machine.name.as_str();
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory).expect("a directory");
    let source = directory.display().to_string();
    said("machinectl", &["bind", "--mkdir", name, &source, "/mnt/rw"]);
    said("machinectl", &["bind", "--mkdir", "--read-only", name, &source, "/mnt/ro"]);
    inside(name, "echo through > /mnt/rw/file");
    assert_eq!(fs::read_to_string(directory.join("file")).expect("the file"), "through\n");
    assert_eq!(inside(name, "cat /mnt/ro/file; touch /mnt/ro/x 2>&1 | grep -c Read-only"), "through\n1\n");
    // What carries it over is not left where others inside look.
    assert_eq!(inside(name, "ls /run/host/incoming"), "");
    machine.stop();
    assert!(directory.join("file").exists(), "the machine's end must not reach into what was bound");
    fs::remove_dir_all(directory).expect("removed");
}

pub(crate) fn poweroff() {
    let machine = Machine::boot("poweroff", &[]);
    said("machinectl", &["poweroff", &machine.name]);
    let end = machine.end();
    assert_eq!(end.code, Some(0), "{}", end.output);
    assert!(end.output.contains("poweroff.target"), "{}", end.output);
}

pub(crate) fn reboot() {
    let machine = Machine::boot("reboot", &[]);
    let name = machine.name.as_str();
    let mut leaders = vec![machine.leader()];
    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let mut boots = vec![inside(name, boot_id)];
    inside(name, "echo kept > /srv/file");
    for _ in 0..2 {
        said("machinectl", &["reboot", name]);
        until("another leader", || {
            // While it reboots, machined does not know it.
            let shown = tried("machinectl", &["show", name, "--value", "--property=Leader"]);
            let leader = String::from_utf8_lossy(&shown.stdout).trim().to_owned();
            shown.status.success() && !leaders.contains(&leader)
        });
        until("the machine's bus", || {
            command("machinectl", &["shell", "--quiet", name, "/bin/true"])
                .output()
                .is_ok_and(|output| output.status.success())
        });
        assert_eq!(inside(name, "systemctl is-system-running --wait").trim(), "running");
        let uptime: f64 = inside(name, "cut -d' ' -f1 /proc/uptime").trim().parse().expect("seconds");
        assert!(uptime < 60.0, "the clocks start anew: {uptime}");
        assert_eq!(
            inside(name, "cat /srv/file"),
            "kept\n",
            "the throw-away layer lasts as long as the machine"
        );
        assert_eq!(shown(name, "Leader"), machine.leader());
        assert_eq!(unit(&machine.scope(), "ActiveState"), "active");
        assert!(Path::new("/sys/class/net").join(machine.link()).exists());
        let boot = inside(name, boot_id);
        assert!(!boots.contains(&boot), "a boot ID for each boot: {boot}");
        boots.push(boot);
        leaders.push(machine.leader());
    }
    machine.stop();
}

pub(crate) fn terminate() {
    let machine = Machine::boot("terminate", &[]);
    said("machinectl", &["terminate", &machine.name]);
    let end = machine.end();
    // machined has PID 1 stop the scope, and PID 1 asks osier.
    assert_eq!(end.code, Some(0), "{}", end.output);
    assert!(end.output.contains("halt.target"), "{}", end.output);
}

pub(crate) fn kill() {
    let machine = Machine::boot("kill", &[]);
    said("machinectl", &["kill", "--kill-whom=leader", "--signal=SIGRTMIN+4", &machine.name]);
    let end = machine.end();
    assert_eq!(end.code, Some(0), "{}", end.output);
    assert!(end.output.contains("poweroff.target"), "{}", end.output);

    let machine = Machine::hold("kill", &["--register=yes"]);
    said("machinectl", &["kill", "--signal=SIGKILL", &machine.name]);
    let (scope, end) = (scope_of(&machine.name), machine.end());
    assert_eq!(end.code, Some(128 + 9), "{}", end.output);
    assert_eq!(unit(&scope, "LoadState"), "not-found");
}
