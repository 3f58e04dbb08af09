//! Machines with users of their own: what their IDs are outside, whose their files are, and what they cannot do. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use support::machine::{Machine, code, osier, output, run, stdout_of_run};
use support::tree::{self, Layered, Tree};
use support::{await_that, leftovers};

const LOCKS: &str = "/run/systemd/nspawn-uid";

fn sh(tree: &Tree, options: &[&str], script: &str) -> String {
    stdout_of_run(tree, options, &["/bin/sh", "-c", script]).trim_end().to_owned()
}

fn refusal(tree: &Tree, options: &[&str]) -> String {
    let output = run(tree, options, &["true"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(matches!(code(output.status), 2 | 125), "{said}");
    said
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The lock of the range that begins with `first`.
fn lock(first: &str) -> PathBuf {
    Path::new(LOCKS).join(first)
}

/// The range that a machine has, by its first process's map: the host's first.
fn first_of(machine: &Machine) -> String {
    let map = fs::read_to_string(format!("/proc/{}/uid_map", machine.leader())).unwrap();
    let mut map = map.split_whitespace();
    assert_eq!(map.next(), Some("0"));
    let first = map.next().unwrap().to_owned();
    assert_eq!(map.next(), Some("65536"));
    first
}

#[test]
fn files_are_the_machine_s_inside_and_the_tree_s_outside() {
    let tree = Tree::minimal();
    tree.file("root/mine", "");
    for options in [&["-U"][..], &["--private-users=700000"][..]] {
        let options: Vec<_> = options.iter().copied().chain(["--private-users-ownership=map"]).collect();
        let script = "stat -c %u:%g /root/mine / /run /tmp /dev /dev/shm /dev/null /dev/net/tun /proc/1 /run/host; \
            touch /root/new; mkdir /root/dir; chown 1000:2000 /root/dir; stat -c %u:%g /root/new /root/dir; cat /proc/self/uid_map";
        let said = sh(&tree, &options, script);
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines[..10], ["0:0"; 10], "{options:?}: {said}");
        assert_eq!(lines[10..12], ["0:0", "1000:2000"], "{said}");
        assert!(words(lines[12]).ends_with(" 65536"), "{said}");
        let owner = |path: &str| {
            let found = fs::metadata(tree.path().join(path)).unwrap();
            (found.uid(), found.gid())
        };
        assert_eq!((owner("root/new"), owner("root/dir")), ((0, 0), (1000, 2000)));
        fs::remove_file(tree.path().join("root/new")).unwrap();
        fs::remove_dir(tree.path().join("root/dir")).unwrap();
    }
}

#[test]
fn what_is_not_the_machine_s_is_nobody_s_and_out_of_reach() {
    let tree = Tree::minimal();
    let host = support::tree::Scratch::new();
    let secret = host.file("secret", "host");
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let bind = format!("--bind={}:/mnt", host.path().display());
    let attempts = [
        "cat /mnt/secret",
        "touch /mnt/new",
        "chown 0 /mnt/secret",
        "mknod /dev/sda b 8 0",
        "mount -o remount,rw,bind /proc/sys && echo core > /proc/sys/kernel/core_pattern",
        "umount /run/host",
        "umount /dev",
        "umount /tmp",
        "umount /sys",
        "mount -o remount,rw,bind /run/host",
        "touch /run/host/new",
    ];
    let tried: Vec<_> =
        attempts.iter().map(|attempt| format!("({attempt}) 2>/dev/null || echo refused")).collect();
    let said = sh(&tree, &["-U", &bind], &format!("stat -c %u /mnt/secret; {}", tried.join("; ")));
    assert_eq!(said.lines().next(), Some("65534"), "{said}");
    assert_eq!(said.lines().filter(|line| *line == "refused").count(), attempts.len(), "{said}");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "host");
    assert!(!host.path().join("new").exists());
    // Without users of its own its root is the host's.
    let script = "cat /mnt/secret; touch /mnt/new";
    assert_eq!(sh(&tree, &["--private-users=no", &bind], script), "host");
    assert!(host.path().join("new").exists());
}

#[test]
fn a_read_only_tree_stays_so() {
    let tree = Tree::minimal();
    let script = "mount -o remount,rw,bind / || echo refused; touch /new || echo read-only";
    assert_eq!(sh(&tree, &["-U", "--read-only"], script), "refused\nread-only");
    assert!(!tree.path().join("new").exists());
}

#[test]
fn a_throw_away_layer_is_the_machine_s() {
    let tree = Tree::minimal();
    let before = tree.fingerprint();
    let script = "stat -c %u /; touch /new; rm /bin/sh; mkdir /opt; stat -c %u /new /opt; ls /opt";
    assert_eq!(sh(&tree, &["-U", "--ephemeral"], script), "0\n0\n0");
    assert_eq!(tree.fingerprint(), before);
}

#[test]
fn a_tree_that_belongs_to_a_range_is_taken_as_it_is() {
    let tree = Tree::minimal();
    let first = 700_000 / 65_536 * 65_536;
    let mut chown_all = Command::new("chown");
    assert!(chown_all.args(["-R", &format!("{first}:{first}")]).arg(tree.path()).status().unwrap().success());
    for option in ["--private-users=yes", "--private-users", "-U"] {
        let said = sh(&tree, &[option], "stat -c %u / /bin/busybox; cat /proc/self/uid_map; touch /new");
        assert_eq!(words(&said), format!("0 0 0 {first} 65536"), "{option}");
        assert_eq!(fs::metadata(tree.path().join("new")).unwrap().uid(), first);
    }
    chown(tree.path(), Some(1000), None).unwrap();
    let said = refusal(&tree, &["--private-users=yes"]);
    assert!(said.contains("the tree belongs to 1000, which begins no range of 65536"), "{said}");
}

#[test]
fn two_machines_have_no_id_in_common_and_a_name_keeps_its_own() {
    let (one, two) = (Tree::minimal(), Tree::minimal());
    let machine = Machine::minimal(&one, &["-U"]);
    let first = first_of(&machine);
    assert!(lock(&first).exists());
    // Planned, nothing is held; the tree's own range comes before that of the name.
    fs::create_dir_all(LOCKS).unwrap();
    let machine_option = format!("--machine={}", one.name());
    let planned =
        output(osier(["run", "-U", "--dry-run", &machine_option]).arg(two.path()).args(["--", "true"]));
    let planned = String::from_utf8(planned.stdout).unwrap();
    let line = planned.lines().find(|line| line.starts_with("id map")).unwrap();
    assert!(line.contains("the tree's files are mapped alike") && !line.contains(&first), "{line}");
    chown(two.path(), Some(first.parse().unwrap()), None).unwrap();
    let other = Machine::minimal(&two, &["-U"]);
    let second = first_of(&other);
    assert_ne!(first, second);
    assert!(lock(&second).exists());
    for machine in [machine, other] {
        machine.signal(Signal::SIGTERM);
        assert_eq!(machine.end().0, 0);
    }
    assert!(!lock(&first).exists() && !lock(&second).exists());
    let machine = Machine::minimal(&one, &["-U"]);
    assert_eq!(first_of(&machine), first);
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

#[test]
fn what_is_no_range_is_refused() {
    let tree = Tree::minimal();
    for (options, words) in [
        (&["--private-users=maybe"][..], "not one of yes, no, pick, identity, UID, UID:NUMBER"),
        (&["--private-users=5:x"], "not one of"),
        (&["--private-users=5:0"], "a range of no IDs"),
        (&["--private-users=4294967000:1000"], "beyond 4294967294"),
        (&["--private-users=65535:1"], "65535 stands for no ID"),
        (&["--private-users-ownership=map"], "--private-users=pick gives it its own"),
    ] {
        let said = refusal(&tree, options);
        assert!(said.contains(words), "{options:?}: {said}");
    }
    assert!(leftovers::of(tree.name(), &tree.path()).is_empty());
}

/// An overlay cannot be mapped.
#[test]
fn where_mounts_cannot_be_mapped_the_tree_is_changed() {
    let lower = Tree::minimal();
    let tree = Layered::over(&lower.path());
    let run = |options: &[&str], script: &str| {
        let mut command = osier(["run", "--network=none", &format!("--machine={}", tree.name)]);
        output(command.args(options).arg(tree.path()).args(["--", "sh", "-c", script]))
    };
    for (options, words) in [
        (&["-U", "--private-users-ownership=map"][..], "its file system has no ID-mapped mounts"),
        (&["-U", "--ephemeral"], "what --ephemeral leaves as it is would have to be changed"),
    ] {
        let refused = run(options, "true");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(words), "{said}");
        assert_eq!(fs::metadata(tree.path()).unwrap().uid(), 0);
    }
    let said = run(&["-U"], "stat -c %u / /bin/busybox; cat /proc/self/uid_map; touch /new");
    assert!(said.status.success(), "{said:?}");
    let said = words(&String::from_utf8(said.stdout).unwrap());
    let first = said.split(' ').nth(3).unwrap().to_owned();
    assert_eq!(said, format!("0 0 0 {first} 65536"));
    for path in ["", "bin/busybox", "new", "etc"] {
        assert_eq!(fs::symlink_metadata(tree.path().join(path)).unwrap().uid().to_string(), first, "{path}");
    }
    // It is theirs: without a word about it the next time.
    let planned = run(&["-U", "--dry-run"], "true");
    let planned = String::from_utf8(planned.stdout).unwrap();
    assert!(
        planned.contains(&format!("0 is the host's {first}, 65536 IDs; the tree's files are theirs")),
        "{planned}"
    );
    assert_eq!(
        words(&String::from_utf8(run(&["-U"], "cat /proc/self/uid_map").stdout).unwrap()),
        format!("0 {first} 65536")
    );
}

#[test]
fn what_is_bound_belongs_to_whom_it_is_said() {
    let tree = Tree::minimal();
    fs::create_dir(tree.path().join("home")).unwrap();
    chown(tree.path().join("home"), Some(1234), Some(1235)).unwrap();
    let host = support::tree::Scratch::new();
    for (name, owner) in [("root", 0), ("user", 4000)] {
        chown(host.file(name, ""), Some(owner), Some(owner)).unwrap();
    }
    chown(host.path(), Some(4000), Some(4000)).unwrap();
    for (option, owners) in [
        ("noidmap", "65534:65534 65534:65534"),
        ("idmap", "0:0 4000:4000"),
        ("rootidmap", "65534:65534 0:0"),
        ("owneridmap", "65534:65534 1234:1235"),
    ] {
        let bind = format!("--bind={}:/home:{option}", host.path().display());
        let said = sh(&tree, &["-U", &bind], "stat -c %u:%g /home/root /home/user");
        assert_eq!(words(&said), owners, "{option}");
        let bind = format!("--bind={}:/new:{option}", host.path().display());
        let said = sh(&tree, &["-U", &bind], "stat -c %u:%g /new/root /new/user");
        assert_eq!(words(&said), owners.replace("1234:1235", "0:0"), "{option}");
    }
    let said = refusal(&tree, &[&format!("--bind={}:/home:idmap", host.path().display())]);
    assert!(said.contains("the machine has the host's users"), "{said}");
}

/// Numbers stay what they are, on either side.
#[test]
fn what_is_copied_keeps_its_owner_s_number() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &["-U"]);
    let first: u32 = first_of(&machine).parse().unwrap();
    let host = support::tree::Scratch::new();
    let file = host.file("file", "content");
    chown(&file, Some(1000), Some(2000)).unwrap();
    let copy = |arguments: &[&str]| {
        let copied = output(&mut osier(arguments));
        assert!(copied.status.success(), "{arguments:?}: {copied:?}");
    };
    copy(&["copy-to", tree.name(), file.to_str().unwrap(), "/new/directory/"]);
    let there = tree.path().join("new/directory/file");
    let owner = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.uid(), found.gid())
    };
    // The tree is mapped: what is written in it has the machine's own numbers.
    assert_eq!((owner(&there), owner(there.parent().unwrap())), ((1000, 2000), (0, 0)));
    copy(&["copy-to", tree.name(), "--uid=7", "--gid=8", file.to_str().unwrap(), "/run/other"]);
    let inside = PathBuf::from(format!("/proc/{}/root/run/other", machine.leader()));
    assert_eq!(owner(&inside), (first + 7, first + 8));
    let back = host.path().join("back");
    copy(&["copy-from", tree.name(), "/run/other", back.to_str().unwrap()]);
    assert_eq!(owner(&back), (7, 8));
    assert_eq!(fs::read_to_string(&back).unwrap(), "content");
    let bound =
        output(&mut osier(["bind", "--mkdir", tree.name(), host.path().to_str().unwrap(), "/mnt/host"]));
    assert!(bound.status.success(), "{bound:?}");
    assert!(fs::metadata(format!("/proc/{}/root/mnt/host/back", machine.leader())).is_ok());
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

/// As root of a user namespace that may have no others in it.
#[test]
fn where_no_more_may_be_made_it_is_said_what_forbids_it() {
    let tree = Tree::minimal();
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec {} run -U {} -- true",
        support::program().display(),
        tree.path().display()
    );
    let mut forbidden = Command::new("unshare");
    let said = output(forbidden.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]));
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("cannot make a user namespace: user.max_user_namespaces is reached"), "{said}");
    assert!(said.contains("\nhint: sysctl user.max_user_namespaces"), "{said}");
}

/// A whole system: its services, its cgroups, a shell, its shutdown.
#[test]
fn debian_boots_with_users_of_its_own() {
    let name = format!("osier-t-{}", support::unique("users"));
    let mut boot = osier(["boot", "-U", "--ephemeral", "--console=read-only", &format!("--machine={name}")]);
    boot.arg(tree::debian());
    let machine = Machine::spawn(boot, &name, &tree::debian());
    let first: u32 = first_of(&machine).parse().unwrap();
    let shell = |script: &str| {
        let said = output(&mut osier(["shell", &name, "--", "sh", "-c", script]));
        assert!(said.status.success(), "{script}: {said:?}");
        String::from_utf8(said.stdout).unwrap().trim_end().to_owned()
    };
    let state = "systemctl is-system-running --wait 2>/dev/null || true";
    await_that("it to run", || shell(state) == "running");
    assert_eq!(shell("id -u; stat -c %u / /etc/shadow /var/log/journal"), "0\n0\n0\n0");
    // Its cgroups are its own, and so are its services' users.
    assert_eq!(shell("systemd-run --quiet --wait --pipe --uid=nobody id -u"), "65534");
    let leader = fs::metadata(format!("/proc/{}", machine.leader())).unwrap();
    assert_eq!(leader.uid(), first);
    let payload = Path::new(machine.show()["cgroup"].as_str().unwrap()).join("payload");
    assert_eq!(fs::metadata(&payload).unwrap().uid(), first);
    assert_eq!(fs::metadata(payload.parent().unwrap()).unwrap().uid(), 0);
    // A terminal of the machine's.
    let mut typed = Command::new("script");
    typed.args([
        "-qec",
        &format!("{} shell {} -- sh -c 'tty; stat -c %u:%g $(tty)'", support::program().display(), name),
        "/dev/null",
    ]);
    let typed = output(&mut typed);
    assert!(String::from_utf8_lossy(&typed.stdout).contains("/dev/pts/"), "{typed:?}");
    assert!(String::from_utf8_lossy(&typed.stdout).contains("0:5"), "{typed:?}");
    let off = output(&mut osier(["poweroff", &name]));
    assert!(off.status.success(), "{off:?}");
    assert_eq!(machine.end().0, 0);
    await_that("the range to be free", || !lock(&first.to_string()).exists());
}
