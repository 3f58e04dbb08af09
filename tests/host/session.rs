//! Shell and login where systemd and machined are: in the scope's payload, through OpenLogin and OpenShell.

use std::process::Command;

use crate::machine::{Machine, command, inside, osier, said, tried};
use crate::terminal::Terminal;

/// `osier` with these arguments on a terminal.
fn on_terminal(arguments: &[&str]) -> Terminal {
    let osier = osier();
    // A session of its own, whose terminal is the one that it is given.
    let all = [&["--ctty", "--wait", &osier], arguments].concat();
    let mut command: Command = command("setsid", &all);
    command.env("TERM", "xterm");
    Terminal::start(&mut command)
}

/// A shell is below the scope's payload, with every controller that the machine has, and its status is relayed.
pub(crate) fn shell() {
    let machine = Machine::boot("shell", &[]);
    let name = machine.name.as_str();
    let script = "grep ^0:: /proc/self/cgroup; exit 9";
    let output = tried(&osier(), &["shell", name, "--", "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("0::/osier-"), "{text}");
    assert_eq!(
        inside(name, "ls /sys/fs/cgroup | grep -c ^osier- || true").trim(),
        "0",
        "nothing of it stays"
    );
    assert_eq!(said(&osier(), &["shell", name, "--", "systemctl", "is-system-running"]).trim(), "running");
    machine.stop();
}

/// `--session` is a session of the machine's logind, by PAM, on a terminal or not; it ends with its command.
pub(crate) fn session() {
    let machine = Machine::boot("session", &[]);
    let name = machine.name.as_str();
    let listed = said(
        &osier(),
        &[
            "shell",
            "--session",
            "-E",
            "A=b c",
            name,
            "/bin/sh",
            "-c",
            "echo $A; loginctl --no-legend --no-pager list-sessions",
        ],
    );
    assert!(listed.contains("b c") && listed.contains("pts/"), "{listed}");
    for _ in 0..3 {
        assert_eq!(
            said(&osier(), &["shell", "--session", name, "/bin/true"]).trim(),
            "",
            "one without a word ends too"
        );
    }
    let mut terminal = on_terminal(&["shell", "--session", name]);
    terminal.expect("# ");
    terminal.type_line("echo session=$XDG_SESSION_ID.");
    terminal.expect("session=c");
    terminal.type_line("exit");
    assert_eq!(terminal.end(), Some(0));
    let refused = tried(&osier(), &["shell", "--session", name, "true"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let unknown = tried(&osier(), &["shell", "--session", &format!("nobody-such@{name}")]);
    let text = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(125), "{unknown:?}");
    assert!(text.contains("cannot become user 'nobody-such'"), "{text}");
    machine.stop();
}

/// A prompt of the machine's systemd; `^]` three times leaves it.
pub(crate) fn login() {
    let machine = Machine::boot("login", &[]);
    let name = machine.name.as_str();
    let mut terminal = on_terminal(&["login", name]);
    terminal.expect("login: ");
    let units = inside(name, "systemctl list-units --no-legend 'container-getty@*'");
    assert!(units.contains("running"), "{units}");
    terminal.type_line("root");
    terminal.expect("# ");
    terminal.type_line("loginctl --no-legend --no-pager list-sessions | grep -c pts/ | sed s/^/sessions/");
    terminal.expect("sessions1");
    terminal.type_bytes(b"\x1d\x1d\x1d");
    assert_eq!(terminal.end(), Some(0));
    // Without its bus systemd gives none, and the tree's own does.
    inside(name, "systemctl stop dbus.socket dbus.service 2>/dev/null; true");
    let mut terminal = on_terminal(&["login", name]);
    terminal.expect("login: ");
    terminal.type_bytes(b"\x1d\x1d\x1d");
    assert_eq!(terminal.end(), Some(0));
    machine.stop();
}
