//! Machines in the unit whose init is none of systemd's: it tells nobody that it is ready, and SIGRTMIN+3 is nothing to it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::machine::{osier, said, shown, unique, unit, until};

/// Built here, without a network.
fn build(recipe: &str) -> (String, PathBuf) {
    let name = unique(recipe);
    let path = Path::new("/var/lib/machines").join(&name);
    said(&osier(), &["image", "build", recipe, "--to", &path.display().to_string()]);
    (name, path)
}

/// Up, booted again and down, by what is the host's to ask.
fn check(name: &str, kind: &str) {
    let service = format!("osier@{name}.service");
    said("systemctl", &["start", &service]);
    assert_eq!(unit(&service, "ActiveState"), "active");
    let property =
        |key| said(&osier(), &["show", name, "--value", &format!("--property={key}")]).trim().to_owned();
    assert_eq!(property("Init"), kind);
    let leader = shown(name, "Leader");

    said(&osier(), &["reboot", name]);
    until("a restart", || unit(&service, "NRestarts") == "1" && unit(&service, "ActiveState") == "active");
    assert_ne!(shown(name, "Leader"), leader);

    said("systemctl", &["stop", &service]);
    assert_eq!(unit(&service, "Result"), "success");
    // What PID 1 killed in the end did not go down by itself.
    let journal = said("journalctl", &["--no-pager", "--unit", &service]);
    assert!(!journal.contains("SIGKILL"), "{journal}");
}

/// Each signal of its own.
pub(crate) fn busybox() {
    let (name, tree) = build("busybox");
    check(&name, "busybox");
    fs::remove_dir_all(tree).expect("the tree is this test's");
}

/// No signal, but a command that is run inside: the minimal tree's init under the name of one that wants it so.
pub(crate) fn commanded() {
    let (name, tree) = build("minimal");
    let (init, runit) = (tree.join("usr/bin/init"), tree.join("usr/bin/runit-init"));
    let script = fs::read_to_string(&init).expect("an init");
    let asked = "#!/bin/sh\n[ $$ = 1 ] || case $1 in 0) exec kill -38 1 ;; *) exec kill -39 1 ;; esac\n";
    fs::write(&runit, asked.to_owned() + &script).expect("an init");
    fs::set_permissions(&runit, fs::Permissions::from_mode(0o755)).expect("an init");
    fs::remove_file(&init).expect("the init");
    symlink("runit-init", &init).expect("a link to the init");
    check(&name, "runit");
    fs::remove_dir_all(tree).expect("the tree is this test's");
}
