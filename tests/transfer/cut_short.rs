//! Copies that do not come to their end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::machine::{code, osier, output, wait};
use super::support::tree::Scratch;
use super::{Running, hidden, succeed, support};

#[test]
fn a_full_disk_leaves_nothing() {
    let (running, scratch) =
        (Running::new(&["--tmpfs=/small:size=1M", "--tmpfs=/tmp:size=100M"]), Scratch::new());
    scratch.file("tree/a", vec![1; 300 << 10]);
    scratch.file("tree/sub/b", vec![2; 2 << 20]);
    let tree = scratch.path().join("tree");
    let listing = "find /small | sort";
    for (options, target) in [(&[][..], "/small/x/y"), (&["--force"], "/small")] {
        let said = running.refused_to(options, &tree, target);
        let wanted = format!(
            "osier: cannot copy '{}/sub/b' to '{}': no space left on device\n",
            tree.display(),
            running.name()
        );
        assert_eq!(said, wanted);
        if options.is_empty() {
            assert_eq!(running.machine.sh(listing), "/small");
        } else {
            assert!(!running.machine.sh(listing).contains("/small/sub"), "of a merge what is whole stays");
            assert!(!running.machine.sh("ls -a /small").contains("osier"));
        }
    }

    // The host's side, in a mount namespace of its own.
    running.copy_to(&[], &tree, "/tmp/tree");
    let script = "mount -t tmpfs -o size=1M tmpfs \"$2\"; \"$1\" copy-from \"$3\" /tmp/tree \"$2/x/y\"; echo $?; ls -A \"$2\"";
    let small = scratch.path().join("small");
    fs::create_dir(&small).unwrap();
    let mut unshare = std::process::Command::new("unshare");
    unshare
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(support::program())
        .arg(&small)
        .arg(running.name());
    let output = output(&mut unshare);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
    let wanted =
        format!("osier: cannot copy '/tmp/tree/sub/b' from '{}': no space left on device\n", running.name());
    assert_eq!(String::from_utf8_lossy(&output.stderr), wanted);
    running.end();
}

/// A copy of many files, stopped when some of them are there.
struct Halfway {
    child: Child,
    pid: Pid,
}

impl Halfway {
    fn new(running: &Running, tree: &Path, target: &str) -> Self {
        let mut osier = osier(["copy-to", running.name()]);
        osier.arg(tree).arg(target).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = osier.spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let above = running.inside(target).parent().unwrap().to_owned();
        let begun = |top: &PathBuf| fs::read_dir(top).is_ok_and(|entries| entries.count() > 3);
        let began = std::time::Instant::now();
        while !hidden(&above).iter().any(begun) {
            assert!(began.elapsed() < support::PATIENCE, "the copy does not begin");
        }
        kill(pid, Signal::SIGSTOP).unwrap();
        Self { child, pid }
    }

    fn go_on(mut self) -> String {
        kill(self.pid, Signal::SIGCONT).unwrap();
        let status = wait(&mut self.child, &|| "a copy".to_owned());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut said).unwrap();
        assert_eq!(code(status), 1, "{said}");
        said
    }
}

fn many(scratch: &Scratch) -> PathBuf {
    for number in 0..3000 {
        scratch.file(&format!("many/{number}"), vec![7; 20_000]);
    }
    scratch.path().join("many")
}

#[test]
fn a_copy_that_is_cut_short_leaves_nothing() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let tree = many(&scratch);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let halfway = Halfway::new(&running, &tree, "/srv/new/many");
        kill(halfway.pid, signal).unwrap();
        let said = halfway.go_on();
        assert!(said.ends_with(&format!(" to '{}': interrupted\n", running.name())), "{said}");
        assert!(!running.inside("srv").exists(), "{signal}");
    }
    let halfway = Halfway::new(&running, &tree, "/srv/new/many");
    fs::remove_dir_all(&tree).unwrap();
    let said = halfway.go_on();
    assert!(said.contains("/many/") && said.ends_with(": no such file or directory\n"), "{said}");
    assert!(!running.inside("srv").exists());
    running.end();
}

#[test]
fn a_machine_that_ends_ends_the_copy() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let halfway = Halfway::new(&running, &many(&scratch), "/srv/new/many");
    succeed(&mut osier(["terminate", running.name()]));
    let said = halfway.go_on();
    assert!(said.ends_with(&format!("machine '{}' has ended\n", running.name())), "{said}");
    assert!(!running.inside("srv").exists());
    assert_eq!(running.machine.end().0, 137);
}
