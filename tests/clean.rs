//! What is left of runs that were killed, that no verb takes it for a machine, and `osier check --clean`. Needs root.
//!
//! Each test has a /run and a cgroup tree of its own: what it cleans are never other tests' leftovers.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use support::machine::{Machine, await_death, output};
use support::tree::Tree;
use support::{await_some, await_that, leftovers, program, unique};

/// Where a test's machines run.
struct Host {
    holder: Child,
    cgroup: PathBuf,
}

impl Host {
    fn new() -> Self {
        Self::with_run("16m")
    }

    /// With so much room in /run.
    fn with_run(size: &str) -> Self {
        let cgroup = leftovers::cgroup2().join(unique("clean"));
        fs::create_dir(&cgroup).unwrap();
        // In a cgroup namespace whose root is that directory, a new mount of cgroup2 shows nothing else.
        let script = "echo 0 > \"$1/cgroup.procs\" && exec unshare --mount --propagation=private --cgroup sh -c '
            mount -t tmpfs -o mode=755,size=$1 tmpfs /run &&
            mkdir -p /var/lib/osier /var/lib/machines &&
            mount -t tmpfs tmpfs /var/lib/osier && mount -t tmpfs tmpfs /var/lib/machines && umount -l \"$2\" && mount -t cgroup2 cgroup2 \"$2\" && touch /run/there && exec sleep infinity
            ' sh \"$2\" \"$3\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&cgroup).arg(size).arg(leftovers::cgroup2());
        let holder = command.stdin(Stdio::null()).spawn().unwrap();
        let host = Self { holder, cgroup };
        await_that("the host", || host.path("/run/there").exists());
        host
    }

    /// A path of its.
    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.id()))
    }

    /// A command on it.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount", "--cgroup", "--"]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    fn osier(&self, arguments: &[&str]) -> Output {
        output(self.command(&program()).args(arguments))
    }

    fn boot(&self, tree: &Tree, options: &[&str]) -> Machine {
        let machine = self.start(tree, options);
        machine.await_output("osier-minimal: ready");
        machine
    }

    fn start(&self, tree: &Tree, options: &[&str]) -> Machine {
        let mut command = self.command(&program());
        command.arg("boot").args(options).arg(tree.path());
        Machine::spawn(command, tree.name(), &tree.path())
    }

    fn record(&self, name: &str) -> Option<Value> {
        let output = self.osier(&["show", name, "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    fn leader(&self, name: &str) -> u32 {
        let record = await_some("the record", || self.record(name));
        u32::try_from(record["leader"].as_u64().unwrap()).unwrap()
    }

    /// What `check --clean` removes, as `WHAT OBJECT`.
    fn clean(&self) -> Vec<String> {
        let output = self.osier(&["check", "--clean", "--json"]);
        assert!(output.status.success(), "{output:?}");
        let array: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let line =
            |one: &Value| format!("{} {}", one["what"].as_str().unwrap(), one["object"].as_str().unwrap());
        let mut lines: Vec<_> = array.iter().map(line).collect();
        lines.sort();
        lines
    }

    fn entries(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().display().to_string()).collect()
    }

    /// Everything that machines could have left on it, but for links.
    fn left(&self) -> Vec<String> {
        let directories =
            ["/run/osier/machines", "/run/systemd/nspawn/propagate", "/run/systemd/nspawn/locks"];
        let mut left: Vec<_> = directories.iter().flat_map(|path| self.entries(path)).collect();
        let groups = fs::read_dir(&self.cgroup).unwrap().flatten().filter(|entry| entry.path().is_dir());
        left.extend(groups.map(|entry| entry.path().display().to_string()));
        left
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = Command::new("find").arg(&self.cgroup).args(["-depth", "-type", "d", "-delete"]).output();
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// The machine's directory as its path is on the host.
fn scope(name: &str) -> String {
    leftovers::cgroup2().join(format!("machine.slice/machine-{name}.scope")).display().to_string()
}

/// Kills the supervisor, and waits until its machine is gone.
fn behead(machine: Machine, leader: u32) {
    machine.signal(Signal::SIGKILL);
    assert_eq!(machine.end_leaving().0, 137);
    await_death(leader);
}

#[test]
fn a_machine_without_supervisor_is_none_for_any_verb_and_is_cleaned_up() {
    let host = Host::new();
    let (dead, living) = (Tree::minimal(), Tree::minimal());
    let machine = host.boot(&dead, &[]);
    let bystander = host.boot(&living, &["--network=none"]);
    let leader = host.leader(dead.name());
    // The link stays as long as somebody is in the machine's network.
    let mut command = Command::new("nsenter");
    let mut inside =
        command.args(["--target", &leader.to_string(), "--net", "sleep", "600"]).spawn().unwrap();
    await_that("the process inside", || {
        let of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        of(inside.id()) == of(leader)
    });
    behead(machine, leader);

    let name = dead.name();
    let mut lines: Vec<Vec<&str>> =
        ["show", "status", "poweroff", "reboot", "terminate", "kill", "freeze", "thaw", "wait", "shell"]
            .map(|verb| vec![verb, name])
            .to_vec();
    lines.push(vec!["set", name, "pids.max=100"]);
    lines.push(vec!["copy-to", name, "/etc/hostname", "/tmp"]);
    lines.push(vec!["copy-from", name, "/etc/hostname", "/nowhere"]);
    lines.push(vec!["bind", name, "/tmp"]);
    for line in lines {
        let start = Instant::now();
        let output = host.osier(&line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with(&format!("osier: no machine '{name}' is running\n")), "{line:?}: {said}");
        let expected = if line[0] == "shell" { 125 } else { 1 };
        assert_eq!(output.status.code(), Some(expected), "{line:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{line:?}");
    }
    let list = host.osier(&["list", "--no-legend"]);
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(!list.contains(name) && list.contains(living.name()), "{list}");

    let stat = std::os::unix::fs::MetadataExt::ino(&dead.path().metadata().unwrap());
    let dev = std::os::unix::fs::MetadataExt::dev(&dead.path().metadata().unwrap());
    let link = leftovers::link(name);
    assert!(link.exists());
    let mut expected = vec![
        format!("cgroup {}", scope(name)),
        format!("directory /run/systemd/nspawn/propagate/{name}"),
        format!("link {}", link.file_name().unwrap().display()),
        format!("lock /run/systemd/nspawn/locks/inode-{dev}:{stat}"),
        format!("lock {}", dead.path().with_file_name(format!(".#{name}.lck")).display()),
        format!("record /run/osier/machines/{name}.json"),
        format!("socket /run/osier/console/{name}"),
    ];
    expected.sort();
    assert_eq!(host.clean(), expected);
    assert!(!link.exists());
    inside.kill().unwrap();
    inside.wait().unwrap();
    assert_eq!(host.clean(), Vec::<String>::new());
    let nothing = host.osier(&["check", "--clean"]);
    assert_eq!(String::from_utf8(nothing.stdout).unwrap(), "Nothing was left.\n");

    assert!(host.record(living.name()).is_some());
    assert!(host.osier(&["poweroff", living.name()]).status.success());
    assert_eq!(bystander.end_leaving().0, 0);
    assert_eq!(host.left(), Vec::<String>::new());
}

#[test]
fn what_osier_did_not_make_stays() {
    let host = Host::new();
    let tree = Tree::minimal();
    let machine = host.boot(&tree, &[]);
    let leader = host.leader(tree.name());
    behead(machine, leader);
    let link = leftovers::link(tree.name());
    await_that("the link's end", || !link.exists());
    // Others' of the same name, or of the same sort.
    let name = link.file_name().unwrap().to_str().unwrap();
    assert!(output(Command::new("ip").args(["link", "add", name, "type", "veth"])).status.success());
    let slice = host.cgroup.join("machine.slice");
    fs::create_dir_all(slice.join("machine-foreign.scope/payload")).unwrap();
    fs::write(host.path("/run/systemd/nspawn/locks/inode-1:1"), "").unwrap();
    fs::create_dir(host.path("/run/systemd/nspawn/propagate/foreign")).unwrap();
    fs::write(host.path("/run/osier/machines/notes.txt"), "").unwrap();
    // osier's own halves.
    fs::write(host.path("/run/osier/machines/early.json"), "").unwrap();
    fs::write(host.path("/run/osier/machines/.late.json.new"), "{").unwrap();

    let cleaned = host.clean();
    assert!(cleaned.contains(&"record /run/osier/machines/early.json".to_owned()), "{cleaned:?}");
    assert!(cleaned.contains(&format!("cgroup {}", scope(tree.name()))), "{cleaned:?}");
    assert!(!cleaned.iter().any(|line| line.starts_with("link") || line.contains("foreign")), "{cleaned:?}");
    assert!(link.exists());
    assert!(output(Command::new("ip").args(["link", "del", name])).status.success());
    assert!(slice.join("machine-foreign.scope/payload").exists());
    assert_eq!(host.entries("/run/systemd/nspawn/locks"), ["inode-1:1"]);
    assert_eq!(host.entries("/run/systemd/nspawn/propagate"), ["foreign"]);
    assert_eq!(host.entries("/run/osier/machines"), ["notes.txt"]);
}

/// Whenever it is killed: what it has made by then can be found.
#[test]
fn a_launch_that_is_killed_leaves_nothing_that_is_not_cleaned_up() {
    let host = Host::new();
    let tree = Tree::minimal();
    for step in 0..30 {
        let machine = host.start(&tree, &[]);
        std::thread::sleep(Duration::from_millis(2 * step));
        machine.signal(Signal::SIGKILL);
        machine.end_leaving();
        // Its leader goes with it, and a moment later its cgroup is empty.
        await_that("the end of what it started", || {
            let events = fs::read_to_string(host.cgroup.join("machine.slice/cgroup.events"));
            !events.unwrap_or_default().contains("populated 1")
        });
        host.clean();
        assert_eq!(host.left(), Vec::<String>::new(), "after {} ms", 2 * step);
        assert!(
            !tree.path().with_file_name(format!(".#{}.lck", tree.name())).exists(),
            "after {} ms",
            2 * step
        );
    }
    let link = leftovers::link(tree.name());
    await_that("the link's end", || !link.exists());
}

/// What others left half made goes, and what somebody is making stays.
#[test]
fn what_was_half_made_is_cleaned_up() {
    let host = Host::new();
    let halves = [
        ("/var/lib/machines/.#web.osier-7-0", "web"),
        ("/var/lib/osier/prewarmed/.#db.osier-7-1", "db"),
        ("/var/lib/osier/checkpoints/.osier-checkpoint-7", ""),
        ("/run/osier/restore/.osier-checkpoint-7", ""),
    ];
    let others = [
        "/var/lib/machines/.#web",
        "/var/lib/machines/.web.osier-7-0",
        "/var/lib/machines/web.osier-7-0",
        "/var/lib/osier/checkpoints/web",
    ];
    for path in halves.iter().map(|(path, _)| *path).chain(others) {
        fs::create_dir_all(host.path(path).join("checkpoint/images")).unwrap();
        fs::write(host.path(path).join("checkpoint/images/file"), "").unwrap();
    }
    let locks: Vec<_> = halves
        .iter()
        .map(|(path, _)| {
            let lock = fs::File::open(host.path(path)).unwrap();
            lock.lock().unwrap();
            lock
        })
        .collect();
    assert_eq!(host.clean(), Vec::<String>::new());
    drop(locks);
    let output = host.osier(&["check", "--clean", "--json"]);
    let cleaned: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    for (path, machine) in halves {
        let is_it =
            |one: &&Value| one["object"] == path && one["what"] == "directory" && one["machine"] == machine;
        assert!(cleaned.iter().any(|one| is_it(&one)), "{path}: {cleaned:?}");
        assert!(!host.path(path).exists());
    }
    assert_eq!(cleaned.len(), halves.len());
    for path in others {
        assert!(host.path(path).join("checkpoint/images/file").exists(), "{path}");
    }
}

#[test]
fn another_user_may_not_clean_up() {
    let program = std::env::temp_dir().join(unique("osier"));
    fs::copy(support::program(), &program).unwrap();
    let mut command = Command::new(&program);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    let refused = output(command.args(["check", "--clean"]).stdin(Stdio::null()));
    fs::remove_file(&program).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(said, "osier: cannot clean up: only root may\nhint: run it as root, with sudo for instance\n");
}

#[test]
fn a_full_run_hides_no_machine_and_makes_none() {
    let host = Host::with_run("256k");
    let (tree, next) = (Tree::minimal(), Tree::minimal());
    let machine = host.boot(&tree, &["--network=none"]);
    let full = host.path("/run/full");
    // Refused for want of room, and that is the point.
    fs::write(&full, vec![0; 1 << 20]).unwrap_err();

    let refused = host.start(&next, &["--network=none"]);
    let (code, _, said) = refused.end_leaving();
    assert_eq!(code, 125);
    assert!(said.contains("no space left on device"), "{said}");
    let list = String::from_utf8(host.osier(&["list", "--no-legend"]).stdout).unwrap();
    assert!(list.contains(tree.name()) && !list.contains(next.name()), "{list}");
    assert_eq!(host.clean(), Vec::<String>::new(), "the refused one left something");

    // It goes on: reboots, and is told of as it is.
    let leader = host.leader(tree.name());
    let rebooted = host.osier(&["reboot", tree.name()]);
    assert!(rebooted.status.success(), "{rebooted:?}");
    machine.await_outputs("osier-minimal: ready", 2);
    assert_ne!(host.leader(tree.name()), leader);
    for verb in ["freeze", "thaw", "status"] {
        assert!(host.osier(&[verb, tree.name()]).status.success(), "{verb}");
    }
    let leader = host.leader(tree.name());
    behead(machine, leader);
    assert_eq!(host.record(tree.name()), None);
    assert!(host.clean().contains(&format!("record /run/osier/machines/{}.json", tree.name())));
    fs::remove_file(&full).unwrap();
    assert_eq!(host.left(), Vec::<String>::new());
}

#[test]
fn a_verb_that_is_killed_leaves_a_machine_that_can_be_steered() {
    let host = Host::new();
    let tree = Tree::minimal();
    let machine = host.boot(&tree, &["--network=none"]);
    for round in 0..20 {
        for verb in [&["freeze"][..], &["kill", "--signal=WINCH"], &["thaw"]] {
            let mut child = host.command(&program()).args(verb).arg(tree.name()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(round / 2));
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    assert!(host.osier(&["freeze", tree.name()]).status.success());
    let mut child =
        host.command(&program()).args(["poweroff", "--timeout=60s", tree.name()]).spawn().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(host.osier(&["terminate", tree.name()]).status.success());
    machine.end_leaving();
    assert_eq!(host.left(), Vec::<String>::new());
}

/// A service manager starts it again in the same cgroup; what the killed one left there must not be taken for osier's whole.
#[test]
fn the_next_one_in_a_kept_unit_does_not_end_itself() {
    let host = Host::new();
    let tree = Tree::minimal();
    let unit = host.cgroup.join("unit");
    fs::create_dir(&unit).unwrap();
    let boot = || {
        let mut command = host.command(Path::new("sh"));
        let script = "echo 0 > \"$1/unit/cgroup.procs\" && shift && exec \"$@\"";
        command.args(["-c", script, "sh"]).arg(leftovers::cgroup2()).arg(program());
        command.args(["boot", "--keep-unit", "--network=none"]).arg(tree.path());
        let machine = Machine::spawn(command, tree.name(), &tree.path());
        machine.await_output("osier-minimal: ready");
        machine
    };
    let machine = boot();
    let leader = host.leader(tree.name());
    behead(machine, leader);
    let machine = boot();
    assert!(host.osier(&["poweroff", tree.name()]).status.success());
    assert_eq!(machine.end_leaving().0, 0);
    let machine = boot();
    let leader = host.leader(tree.name());
    behead(machine, leader);
    assert!(host.clean().contains(&format!("cgroup {}", leftovers::cgroup2().join("unit").display())));
    assert!(unit.join("supervisor").exists() && !unit.join("payload").exists());
}
