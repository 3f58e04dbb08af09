//! Machines in the background, without systemd: `start`, the log of their console, `logs`. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use osier::console::log;

use support::machine::{Machine, Written, await_death, code, enter, osier, output, show, wait};
use support::terminal::Terminal;
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
    let script = "exec 9< /etc/hostname; exec \"$@\"";
    let program = osier(["start"]).get_program().to_owned();
    let started =
        output(Command::new("sh").args(["-c", script, "sh"]).arg(program).args(["start", &named.name]));
    assert!(
        started.status.success() && started.stdout.is_empty() && started.stderr.is_empty(),
        "{started:?}"
    );
    await_that("its console", || named.console().contains("osier-minimal: ready"));
    let supervisor = named.pid("supervisor");
    let fds = fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().flatten();
    let of_ours =
        |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to == Path::new("/etc/hostname"));
    assert_eq!(fds.filter(of_ours).count(), 0, "it holds what its starter had open");
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
    let hint = format!("hint: there is an image of that name; `osier start {}` boots it", named.name);
    let gone = format!("no machine '{}' is running", named.name);
    assert_refused(&output(&mut osier(["status", &named.name])), &[&gone, &hint]);
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
fn logs_shows_what_the_console_has_shown_and_goes_on_until_the_end() {
    let tree = Tree::minimal();
    let named = Named::new(&tree.path());
    assert!(named.start(&[]).status.success());
    // The init's shell writes its prompt when it likes.
    await_that("its console", || named.console().contains("/root # "));
    let leader = named.pid("leader");
    let say = |script: &str| assert!(enter(leader, &["sh", "-c", script]).status.success(), "{script}");
    say("for n in 1 2 3 4 5; do echo number-$n > /dev/console; done");
    await_that("the last line", || named.console().contains("number-5\r\n"));
    let last = output(&mut osier(["logs", &named.name, "-n", "2"]));
    assert_eq!(String::from_utf8_lossy(&last.stdout), "number-4\r\nnumber-5\r\n");
    let all = output(&mut osier(["logs", &named.name, "--console"]));
    assert_eq!(String::from_utf8_lossy(&all.stdout), named.console());

    // On a terminal it is text; elsewhere it is what was written.
    let terminal = Terminal::new();
    let mut follow = osier(["logs", "--follow", "-n", "1"]);
    follow.arg(&named.name);
    let mut on_terminal = terminal.spawn(&follow);
    let mut followed = follow.stdout(Stdio::piped()).spawn().unwrap();
    let piped = Written::of(followed.stdout.take().unwrap());
    terminal.await_text("number-5");
    await_that("what is followed", || piped.so_far().contains("number-5"));
    say(r"printf '\033[31mevil\033[m\033]0;title\007\n' > /dev/console");
    terminal.await_text("evil");
    // More than a log holds, through its turn.
    say("seq 100000 | sed s/^/long-line-/ > /dev/console; echo e''nd > /dev/console");
    await_that("every line", || piped.so_far().contains("long-line-100000\r\nend"));
    let lines = piped.so_far().matches("long-line-").count();
    assert_eq!(lines, 100_000);
    named.end();
    assert_eq!(code(wait(&mut followed, &String::new)), 0);
    assert_eq!(code(wait(&mut on_terminal, &|| terminal.screen())), 0);
    let screen = terminal.screen();
    assert!(!screen.contains('\x1b') && !screen.contains("title") && screen.contains("poweroff"));
    assert!(piped.so_far().contains("\x1b[31mevil"));
    // It has ended: what is left to read is read, and nothing followed.
    let after = output(&mut osier(["logs", "--follow", &named.name]));
    assert!(
        after.status.success() && String::from_utf8_lossy(&after.stdout).contains("poweroff"),
        "{after:?}"
    );
}

#[test]
fn logs_shows_the_journal_of_the_machines_own_systemd() {
    let layered = Layered::new();
    fs::create_dir_all(layered.tree().join("var/log/journal")).unwrap();
    let named = Named::new(&layered.tree());
    let started = named.start(&["--wait"]);
    assert!(started.status.success(), "{started:?}");
    let mut followed = osier(["logs", "--follow", &named.name]).stdout(Stdio::piped()).spawn().unwrap();
    let piped = Written::of(followed.stdout.take().unwrap());
    assert!(enter(named.pid("leader"), &["logger", "said by one''inside"]).status.success());
    await_that("what was logged", || piped.so_far().contains("said by one''inside"));
    let journal = output(&mut osier(["logs", &named.name, "-n", "1000"]));
    let text = String::from_utf8_lossy(&journal.stdout);
    assert!(journal.status.success() && text.contains("said by one''inside"), "{journal:?}");
    let console = output(&mut osier(["logs", "--console", &named.name]));
    assert!(!String::from_utf8_lossy(&console.stdout).contains("said by one''inside"), "{console:?}");
    assert!(output(&mut osier(["poweroff", &named.name])).status.success());
    assert_eq!(code(wait(&mut followed, &String::new)), 0);
    // Afterwards the host's reads it.
    let kept = output(&mut osier(["logs", &named.name]));
    if Command::new("journalctl").arg("--version").output().is_ok() {
        let text = String::from_utf8_lossy(&kept.stdout);
        assert!(kept.status.success() && text.contains("said by one''inside"), "{kept:?}");
    } else {
        assert_refused(&kept, &["this host has no journalctl", "hint: "]);
    }
}

#[test]
fn logs_of_what_has_none_says_so() {
    assert_refused(&output(&mut osier(["logs", "t-no-such-machine"])), &["no machine", "hint: "]);
    let tree = Tree::minimal();
    let named = Named::new(&tree.path());
    assert_refused(&output(&mut osier(["logs", &named.name])), &["there is no log of"]);
    let machine = Machine::minimal(&tree, &[]);
    assert_refused(&output(&mut osier(["logs", tree.name()])), &["kept nowhere", "hint: `osier attach"]);
    machine.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
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
