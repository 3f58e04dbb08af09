//! `osier shell` and `osier login`: who one is in a machine, where, with what, and how it ends. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::await_that;
use support::machine::{Machine, code, enter, osier, output, show, wait};
use support::terminal::Terminal;
use support::tree::{Tree, debian};

/// The output of `osier shell ARGUMENTS`.
fn shell(arguments: &[&str]) -> Output {
    output(osier(["shell"]).args(arguments))
}

/// What it wrote; it has to succeed.
fn said(arguments: &[&str]) -> String {
    let output = shell(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Its exit code, and what it wrote to standard error.
fn refused(arguments: &[&str]) -> (i32, String) {
    let output = shell(arguments);
    (code(output.status), String::from_utf8(output.stderr).unwrap())
}

/// A program that runs on, killed when dropped.
struct Running(Child);

impl Running {
    fn shell(arguments: &[&str], stdin: Stdio) -> Self {
        let mut command = osier(["shell"]);
        command.args(arguments).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }

    fn end(mut self) -> i32 {
        code(wait(&mut self.0, &|| "osier shell".to_owned()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The cgroup of a machine's payload.
fn payload(name: &str) -> PathBuf {
    let record = show(name).unwrap();
    Path::new(record["cgroup"].as_str().unwrap()).join("payload")
}

/// The cgroup directories of sessions in a machine.
fn sessions(name: &str) -> Vec<String> {
    let entries = fs::read_dir(payload(name)).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("osier-")).collect()
}

#[test]
fn it_is_in_all_of_the_machine() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &["--clock-boottime=+400d"]);
    let name = tree.name();
    for kind in ["pid", "mnt", "uts", "ipc", "net", "cgroup", "time"] {
        let wanted = fs::metadata(format!("/proc/{}/ns/{kind}", machine.leader())).unwrap().ino();
        assert_eq!(
            said(&[name, "--", "readlink", &format!("/proc/self/ns/{kind}")]),
            format!("{kind}:[{wanted}]")
        );
    }
    assert_eq!(said(&[name, "hostname"]), name, "a command without dashes");
    let uptime: f64 = said(&[name, "--", "cut", "-d ", "-f1", "/proc/uptime"]).parse().unwrap();
    assert!(uptime > 400.0 * 86400.0, "{uptime}");
    let cgroup = said(&[name, "--", "sh", "-c", "cat /proc/self/cgroup | tail -n1"]);
    assert!(cgroup.starts_with("0::/osier-"), "below the payload: {cgroup}");
    assert_eq!(sessions(name), Vec::<String>::new(), "and nothing of it stays");
    let inside = said(&[name, "--", "grep", "CapBnd", "/proc/self/status"]);
    let status = fs::read_to_string(format!("/proc/{}/status", machine.leader())).unwrap();
    assert!(status.contains(&inside), "{inside}");
    assert_eq!(said(&[name, "--", "ls", "/proc/self/fd"]), "0\n1\n2\n3", "three streams, and ls's own");
    machine.signal(Signal::SIGTERM);
    machine.end();
}

#[test]
fn the_status_is_relayed() {
    let tree = Tree::minimal();
    tree.executable("bin/strange", "\x7fELF no").file("etc/data", "text");
    let machine = Machine::minimal(&tree, &[]);
    let name = tree.name();
    for (script, expected) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        assert_eq!(refused(&[name, "--", "sh", "-c", script]), (expected, String::new()), "{script}");
    }
    for (command, expected) in
        [("nothing", 127), ("/no/where", 127), ("/etc/data", 126), ("/bin/strange", 126)]
    {
        let (status, text) = refused(&[name, "--", command]);
        assert_eq!(status, expected, "{text}");
        assert!(
            text.starts_with(&format!("osier: cannot open a shell in '{name}': cannot execute '{command}'")),
            "{text}"
        );
        assert_eq!(sessions(name), Vec::<String>::new(), "of one that never ran nothing stays");
    }
    machine.signal(Signal::SIGTERM);
    machine.end();
}

#[test]
fn streams_stay_apart_and_carry_every_byte() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let bytes: Vec<u8> = (0..=255u8).cycle().take(3 << 20).collect();
    let mut command = osier(["shell", tree.name(), "--", "sh", "-c", "cat; echo end >&2"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (sent, writer) = (bytes.clone(), std::thread::spawn(move || stdin.write_all(&bytes)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == sent, "{} of {} bytes", output.stdout.len(), sent.len());
    assert_eq!(output.stderr, b"end\n");
    machine.signal(Signal::SIGTERM);
    machine.end();
}

#[test]
fn the_user_is_the_machines() {
    let tree = Tree::minimal();
    tree.file("etc/passwd", "root::0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/ash\n")
        .file("etc/group", "root:x:0:\nann:x:1000:\nwheel:x:27:bob,ann\nvideo:x:44:ann\n")
        .file("etc/environment", "LANG=C.UTF-8\nEDITOR=\"vi\"\n")
        .file("home/ann/x", "")
        // The machine's name services know one more.
        .executable(
            "bin/getent",
            "#!/bin/sh\n[ \"$3\" = carl ] || exit 2\ncase $1 in\npasswd) echo carl:x:2000:2000::/:/bin/sh;;\ninitgroups) echo carl 2000 44 99;;\nesac\n",
        );
    let machine = Machine::minimal(&tree, &[]);
    let name = tree.name();
    let ann = format!("ann@{name}");
    let script = "id -u; id -g; id -G; pwd; echo $HOME $USER $SHELL $LANG $EDITOR $container; grep CapEff /proc/self/status";
    let wanted = "1000\n1000\n1000 27 44\n/home/ann\n/home/ann ann /bin/ash C.UTF-8 vi osier\nCapEff:\t0000000000000000";
    assert_eq!(said(&[&ann, "--", "sh", "-c", script]), wanted);
    assert_eq!(said(&["--uid=1000", name, "--", "sh", "-c", script]), wanted, "by number");
    assert_eq!(
        said(&["--uid=4711", name, "--", "sh", "-c", "id -u; pwd"]),
        "4711\n/",
        "a number without a name"
    );
    assert_eq!(
        said(&["-E", "EDITOR=ed", "-E", "A=b c", name, "--", "sh", "-c", "echo $EDITOR $A"]),
        "ed b c"
    );
    assert_eq!(said(&["--chdir=/etc", name, "pwd"]), "/etc");
    // Without a command it is the login shell, which is told what to do here.
    let mut login = osier(["shell", &ann]);
    let mut child = login.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"echo $0\nexit 3\n").unwrap();
    let login = child.wait_with_output().unwrap();
    assert_eq!(
        (login.status.code(), String::from_utf8(login.stdout).unwrap()),
        (Some(3), "-ash\n".to_owned())
    );
    let (status, text) = refused(&[&format!("bob@{name}"), "id"]);
    assert_eq!(status, 125);
    assert_eq!(
        text,
        format!(
            "osier: cannot open a shell in '{name}': cannot become user 'bob': no such user in the machine's /etc/passwd\n"
        )
    );
    assert_eq!(said(&["--uid=carl", name, "--", "id", "-G"]), "2000 44 99");
    let (status, text) = refused(&["--uid=1000", &ann, "id"]);
    assert!(status == 2 && text.contains("both name a user"), "{text}");
    let (status, text) = refused(&["--chdir=/none", name, "id"]);
    assert!(status == 125 && text.contains("cannot enter '/none': no such file or directory"), "{text}");
    machine.signal(Signal::SIGTERM);
    machine.end();
}

#[test]
fn a_tree_that_is_broken_says_what_is_missing() {
    let tree = Tree::minimal();
    fs::remove_file(tree.path().join("etc/passwd")).unwrap();
    tree.file("etc/passwd/directory", "");
    let machine = Machine::minimal(&tree, &[]);
    let name = tree.name();
    assert_eq!(said(&[name, "--", "sh", "-c", "id -u; echo $HOME"]), "0\n/root", "root is always there");
    machine.sh("rm -r /etc/passwd; echo 'root::0:0::/root:/bin/zsh' >/etc/passwd");
    let (status, text) = refused(&[name]);
    assert_eq!(status, 127);
    assert!(
        text.contains(
            "cannot execute '/bin/zsh': no such file or directory\nhint: it is the login shell of 'root'"
        ),
        "{text}"
    );
    // A fifo, and a link to what leads out of the machine, are nothing to read from.
    machine.sh("rm /etc/passwd /etc/group; mkfifo /etc/passwd; ln -s /proc/1/root/etc/group /etc/group");
    assert_eq!(said(&[name, "--", "echo", "in"]), "in");
    let (status, text) = refused(&["--uid=ann", name, "id"]);
    assert!(status == 125 && text.contains("no such user"), "{text}");
    machine.signal(Signal::SIGTERM);
    machine.end();
}

#[test]
fn names_that_no_machine_has_and_machines_that_cannot_be_entered() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let name = tree.name();
    let (status, text) = refused(&[&format!("{name}x"), "id"]);
    assert_eq!(status, 125);
    assert!(text.contains(&format!("hint: did you mean '{name}'?")), "{text}");
    assert_eq!(refused(&["@web", "id"]).0, 2);
    let payload = payload(name);
    fs::write(payload.join("cgroup.freeze"), "1").unwrap();
    await_that("the freeze", || {
        fs::read_to_string(payload.join("cgroup.events")).unwrap().contains("frozen 1")
    });
    let (status, text) = refused(&[name, "id"]);
    assert_eq!(status, 125);
    assert!(text.contains(&format!("the machine is frozen\nhint: osier thaw {name}")), "{text}");
    fs::write(payload.join("cgroup.freeze"), "0").unwrap();
    assert_eq!(said(&[name, "id", "-u"]), "0");
    let (status, text) = refused(&["--session", name, "/bin/id"]);
    assert!(status == 125 && text.contains("systemd-machined does not know it"), "{text}");
    assert_eq!(sessions(name), Vec::<String>::new());
    machine.signal(Signal::SIGTERM);
    machine.end();
}

#[test]
fn signals_follow_and_a_killed_osier_hangs_up() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let name = tree.name();
    let script = "trap 'echo hup >>/said; exit 4' 1; trap 'echo term >>/said; exit 5' 15; touch /up; while :; do sleep 0.05; done";
    for (signal, expected, word) in [(Signal::SIGTERM, Some(5), "term"), (Signal::SIGKILL, None, "hup")] {
        let running = Running::shell(&[name, "--", "sh", "-c", script], Stdio::null());
        await_that("the command", || tree.path().join("up").exists());
        running.signal(signal);
        let status = running.end();
        assert_eq!(status, expected.unwrap_or(137), "{signal}");
        await_that("the last word", || {
            fs::read_to_string(tree.path().join("said")).is_ok_and(|said| said.trim() == word)
        });
        machine.sh("rm /said /up");
    }
    // What a session left running keeps its cgroup, and ends with the machine.
    assert_eq!(said(&[name, "--", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo left"]), "left");
    let left = sessions(name);
    assert!(!left.is_empty(), "the daemon's");
    machine.signal(Signal::SIGTERM);
    machine.end();
}

#[test]
fn a_machine_that_ends_ends_its_shells() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let mut command = osier(["shell", tree.name(), "--", "sh", "-c", "touch /up; exec sleep 1000"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    await_that("the command", || tree.path().join("up").exists());
    let ended = output(&mut osier(["terminate", tree.name()]));
    assert!(ended.status.success(), "{ended:?}");
    machine.end();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(output.status), 137);
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!("osier: machine '{}' has ended\n", tree.name())
    );
}

#[test]
fn a_terminal_is_the_machines_own() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let terminal = Terminal::new();
    terminal.resize(31, 97);
    let mut child = terminal.spawn(osier(["shell", tree.name()]).env("TERM", "xterm-test"));
    terminal.await_raw();
    terminal.press("tty; stty size; echo $TERM one''two; ls -ln $(tty)\r");
    terminal.await_text("onetwo");
    terminal.await_text("136,");
    let screen = terminal.screen();
    assert!(
        screen.contains("/dev/pts/1") && screen.contains("31 97") && screen.contains("xterm-test"),
        "{screen:?}"
    );
    terminal.resize(40, 120);
    terminal.press("echo begin''s; sleep 1000\r");
    terminal.await_text("begins");
    std::thread::sleep(std::time::Duration::from_millis(200));
    terminal.press("\x03");
    terminal.press("stty size; exit 6\r");
    terminal.await_text("40 120");
    assert_eq!(code(wait(&mut child, &|| terminal.screen())), 6);
    terminal.assert_as_found();
    machine.signal(Signal::SIGTERM);
    machine.end();
}

#[test]
fn a_user_can_hang_up() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    for escape in ["\x1d\x1d\x1d", "\x1d\x1dd"] {
        let terminal = Terminal::new();
        let mut child =
            terminal.spawn(&osier(["shell", tree.name(), "--", "sh", "-c", "echo up; exec sleep 1000"]));
        terminal.await_text("up");
        terminal.press(escape);
        assert_eq!(code(wait(&mut child, &|| terminal.screen())), 129);
        terminal.assert_as_found();
        await_that("the cgroup to go", || sessions(tree.name()).is_empty());
    }
    // The front is killed: what serves the shell puts the terminal back and hangs up.
    let terminal = Terminal::new();
    let mut child = terminal.spawn(&osier(["shell", tree.name()]));
    terminal.await_raw();
    child.kill().unwrap();
    child.wait().unwrap();
    terminal.await_as_found();
    await_that("the cgroup to go", || sessions(tree.name()).is_empty());
    machine.signal(Signal::SIGTERM);
    machine.end();
}

#[test]
fn no_terminal_is_left_in_the_machine() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    // The console's own is one, and there are no more.
    machine.sh("mount -o remount,max=1 /dev/pts");
    let terminal = Terminal::new();
    let mut child = terminal.spawn(&osier(["shell", tree.name()]));
    assert_eq!(code(wait(&mut child, &|| terminal.screen())), 125);
    let wanted = format!(
        "cannot open a shell in '{}': cannot make a terminal in the machine: no space left on device",
        tree.name()
    );
    terminal.await_text(&wanted);
    terminal.assert_as_found();
    assert_eq!(said(&[tree.name(), "id", "-u"]), "0", "without a terminal it goes on");
    machine.signal(Signal::SIGTERM);
    machine.end();
}

#[test]
fn login_is_the_trees_own() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let terminal = Terminal::new();
    let mut child = terminal.spawn(&osier(["login", tree.name()]));
    terminal.await_text("login: ");
    terminal.press("root\r");
    terminal.await_text("# ");
    terminal.press("tty; echo in''side\r");
    terminal.await_text("inside");
    terminal.await_text("/dev/pts/1");
    terminal.press("exit\r");
    assert_eq!(code(wait(&mut child, &|| terminal.screen())), 0);
    terminal.assert_as_found();
    // Without a terminal it is on one of the machine's all the same, and ends when it is told to.
    let mut command = osier(["login", tree.name()]);
    let mut login = Running(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    let keyboard = login.0.stdin.take();
    await_that("the prompt", || !sessions(tree.name()).is_empty());
    login.signal(Signal::SIGTERM);
    assert_eq!(login.end(), 0);
    drop(keyboard);
    machine.sh("for program in /bin/busybox /usr/bin/busybox /bin/login; do [ -e $program ] && mv $program $program.away; done; true");
    let output = output(&mut osier(["login", tree.name()]));
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let wanted = format!(
        "osier: cannot log in to '{}': its tree has no login prompt: it has neither agetty nor login\n",
        tree.name()
    );
    assert!(text.starts_with(&wanted), "{text}");
    let killed = support::machine::output(&mut osier(["terminate", tree.name()]));
    assert!(killed.status.success(), "{killed:?}");
    machine.end();
}

#[test]
fn a_login_to_debian_is_a_session_of_its_logind() {
    let name = support::unique("deb");
    let machine = Machine::spawn(
        {
            let mut command = osier(["boot", "--ephemeral", "--console=read-only"]);
            command.arg(format!("--machine={name}")).arg(debian());
            command
        },
        &name,
        &debian(),
    );
    await_that("the boot", || {
        enter(machine.leader(), &["systemctl", "is-active", "--quiet", "multi-user.target"]).status.success()
    });
    let terminal = Terminal::new();
    let mut child = terminal.spawn(&osier(["login", &name]));
    terminal.await_text("login: ");
    terminal.press("root\r");
    terminal.await_text("# ");
    terminal.press("loginctl --no-legend --no-pager list-sessions | grep -c pts/ | sed s/^/sessions/\r");
    terminal.await_text("sessions1");
    terminal.press("exit\r");
    assert_eq!(code(wait(&mut child, &|| terminal.screen())), 0);
    let ended = output(&mut osier(["terminate", &name]));
    assert!(ended.status.success(), "{ended:?}");
    machine.end_leaving();
}
