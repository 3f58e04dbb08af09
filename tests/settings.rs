//! Settings files: found by the machine's name, trusted by where they are, below the command line. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::machine::{code, osier, output, run, stdout_of_run};
use support::tree::Tree;

/// A trusted file of a machine's, in /run.
struct Trusted(PathBuf);

impl Trusted {
    fn new(name: &str, text: &str) -> Self {
        let directory = Path::new("/run/systemd/nspawn");
        fs::create_dir_all(directory).unwrap();
        let path = directory.join(format!("{name}.nspawn"));
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for Trusted {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Puts a file beside the tree.
fn beside(tree: &Tree, text: &str) -> PathBuf {
    let path = tree.outside().join(format!("{}.nspawn", tree.name()));
    fs::write(&path, text).unwrap();
    path
}

const SCRIPT: [&str; 3] =
    ["sh", "-c", "echo $COLOUR $(hostname) $(pwd) $(ls /mnt | wc -l) $(stat -c %a /boot)"];

const TEXT: &str = "[Exec]\nEnvironment=COLOUR=green\nHostname=willow\nWorkingDirectory=/tmp\n\
    [Files]\nBindReadOnly=/proc/self/fdinfo:/mnt\nInaccessible=/boot\n[Exec]\nTimezone=copy\n";

fn tree() -> Tree {
    let tree = Tree::minimal();
    fs::create_dir(tree.path().join("boot")).unwrap();
    tree
}

#[test]
fn a_file_in_run_holds_where_the_command_line_is_silent() {
    let tree = tree();
    let file = Trusted::new(tree.name(), &TEXT.replace("/proc/self/fdinfo", "/etc"));
    // What came with the image is not looked at then.
    beside(&tree, "[Exec]\nHostname=aspen\n");
    let output = run(&tree, &[], &SCRIPT);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let words: Vec<_> = stdout.split_whitespace().collect();
    assert_eq!(
        (words[0], words[1], words[2], words[4]),
        ("green", "willow", "/tmp", "0"),
        "{stdout}{stderr}"
    );
    assert_ne!(words[3], "0");
    let warned = format!("osier: {}:9: Timezone is something that osier cannot do yet", file.0.display());
    assert!(stderr.contains(&warned), "{stderr}");

    let quiet = run(&tree, &["--quiet", "--hostname=oak", "--setenv=A=1"], &SCRIPT);
    assert!(quiet.stderr.is_empty(), "{quiet:?}");
    assert!(String::from_utf8_lossy(&quiet.stdout).starts_with("oak /tmp"), "{quiet:?}");
    let over = stdout_of_run(&tree, &["--settings=override", "--hostname=oak"], &SCRIPT);
    assert!(over.starts_with("green willow /tmp"), "{over}");
    let without = stdout_of_run(&tree, &["--settings=no"], &SCRIPT);
    assert!(without.starts_with(tree.name()), "{without}");
    // By the machine's name, not the tree's.
    let named = format!("--machine=x-{}", tree.name());
    let other = stdout_of_run(&tree, &[&named], &SCRIPT);
    assert!(other.starts_with(&format!("x-{}", tree.name())), "{other}");
}

#[test]
fn a_file_beside_the_image_gets_nothing_of_the_host() {
    let tree = tree();
    let file = beside(&tree, &TEXT.replace("/proc/self/fdinfo", "/etc"));
    let output = run(&tree, &[], &SCRIPT);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let words: Vec<_> = stdout.split_whitespace().collect();
    assert_eq!((words[0], words[1], words[3]), ("green", "willow", "0"), "{stdout}{stderr}");
    let warned = format!("{}:6: BindReadOnly is left out: the file came with the image", file.display());
    assert!(stderr.contains(&warned), "{stderr}");
    let trusted = stdout_of_run(&tree, &["--settings=trusted"], &SCRIPT);
    assert!(trusted.trim().ends_with(" 0") && !trusted.contains(" 0 0"), "{trusted}");
}

#[test]
fn a_file_that_is_wrong_is_refused_with_its_line() {
    let tree = Tree::minimal();
    for (text, reason) in [
        ("[Exec]\nUser\n", ":2: 'User' is neither [SECTION] nor KEY=VALUE"),
        ("\n[X-Osier]\nUptime=soon\n", ":3: Uptime: a number was expected at 'soon'"),
        ("[X-Osier]\nMemoryMax=1\n", ":2: MemoryMax: '1' is out of range: 4K to"),
        (
            "[X-Osier]\nIOReadBandwidthMax=/dev/osier-none 1M\n",
            ":2: IOReadBandwidthMax: '/dev/osier-none': no such",
        ),
        ("[Files]\nBind=relative\n", ":2: Bind: the source is not an absolute path"),
        ("[Exec]\nNoNewPrivileges=yes\n", ":2: NoNewPrivileges: osier cannot do this yet"),
        ("[Exec]\nEnvironment=PATH\n", ":2: Environment: not an assignment, NAME=VALUE"),
        ("[Exec]\nKillSignal=SIGFOO\n", ":2: KillSignal: "),
        ("[Files]\nReadOnly=perhaps\n", ":2: ReadOnly: 'perhaps' is neither yes nor no"),
    ] {
        let file = Trusted::new(tree.name(), text);
        let output = run(&tree, &[], &["true"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(code(output.status), 2, "{text}: {stderr}");
        assert!(stderr.contains(&format!("{}{reason}", file.0.display())), "{text}: {stderr}");
    }
    let file = Trusted::new(tree.name(), "");
    fs::write(&file.0, b"[Exec]\nUser=\xff\n").unwrap();
    let output = run(&tree, &[], &["true"]);
    assert_eq!(code(output.status), 2, "{output:?}");
    drop(file);
    // A directory of the name is no file that could be read.
    let directory = beside(&tree, "");
    fs::remove_file(&directory).unwrap();
    fs::create_dir(&directory).unwrap();
    let output = run(&tree, &[], &["true"]);
    assert_eq!(code(output.status), 125, "{output:?}");
}

#[test]
fn limits_in_a_file_are_the_machine_s() {
    let tree = Tree::minimal();
    let _file = Trusted::new(
        tree.name(),
        "[X-Osier]\nTasksMax=infinity\nMemoryMax=1G\nMemoryMax=\nTasksMax=\nUptime=3d\n",
    );
    let uptime = stdout_of_run(&tree, &[], &["cat", "/proc/uptime"]);
    assert!(uptime.starts_with("259200."), "{uptime}");
    let plan = output(osier(["run", "--dry-run"]).arg(tree.path()).args(["--", "true"]));
    assert!(!String::from_utf8_lossy(&plan.stdout).contains("\nlimit"), "{plan:?}");
}
