//! `osier start`, `enable` and `disable` by osier@NAME.service, and what reaches a machine in it.

use std::fs;
use std::path::Path;

use crate::machine::{command, osier, refused, said, shown, tree, tried, unit, until};
use crate::service;
use crate::terminal::Terminal;

fn name_of_tree() -> (String, String) {
    let name = Path::new(&tree()).file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let service = format!("osier@{name}.service");
    (name, service)
}

/// What osier says with which exit code, when it refuses.
fn osier_refuses(arguments: &[&str]) -> String {
    let (code, error) = refused(&tried(&osier(), arguments));
    assert_eq!(code, Some(1), "{error}");
    error
}

pub(crate) fn started() {
    let (name, service) = name_of_tree();
    said(&osier(), &["start", "--wait", &name]);
    service::check(&name, &service);
    assert_eq!(said(&osier(), &["show", &name, "--value", "--property=State"]).trim(), "running");
    assert!(osier_refuses(&["start", &name]).contains("it runs already"));

    // Its console is attached to although the unit's goes to the journal.
    let mut terminal = Terminal::start(&mut command(&osier(), &["attach", &name]));
    terminal.expect("login:");
    terminal.type_line("nobody-there");
    terminal.expect("assword:");
    terminal.type_bytes(b"\x1d\x1dd");
    assert_eq!(terminal.end(), Some(0));
    assert_eq!(unit(&service, "ActiveState"), "active");

    // The machine's journal, and the host's with what the console has shown.
    let leader = shown(&name, "Leader");
    let journal = said(&osier(), &["logs", &name, "--lines=10000"]);
    assert!(journal.contains("multi-user.target"), "{journal}");
    let console = said(&osier(), &["logs", &name, "--console"]);
    assert!(console.contains("login:") && !console.contains(&format!("systemd[{leader}]")), "{console}");
    said(&osier(), &["poweroff", &name]);
    until("the service's end", || unit(&service, "ActiveState") == "inactive");
    assert_eq!(unit(&service, "Result"), "success");

    // Without the wait it is there when the payload runs, before its systemd is ready.
    said(&osier(), &["start", &name]);
    assert_eq!(said(&osier(), &["show", &name, "--value", "--property=Unit"]).trim(), service);
    let late = osier_refuses(&["start", &name]);
    assert!(late.contains("it runs already"), "{late}");
    until("its readiness", || unit(&service, "ActiveState") == "active");
    service::stop(&name, &service);
}

pub(crate) fn refused_by_the_unit() {
    let broken = Path::new("/var/lib/machines/osier-broken");
    fs::create_dir(broken).expect("a directory");
    let error = osier_refuses(&["start", "osier-broken"]);
    assert!(error.contains("cannot start 'osier-broken': osier@osier-broken.service ended with"), "{error}");
    assert!(error.contains("hint: journalctl -u osier@osier-broken\n"), "{error}");
    let journal = said("journalctl", &["--no-pager", "-u", "osier@osier-broken"]);
    assert!(journal.contains("is not an OS tree"), "{journal}");
    said("systemctl", &["reset-failed", "osier@osier-broken.service"]);
    fs::remove_dir(broken).expect("the directory");
}

pub(crate) fn enabled() {
    let (name, service) = name_of_tree();
    let link = Path::new("/etc/systemd/system/machines.target.wants").join(&service);
    let target = || tried("systemctl", &["is-enabled", "--quiet", "machines.target"]).status.success();
    let before = target();
    said(&osier(), &["enable", &name]);
    assert!(link.exists() && target());
    assert_eq!(said("systemctl", &["is-enabled", &service]).trim(), "enabled");
    // Asked again it is no other.
    said(&osier(), &["enable", &name]);
    said(&osier(), &["disable", &name]);
    assert!(link.symlink_metadata().is_err());
    // Other machines may be in the target: it stays, as with machinectl.
    assert!(target());
    if !before {
        said("systemctl", &["disable", "--quiet", "machines.target"]);
    }
    assert!(osier_refuses(&["enable", "osier-no-such-image"]).contains("no image 'osier-no-such-image'"));
}
