//! Machines in the background, without systemd: `start`, the log of their console, `logs`. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use osier::console::log;

use support::machine::{await_death, code, enter, osier, output, show};
use support::tree::{Scratch, Tree, debian};
use support::{await_some, await_that, leftovers, unique};

/// A name in the search path; what was started under it is ended, its log removed.
struct Named {
    name: String,
    tree: PathBuf,
}

impl Named {
    fn new(tree: &Path) -> Self {
        let name = unique("named");
        fs::create_dir_all("/var/lib/machines").unwrap();
        symlink(tree, Path::new("/var/lib/machines").join(&name)).unwrap();
        Self { name, tree: tree.to_owned() }
    }

    fn log(&self) -> PathBuf {
        log::path(&self.name)
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log()).unwrap_or_default()).into_owned()
    }

    fn pid(&self, key: &str) -> u32 {
        let record = await_some("the record", || show(&self.name));
        u32::try_from(record[key].as_u64().unwrap()).unwrap()
    }

    fn start(&self, options: &[&str]) -> Output {
        output(osier(["start"]).args(options).arg(&self.name))
    }

    #[track_caller]
    fn end(&self) {
        let ended = output(&mut osier(["poweroff", &self.name]));
        assert!(ended.status.success(), "{ended:?} {}", self.console());
        leftovers::assert_none(&self.name, &self.tree);
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = output(&mut osier(["terminate", &self.name]));
        let _ = fs::remove_file(Path::new("/var/lib/machines").join(&self.name));
        let _ = fs::remove_file(self.log());
        let _ = fs::remove_file(log::old(&self.log()));
    }
}

#[track_caller]
fn assert_refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(code(output.status), 1, "{text}");
    for word in words {
        assert!(text.contains(word), "no '{word}' in {text}");
    }
}

#[test]
fn a_started_machine_goes_on_without_its_starter_and_its_console_is_kept() {
    let tree = Tree::minimal();
    let named = Named::new(&tree.path());
    let started = named.start(&[]);
    assert!(
        started.status.success() && started.stdout.is_empty() && started.stderr.is_empty(),
        "{started:?}"
    );
    await_that("its console", || named.console().contains("osier-minimal: ready"));
    let supervisor = named.pid("supervisor");
    for fd in [0, 1] {
        let at = fs::read_link(format!("/proc/{supervisor}/fd/{fd}")).unwrap();
        assert_eq!(at, Path::new("/dev/null"));
    }
    let stat = fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    assert_eq!(fields[3], supervisor.to_string(), "a session of its own: {stat}");
    assert_eq!(fs::read_link(format!("/proc/{supervisor}/cwd")).unwrap(), Path::new("/"));
    assert_eq!(fs::metadata(named.log()).unwrap().permissions().mode() & 0o777, 0o640);

    assert_refused(&named.start(&[]), &["it runs already", "hint: `osier attach"]);
    // More than the log may hold.
    let leader = named.pid("leader");
    let script = "yes 0123456789abcdef | head -c 3000000 > /dev/console; echo last''line > /dev/console";
    assert!(enter(leader, &["sh", "-c", script]).status.success());
    await_that("the last line", || named.console().contains("lastline"));
    let (new, before) =
        (fs::metadata(named.log()).unwrap().len(), fs::metadata(log::old(&named.log())).unwrap());
    assert!(new <= log::LONGEST && before.len() == log::LONGEST, "{new} {}", before.len());
    assert!(!named.log().with_extension("log.2").exists());
    named.end();
    assert!(named.console().contains("osier-minimal: poweroff"), "{}", named.console());
}

#[test]
fn several_are_started_at_once_and_what_fails_is_said_word_for_word() {
    let (one, other) = (Tree::minimal(), Tree::minimal());
    let (first, second) = (Named::new(&one.path()), Named::new(&other.path()));
    // The tree is in use: one of two that fails keeps the other from nothing.
    let third = Named::new(&one.path());
    let started = output(&mut osier(["start", &first.name, &second.name]));
    assert!(started.status.success(), "{started:?}");
    let refused = third.start(&[]);
    let boot = output(osier(["boot", "--console=passive"]).arg(&third.name));
    assert_refused(&refused, &["cannot start", "another machine runs from it", "hint: --ephemeral"]);
    let reason = |output: &Output| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        text.split_once("': ").unwrap().1.to_owned()
    };
    assert_eq!(reason(&refused), reason(&boot));
    leftovers::assert_none(&third.name, Path::new("/nonexistent"));
    // Killed, its supervisor leaves a name that can be started again.
    let (supervisor, leader) = (first.pid("supervisor"), first.pid("leader"));
    let pid = nix::unistd::Pid::from_raw(supervisor.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    await_death(leader);
    let again = first.start(&["--wait"]);
    assert!(again.status.success(), "{again:?}");
    first.end();
    second.end();
}

#[test]
fn a_step_that_fails_late_comes_back_to_who_started() {
    let tree = Tree::minimal();
    tree.executable("sbin/init", "#!/not/there\n");
    let named = Named::new(&tree.path());
    assert_refused(&named.start(&[]), &[&format!("cannot start '{}': cannot execute", named.name)]);
    leftovers::assert_none(&named.name, &named.tree);
    let missing = output(&mut osier(["start", "t-no-such-image"]));
    assert_refused(&missing, &["no image 't-no-such-image'", "hint: "]);
    let path = output(osier(["start"]).arg(tree.path()));
    assert_eq!(code(path.status), 2);
    assert!(String::from_utf8_lossy(&path.stderr).contains("it is a path"), "{path:?}");
}

/// A layer over the Debian tree, which all share and nobody writes to.
struct Layered(Scratch);

impl Layered {
    fn new() -> Self {
        let scratch = Scratch::new();
        for directory in ["upper", "work", "tree"] {
            fs::create_dir(scratch.path().join(directory)).unwrap();
        }
        let at = scratch.path().display();
        let options = format!("lowerdir={},upperdir={at}/upper,workdir={at}/work", debian().display());
        let mounted = output(
            Command::new("mount")
                .args(["-t", "overlay", "overlay", "-o", &options])
                .arg(scratch.path().join("tree")),
        );
        assert!(mounted.status.success(), "{mounted:?}");
        Self(scratch)
    }

    fn tree(&self) -> PathBuf {
        self.0.path().join("tree")
    }
}

impl Drop for Layered {
    fn drop(&mut self) {
        let _ = output(Command::new("umount").arg(self.tree()));
    }
}

#[test]
fn wait_is_until_the_init_is_ready() {
    let layered = Layered::new();
    let named = Named::new(&layered.tree());
    let late = named.start(&["--wait", "--timeout=1ms"]);
    assert_refused(&late, &[&format!("'{}' is not ready", named.name), "it goes on starting"]);
    assert_eq!(show(&named.name).unwrap()["state"], "starting");
    await_that("its readiness", || show(&named.name).unwrap()["state"] == "running");
    assert!(output(&mut osier(["poweroff", &named.name])).status.success());
    let started = named.start(&["--wait"]);
    assert!(started.status.success(), "{started:?}");
    assert_eq!(show(&named.name).unwrap()["state"], "running");
    let reached = enter(named.pid("leader"), &["systemctl", "is-active", "multi-user.target"]);
    assert_eq!(String::from_utf8_lossy(&reached.stdout), "active\n");
    assert!(output(&mut osier(["poweroff", &named.name])).status.success());
    assert!(!leftovers::cgroup(&named.name).exists());
}

#[test]
fn what_only_systemd_can_do_is_refused_with_what_to_do_instead() {
    if Path::new("/run/systemd/system").exists() {
        return;
    }
    let tree = Tree::minimal();
    let named = Named::new(&tree.path());
    for verb in ["enable", "disable"] {
        let refused = output(&mut osier([verb, &named.name]));
        assert_refused(&refused, &["systemd is not this host's PID 1", "hint: ", "osier start"]);
    }
}
