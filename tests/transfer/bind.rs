//! What is bound into a machine that runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use super::support::machine::{Machine, code, osier, output};
use super::support::tree::{Scratch, debian};
use super::support::unique;
use super::{Running, fail, succeed};

#[track_caller]
fn bind(name: &str, options: &[&str], source: &Path, target: &str) {
    let mut osier = osier(["bind"]);
    osier.args(options).arg(name).arg(source).arg(target);
    succeed(&mut osier);
}

#[track_caller]
fn refused(name: &str, options: &[&str], source: &Path, target: &str) -> String {
    let mut osier = osier(["bind"]);
    osier.args(options).arg(name).arg(source).arg(target);
    fail(&mut osier)
}

/// A tmpfs of the host's, shared as file systems of a host with systemd are; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        assert!(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&path).status().unwrap().success());
        assert!(Command::new("mount").arg("--make-shared").arg(&path).status().unwrap().success());
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--recursive"]).arg(&self.0).status();
    }
}

#[test]
fn directories_and_files_are_seen_inside_until_the_end() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let name = running.name();
    scratch.file("tree/file", "from the host");
    let tree = scratch.path().join("tree");
    bind(name, &[], &tree, "/mnt");
    assert_eq!(running.machine.sh("cat /mnt/file; echo from inside >/mnt/answer"), "from the host");
    assert_eq!(fs::read(tree.join("answer")).unwrap(), b"from inside\n");
    bind(name, &["--ro", "--mkdir"], &tree, "/new/dir");
    let output = running.machine.enter(&["touch", "/new/dir/x"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Read-only file system"), "{output:?}");
    bind(name, &["--read-only", "--mkdir"], &tree.join("file"), "/new/etc/conf");
    assert_eq!(running.machine.sh("cat /new/etc/conf"), "from the host");
    // A link of the host's is followed; without a target it is the source's path.
    symlink(&tree, scratch.path().join("link")).unwrap();
    succeed(osier(["bind", "--mkdir", name, "link"]).current_dir(scratch.path()));
    assert_eq!(running.machine.sh(&format!("cat {}/link/file", scratch.path().display())), "from the host");
    bind(name, &[], Path::new("/dev/null"), "/etc/group");
    assert_eq!(running.machine.sh("cat /etc/group; echo x >/etc/group"), "");
    // The host sees the mount points, and nothing on them.
    assert_eq!(fs::read(running.inside("new/etc/conf")).unwrap(), b"");
    assert_eq!(fs::read_dir(running.inside("new/dir")).unwrap().count(), 0);
    assert_eq!(running.inside("new/etc/conf").metadata().unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(running.inside("new/etc").metadata().unwrap().permissions().mode() & 0o777, 0o755);
    running.end();
    // Nothing holds the host's side.
    fs::remove_dir_all(&tree).unwrap();
}

#[test]
fn what_the_host_mounts_arrives_and_what_the_machine_mounts_does_not() {
    let scratch = Scratch::new();
    let outer = Mounted::new(scratch.path().join("shared"));
    let below = Mounted::new(outer.0.join("below"));
    let running = Running::new(&[]);
    bind(running.name(), &["--ro"], &outer.0, "/mnt");
    let refused = running.machine.enter(&["touch", "/mnt/below/x"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Read-only file system"), "{refused:?}");
    fs::create_dir(outer.0.join("later")).unwrap();
    let later = Mounted::new(outer.0.join("later"));
    fs::write(later.0.join("file"), "mounted later").unwrap();
    assert_eq!(running.machine.sh("cat /mnt/later/file"), "mounted later");
    running.machine.sh("mount -t tmpfs tmpfs /mnt/below");
    fs::write(below.0.join("file"), "x").unwrap();
    assert_eq!(running.machine.sh("ls /mnt/below"), "");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(mounts.matches(below.0.to_str().unwrap()).count(), 1, "{mounts}");
    // A machine holds nothing that the host wants to unmount.
    drop(later);
    assert_eq!(running.machine.sh("ls /mnt/later"), "");
    running.end();
}

#[test]
fn what_cannot_be_bound() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let name = running.name();
    let file = scratch.file("file", "x");
    let said = refused(name, &[], &file, "/no/such");
    let wanted = format!(
        "osier: cannot bind '{}' in '{name}': cannot open '/no/such': no such file or directory\n\
         hint: --mkdir makes it\n",
        file.display()
    );
    assert_eq!(said, wanted);
    let said = refused(name, &[], Path::new("/no/source"), "/mnt");
    assert_eq!(said, format!("osier: cannot bind '/no/source' in '{name}': no such file or directory\n"));
    assert!(refused(name, &[], &file, "/mnt").ends_with("'/mnt' is a directory\n"));
    assert!(
        refused(name, &[], scratch.path(), "/etc/passwd").ends_with("'/etc/passwd' is not a directory\n")
    );
    assert!(refused(name, &[], scratch.path(), "/mnt/..").ends_with("it would cover the machine's root\n"));
    let said = refused(name, &["--mkdir"], scratch.path(), "/new/../etc/passwd/below");
    assert!(said.contains("not a directory"), "{said}");
    assert!(!running.inside("new").exists(), "what was made is there still");
    let said = fail(&mut osier(["bind", &format!("{name}x"), "/etc", "/mnt"]));
    assert!(said.ends_with(&format!("hint: did you mean '{name}'?\n")), "{said}");
    let relative = output(&mut osier(["bind", name, "/etc", "mnt"]));
    assert_eq!(code(relative.status), 2, "{relative:?}");
    assert!(!running.machine.sh("cat /proc/self/mountinfo").contains("file"), "something was mounted");
    running.end();

    let read_only = Running::new(&["--read-only"]);
    let said = refused(read_only.name(), &["--mkdir"], scratch.path(), "/new");
    assert!(said.ends_with("cannot open '/new': read-only file system\n"), "{said}");
    bind(read_only.name(), &[], scratch.path(), "/mnt");
    assert_eq!(read_only.machine.sh("cat /mnt/file"), "x");
    read_only.machine.signal(Signal::SIGTERM);
    assert_eq!(read_only.machine.end().0, 0);
}

#[test]
fn links_of_the_machine_lead_to_places_inside() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    fs::create_dir(scratch.path().join("outside")).unwrap();
    scratch.file("tree/file", "x");
    let (outside, tree) = (scratch.path().join("outside"), scratch.path().join("tree"));
    symlink(&outside, running.inside("absolute")).unwrap();
    symlink("../".repeat(30) + "mnt", running.inside("relative")).unwrap();
    let name = running.name();
    refused(name, &["--mkdir"], &tree, "/absolute/below");
    refused(name, &["--mkdir"], &tree, "/proc/1/root/planted");
    assert!(!Path::new("/planted").exists() && !running.inside("planted").exists());
    bind(name, &["--mkdir"], &tree, "/relative/below");
    assert_eq!(running.machine.sh("cat /mnt/below/file"), "x");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(scratch.path().to_str().unwrap()), "{mounts}");
    running.end();
}

/// systemd gives services mount namespaces of their own, which take what is mounted from PID 1's.
#[test]
fn services_of_a_booted_debian_see_it_too() {
    let (name, scratch) = (unique("bind"), Scratch::new());
    scratch.file("tree/file", "for services");
    let mut boot = osier(["boot", "--ephemeral", "--network=none", "--register=no"]);
    boot.arg(format!("--machine={name}")).arg(debian());
    let machine = Machine::spawn(boot, &name, &debian());
    machine.await_output("login: ");
    let service = "systemd-run --quiet --unit=seer --property=PrivateTmp=yes sleep infinity";
    machine.sh(&format!("PATH=/usr/bin:/bin {service}"));
    bind(&name, &["--mkdir"], &scratch.path().join("tree"), "/srv/bound");
    let seen = "cat /proc/$(systemctl show --value --property=MainPID seer)/root/srv/bound/file";
    assert_eq!(machine.sh(seen), "for services");
    succeed(&mut osier(["terminate", &name]));
    assert_eq!(machine.end().0, 137);
}
