//! `osier image build` on real trees: what it makes, and what it leaves when it cannot. The programs that make Debian trees
//! are stood in for by scripts where the test is about how they end; images/try runs the real one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A directory for one test: `to` for what is built, `bin` for stand-ins.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("osier-image-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("to")).unwrap();
        fs::create_dir(path.join("bin")).unwrap();
        Self(path)
    }

    fn to(&self, name: &str) -> PathBuf {
        self.0.join("to").join(name)
    }

    /// Everything where trees are built, hidden or not.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("to")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn stand_in(&self, name: &str, script: &str) {
        let path = self.0.join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A search path with the stand-ins first.
    fn search(&self) -> String {
        format!("{}:{}", self.0.join("bin").display(), std::env::var("PATH").unwrap())
    }

    fn build(&self, recipe: &str, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_osier"));
        command.args(["image", "build", recipe, "--to"]).arg(self.to(name)).env("PATH", self.search());
        command
    }

    fn recipe(&self, text: &str) -> String {
        let path = self.0.join("recipe.toml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", said(output));
    said(output)
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen within 20 s");
        sleep(Duration::from_millis(20));
    }
}

/// The tree's init as PID 1 of a pid namespace; killed with this process and when dropped.
struct Machine(Child);

impl Machine {
    fn start(tree: &Path) -> Self {
        let script = "mount --bind /dev $0/dev && exec chroot $0 /sbin/init";
        // A shell does not trap what was ignored when it began, as ^C is in what a script has put into the background.
        let child = Command::new("env")
            .args([
                "--default-signal=INT",
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
                "-c",
                script,
            ])
            .arg(tree)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut machine = Self(child);
        let mut line = String::new();
        BufReader::new(machine.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "osier-minimal: ready\n");
        machine
    }

    fn leader(&self) -> i32 {
        let pid = self.0.id();
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_minimal_trees_init_answers_signals_and_reaps() {
    let place = Place::new("minimal");
    let built = place.build("minimal", "m").output().unwrap();
    assert!(built.status.success(), "{}", said(&built));
    assert!(String::from_utf8_lossy(&built.stdout).contains("built 'minimal' in "), "{built:?}");
    assert_eq!(place.left(), ["m"]);

    // unshare(1) ends by the signal that its child ended by: SIGINT for power off and halt, SIGHUP for reboot.
    let minimum = libc::SIGRTMIN();
    for (signal, ends) in [
        (minimum + 3, libc::SIGINT),
        (minimum + 4, libc::SIGINT),
        (minimum + 5, libc::SIGHUP),
        (libc::SIGINT, libc::SIGHUP),
        (libc::SIGTERM, libc::SIGINT),
    ] {
        let mut machine = Machine::start(&place.to("m"));
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(machine.leader().to_string()).status();
        assert!(sent.unwrap().success());
        let mut ended = None;
        wait_until("the end of init", || {
            ended = machine.0.try_wait().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.unwrap().signal(), Some(ends), "after signal {signal}");
    }

    let machine = Machine::start(&place.to("m"));
    let leader = machine.leader();
    let orphans = "for i in 1 2 3; do (sleep 0.1; exit 3) & done";
    let entered = Command::new("nsenter")
        .args(["-t", &leader.to_string(), "-p", "-r", "/bin/sh", "-c", orphans])
        .status();
    assert!(entered.unwrap().success());
    let children = || fs::read_to_string(format!("/proc/{leader}/task/{leader}/children")).unwrap();
    assert_eq!(children().split(' ').filter(|pid| !pid.is_empty()).count(), 4, "three orphans came");
    wait_until("the reaping", || children().split(' ').filter(|pid| !pid.is_empty()).count() == 1);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let place = Place::new("full");
    let to = place.0.join("to");
    let script = "mount -t tmpfs -o size=1m tmpfs $0 || exit 99
                  \"$1\" image build minimal --to $0/m; code=$?; ls -A $0; exit $code";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .args([to.as_os_str(), env!("CARGO_BIN_EXE_osier").as_ref()])
        .output()
        .unwrap();
    assert!(refused(&output).contains("no space left on device"), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

/// Fills the tree as long as it lives, from a session of its own as well, with something mounted in it.
const ENDLESS: &str = "
for tree; do :; done
mkdir $tree/proc $tree/a && mount -t proc proc $tree/proc && mount -t tmpfs tmpfs $tree/a
setsid sh -c 'while :; do echo x >> '$tree'/b; echo x >> '${0%/*}'/alive; sleep 0.01; done' &
echo 'I: filling it...'
sleep 1000
";

/// A recipe for the stand-ins: names a mirror, so that the host's apt is not asked.
const RECIPE: &str = "
name = 'fake'
description = ''
hostname = 'box'
root-login = 'no-password'
[debian]
suite = 'trixie'
packages = ['systemd', 'dbus']
mirror = 'http://mirror.invalid/debian'
";

fn heartbeat(place: &Place) -> u64 {
    fs::metadata(place.0.join("bin/alive")).map_or(0, |found| found.len())
}

#[test]
fn a_signal_in_the_middle_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let place = Place::new(signal.as_str());
        place.stand_in("mmdebstrap", ENDLESS);
        let recipe = place.recipe(RECIPE);
        let mut child = place.build(&recipe, "x").stderr(Stdio::piped()).spawn().unwrap();
        wait_until("the filling", || heartbeat(&place) > 0);
        assert!(place.left()[0].starts_with(".#x.osier-"));
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert!(text.contains("osier: cannot build 'fake': interrupted"), "{text}");
        assert_eq!(place.left(), Vec::<String>::new());
        let beats = heartbeat(&place);
        sleep(Duration::from_millis(100));
        assert_eq!(heartbeat(&place), beats, "something of the build still runs");
    }
}

#[test]
fn what_a_killed_build_left_goes_with_the_next() {
    let place = Place::new("killed");
    place.stand_in("mmdebstrap", ENDLESS);
    let recipe = place.recipe(RECIPE);
    let mut child = place.build(&recipe, "x").stderr(Stdio::null()).spawn().unwrap();
    wait_until("the filling", || heartbeat(&place) > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut beats = heartbeat(&place);
    wait_until("the end of the tools", || {
        sleep(Duration::from_millis(100));
        std::mem::replace(&mut beats, heartbeat(&place)) == heartbeat(&place)
    });
    assert_eq!(place.left().len(), 1);
    let built = place.build("minimal", "x").output().unwrap();
    assert!(built.status.success(), "{}", said(&built));
    assert_eq!(place.left(), ["x"]);
}

#[test]
fn a_tool_that_fails_is_quoted_and_leaves_nothing() {
    let place = Place::new("fails");
    place.stand_in("mmdebstrap", "echo 'E: no such mirror' >&2; exit 7\n");
    let output = place.build(&place.recipe(RECIPE), "x").output().unwrap();
    let text = refused(&output);
    assert!(
        text.contains("mmdebstrap failed with exit status 7") && text.contains("E: no such mirror"),
        "{text}"
    );
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let place = Place::new("missing");
    let without = |recipe: &str| {
        let output = place.build(recipe, "x").env("PATH", place.0.join("bin")).output().unwrap();
        assert_eq!(place.left(), Vec::<String>::new());
        refused(&output)
    };
    assert!(without("debian").contains("package mmdebstrap"));
    assert!(without("minimal").contains("package busybox-static"));
    place.stand_in("mmdebstrap", "");
    assert!(without("debian").contains("package util-linux"));
    // There, and linked against libraries that the tree has not.
    symlink("/bin/ls", place.0.join("bin/busybox")).unwrap();
    let chroot = ["/usr/sbin/chroot", "/usr/bin/chroot"].iter().find(|path| Path::new(path).exists());
    symlink(chroot.unwrap(), place.0.join("bin/chroot")).unwrap();
    assert!(without("minimal").contains("package busybox-static"));
}

#[test]
fn what_is_there_already_stays_as_it_is() {
    let place = Place::new("exists");
    fs::create_dir(place.to("x")).unwrap();
    symlink("nowhere", place.to("y")).unwrap();
    for name in ["x", "y"] {
        let text = refused(&place.build("minimal", name).output().unwrap());
        assert!(text.contains("exists already"), "{text}");
    }
    assert_eq!(place.left(), ["x", "y"]);
    assert_eq!(fs::read_dir(place.to("x")).unwrap().count(), 0);
    let text = refused(&place.build("minimal", "none/z").output().unwrap());
    assert!(text.contains("there is no directory"), "{text}");
}

#[test]
fn a_recipe_is_applied_to_what_the_tool_made() {
    let made = "
for tree; do case $tree in /*) break; esac; done
mkdir $tree/etc && echo 'root:*:1::::::' > $tree/etc/shadow && echo builder > $tree/etc/hostname
echo \"$@\" > $tree/etc/asked
mkdir -p $tree/var/cache/apt/archives/partial && echo x > $tree/var/cache/apt/archives/x.deb
";
    let more = "[units]\nmask = ['systemd-udevd.service']\n\
                [[file]]\npath = '/etc/a/b'\nmode = 0o600\ntext = 'c'\n[[file]]\npath = '/etc/l'\nlink = 'a/b'\n";
    for tool in ["mmdebstrap", "debootstrap"] {
        let place = Place::new(tool);
        place.stand_in(tool, made);
        for needed in ["setpriv", "unshare", "mkdir"] {
            symlink(format!("/usr/bin/{needed}"), place.0.join("bin").join(needed)).unwrap();
        }
        let recipe = place.recipe(&format!("{RECIPE}{more}"));
        let built = place.build(&recipe, "x").env("PATH", place.0.join("bin")).output().unwrap();
        assert!(built.status.success(), "{}", said(&built));
        let read = |path: &str| fs::read_to_string(place.to("x").join(path)).unwrap();
        assert_eq!(read("etc/hostname"), "box\n");
        assert_eq!(read("etc/machine-id"), "");
        assert_eq!(read("etc/shadow"), "root::1::::::\n");
        assert_eq!(read("etc/l"), "c");
        let mode = fs::metadata(place.to("x/etc/a/b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let masked = fs::read_link(place.to("x/etc/systemd/system/systemd-udevd.service")).unwrap();
        assert_eq!(masked, Path::new("/dev/null"));
        let asked = read("etc/asked");
        assert!(asked.contains("--variant=minbase --components=main --include=systemd,dbus"), "{asked}");
        assert!(asked.ends_with("http://mirror.invalid/debian\n"), "{asked}");
        let archives = fs::read_dir(place.to("x/var/cache/apt/archives")).unwrap();
        assert_eq!(archives.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["partial"]);
        assert_eq!(place.left(), ["x"]);
    }
}
