//! Where a copy goes, and what is refused.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::sys::signal::Signal;

use super::support::machine::{code, osier, output, wait};
use super::support::terminal::Terminal;
use super::support::tree::Scratch;
use super::{Running, fail, succeed};

#[test]
fn the_end_of_the_target_says_where_the_copy_goes() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let file = scratch.file("file", "1");
    scratch.file("tree/a/b", "2");
    let tree = scratch.path().join("tree");
    running.copy_to(&[], &file, "/etc/");
    running.copy_to(&[], &file, "/var/new/");
    running.copy_to(&[], &tree, "/var/new/");
    running.copy_to(&[], &tree.join("."), "/var/named/");
    running.copy_to(&["--force"], &tree, "/.");
    for path in ["etc/file", "var/new/file", "var/new/tree/a/b", "var/named/a/b", "a/b"] {
        assert!(running.inside(path).is_file(), "{path}");
    }
    // Without a target it is the source's path, as with machinectl.
    succeed(osier(["copy-to", running.name(), "file"]).current_dir(scratch.path()));
    running.machine.sh(&format!("test -f {}", file.display()));
    succeed(osier(["copy-from", running.name(), "/var/named", "."]).current_dir(scratch.path()).arg("-f"));
    assert!(scratch.path().join("a/b").is_file());
    let relative = output(&mut osier(["copy-from", running.name(), "etc/file", "/nowhere"]));
    assert_eq!(code(relative.status), 2, "{relative:?}");
    running.end();
}

#[test]
fn nothing_is_overwritten_unless_it_is_forced() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let file = scratch.file("file", "new");
    scratch.file("tree/etc/passwd", "new");
    scratch.file("tree/etc/new/deep", "new");
    let tree = scratch.path().join("tree/etc");
    let before = fs::read(running.inside("etc/passwd")).unwrap();
    let mode = running.inside("etc").metadata().unwrap().mode();

    let said = running.refused_to(&[], &file, "/etc/passwd");
    let wanted = format!(
        "osier: cannot copy '{}' to '{}': '/etc/passwd' exists already\nhint: --force",
        file.display(),
        running.name()
    );
    assert!(said.starts_with(&wanted), "{said}");
    let said = running.refused_to(&[], &tree, "/etc");
    assert!(said.contains("'/etc' exists already\nhint: --force"), "{said}");
    for options in [&[][..], &["--force"]] {
        let said = running.refused_to(options, &file, "/etc");
        assert!(said.ends_with("'/etc' is a directory\nhint: to copy into it, write '/etc/'\n"), "{said}");
        let said = running.refused_to(options, &file, "/etc/passwd/below");
        assert!(said.ends_with("cannot open '/etc/passwd/': not a directory\n"), "{said}");
    }
    assert_eq!(fs::read(running.inside("etc/passwd")).unwrap(), before);

    let old = running.inside("etc/passwd").metadata().unwrap().ino();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o700)).unwrap();
    running.copy_to(&["--force"], &tree, "/etc");
    let replaced = running.inside("etc/passwd");
    assert_eq!(fs::read(&replaced).unwrap(), b"new");
    assert_ne!(replaced.metadata().unwrap().ino(), old, "written over, not replaced");
    assert!(running.inside("etc/new/deep").is_file() && running.inside("etc/group").is_file());
    assert_eq!(
        running.inside("etc").metadata().unwrap().mode(),
        mode,
        "a directory that is there stays as it is"
    );

    // What is a directory on one side alone is refused, whichever it is.
    scratch.file("clash/etc", "a file");
    let said = running.refused_to(&["--force"], &scratch.path().join("clash"), "/.");
    assert!(said.contains("/clash/etc'") && said.contains("'/./etc' is a directory"), "{said}");
    let said = running.refused_to(&["--force"], &tree, "/etc/passwd");
    assert!(said.ends_with("'/etc/passwd' is not a directory\n"), "{said}");
    // A link is replaced itself, one that leads to a directory is not.
    symlink("group", running.inside("etc/link")).unwrap();
    symlink("usr", running.inside("lib")).unwrap();
    running.copy_to(&["--force"], &file, "/etc/link");
    assert_eq!(fs::read(running.inside("etc/link")).unwrap(), b"new");
    assert!(fs::read(running.inside("etc/group")).unwrap().starts_with(b"root:"));
    let said = running.refused_to(&["--force"], &file, "/lib");
    assert!(said.contains("'/lib' is a directory"), "{said}");
    running.end();
}

#[test]
fn device_nodes_are_copied_when_it_is_said() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let said = running.refused_from(&[], "/dev/null", &scratch.path().join("null"));
    assert!(
        said.contains("'/dev/null' from '") && said.contains(": it is a device node\nhint: --devices"),
        "{said}"
    );
    let made = scratch.path().join("made");
    running.copy_from(&["--devices"], "/dev/null", &made);
    let stat = made.metadata().unwrap();
    assert!(stat.file_type().is_char_device());
    assert_eq!(stat.rdev(), Path::new("/dev/null").metadata().unwrap().rdev());
    fs::create_dir(scratch.path().join("tree")).unwrap();
    fs::rename(&made, scratch.path().join("tree/node")).unwrap();
    let said = running.refused_to(&[], &scratch.path().join("tree"), "/srv");
    assert!(said.contains("/tree/node' to '"), "the node is named: {said}");
    assert!(!running.inside("srv").exists());
    running.end();
}

#[test]
fn a_machine_that_cannot_be_written_to_says_so() {
    let (running, scratch) = (Running::new(&["--read-only"]), Scratch::new());
    let file = scratch.file("file", "x");
    let said = running.refused_to(&[], &file, "/etc/file");
    assert!(said.ends_with(&format!("to '{}': read-only file system\n", running.name())), "{said}");
    running.copy_from(&[], "/etc/passwd", &scratch.path().join("passwd"));
    running.machine.signal(Signal::SIGTERM);
    assert_eq!(running.machine.end().0, 0);
}

#[test]
fn what_is_not_there() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let slip = running.name().to_owned() + "x";
    let said = fail(&mut osier(["copy-to", slip.as_str(), "/etc/passwd", "/x"]));
    assert!(said.ends_with(&format!("hint: did you mean '{}'?\n", running.name())), "{said}");
    let said = running.refused_to(&[], Path::new("/no/such"), "/x");
    assert_eq!(
        said,
        format!("osier: cannot copy '/no/such' to '{}': no such file or directory\n", running.name())
    );
    let said = running.refused_from(&[], "/no/\x1b[2Jsuch", &scratch.path().join("x"));
    assert!(said.starts_with("osier: cannot copy '/no/\u{fffd}[2Jsuch' from"), "{said:?}");
    // A directory that the copy would be in.
    let said = running.refused_to(&[], running.tree.outside(), "/srv/copy");
    assert!(said.ends_with(": it would be copied into itself\n"), "{said}");
    assert!(!running.inside("srv").exists());
    running.end();
}

#[test]
fn a_terminal_is_shown_how_far_it_is() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let file = scratch.file("file", vec![1; 40 << 20]);
    let terminal = Terminal::new();
    let copy = |options: &[&str], target: &str| {
        let mut osier = osier(["copy-to"]);
        osier.args(options).arg(running.name()).arg(&file).arg(target);
        let mut child = terminal.spawn(&osier);
        assert!(wait(&mut child, &|| terminal.screen()).success(), "{}", terminal.screen());
    };
    copy(&["--quiet"], "/root/one");
    assert_eq!(terminal.screen(), "");
    copy(&[], "/root/two");
    terminal.await_text(" of 40.00 MiB");
    running.end();
}

#[test]
fn another_user_is_refused() {
    use std::os::unix::process::CommandExt;
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    // Not where the program was built, which others may not reach.
    let program = scratch.path().join("osier");
    fs::copy(super::support::program(), &program).unwrap();
    for (verb, action) in [("copy-to", "copy to"), ("copy-from", "copy from"), ("bind", "bind in")] {
        let mut nobody = std::process::Command::new(&program);
        nobody.args([verb, running.name(), "/etc/passwd", "/tmp/osier-nobody"]).uid(65534).gid(65534);
        let wanted =
            format!("osier: cannot {action} '{}': only root or its owner may\nhint: ", running.name());
        let said = fail(&mut nobody);
        assert!(said.starts_with(&wanted), "{said}");
    }
    assert!(!Path::new("/tmp/osier-nobody").exists());
    running.end();
}
