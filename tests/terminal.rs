//! The console with a user at a terminal: raw mode and the way back on every way out, escapes, window size; and without
//! one: pipes and modes. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::machine::{Machine, await_death, code, enter, osier, output, show, wait};
use support::terminal::Terminal;
use support::tree::{Scratch, Tree};
use support::{await_some, await_that, leftovers};

const ESCAPE: &str = "\x1d\x1d";

/// A machine on a terminal of its own.
struct Session {
    terminal: Terminal,
    tree: Tree,
    front: Child,
}

impl Session {
    fn boot(options: &[&str]) -> Self {
        let session = Self::start(&["boot"], options, &[]);
        session.terminal.await_text("osier-minimal: ready");
        session.terminal.await_raw();
        session
    }

    fn start(verb: &[&str], options: &[&str], command: &[&str]) -> Self {
        let (terminal, tree) = (Terminal::new(), Tree::minimal());
        let mut osier = osier(verb);
        osier.args(options).arg(tree.path());
        if !command.is_empty() {
            osier.arg("--").args(command);
        }
        osier.env("TERM", "xterm-test");
        let front = terminal.spawn(&osier);
        Self { terminal, tree, front }
    }

    fn record(&self, key: &str) -> u32 {
        let record = await_some("the record", || show(self.tree.name()));
        u32::try_from(record[key].as_u64().unwrap()).unwrap()
    }

    /// Waits for the end: this exit code, the terminal as it was, nothing left.
    #[track_caller]
    fn assert_end(mut self, expected: i32) {
        let status = wait(&mut self.front, &|| self.terminal.screen());
        self.terminal.assert_as_found();
        assert_eq!(code(status), expected, "{}", self.terminal.screen());
        leftovers::assert_none(self.tree.name(), &self.tree.path());
    }

    fn kill(pid: u32, signal: Signal) {
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
    }
}

impl Drop for Session {
    /// A test that failed has left a machine.
    fn drop(&mut self) {
        if self.front.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = output(&mut osier(["terminate", self.tree.name()]));
            let _ = self.front.kill();
            let _ = self.front.wait();
        }
    }
}

#[test]
fn the_terminal_is_the_console_until_a_poweroff_inside() {
    let session = Session::boot(&[]);
    session.terminal.press("tty; echo $TERM; echo one''two\r");
    session.terminal.await_text("onetwo");
    let screen = session.terminal.screen();
    assert!(screen.contains("/dev/console") && screen.contains("xterm-test"), "{screen:?}");
    // ^C is the machine's: it ends what runs there and not osier.
    session.terminal.press("echo begin''s; sleep 1000\r");
    session.terminal.await_text("begins");
    // The key throws away what was typed before it, so that each has to wait for the other to be taken.
    await_that("the end of the sleep", || {
        session.terminal.press("\x03");
        std::thread::sleep(Duration::from_millis(200));
        session.terminal.press("echo after''wards\r");
        std::thread::sleep(Duration::from_millis(200));
        session.terminal.screen().contains("afterwards")
    });
    session.terminal.press("poweroff -f\r");
    session.assert_end(0);
}

#[test]
fn three_times_the_escape_ends_the_machine() {
    let session = Session::boot(&[]);
    let leader = session.record("leader");
    session.terminal.press([ESCAPE, "\x1d"].concat());
    session.assert_end(137);
    await_death(leader);
}

#[test]
fn the_escape_and_p_powers_off() {
    let session = Session::boot(&[]);
    session.terminal.press([ESCAPE, "p"].concat());
    session.terminal.await_text("osier-minimal: poweroff");
    session.assert_end(0);
}

#[test]
fn the_escape_and_r_reboots_in_place() {
    let session = Session::boot(&["--ephemeral"]);
    let (leader, supervisor) = (session.record("leader"), session.record("supervisor"));
    session.terminal.press("echo kept > /root/kept\r");
    session.terminal.press([ESCAPE, "r"].concat());
    session.terminal.await_texts("osier-minimal: ready", 2);
    assert_ne!(session.record("leader"), leader);
    assert_eq!(session.record("supervisor"), supervisor);
    assert!(session.terminal.is_raw());
    session.terminal.press("cat /root/kept; echo still''here\r");
    session.terminal.await_text("stillhere");
    session.terminal.await_text("\nkept\r");
    session.terminal.press("poweroff -f\r");
    session.assert_end(0);
}

#[test]
fn the_escape_and_d_leaves_the_machine_alone() {
    let mut session = Session::boot(&[]);
    let leader = session.record("leader");
    session.terminal.press([ESCAPE, "d"].concat());
    let status = wait(&mut session.front, &|| session.terminal.screen());
    assert_eq!(code(status), 0);
    session.terminal.assert_as_found();
    session.terminal.await_text("detached");
    // Another front's keys and a terminal that is gone are nothing to it.
    session.terminal.hang_up();
    let tree = &session.tree;
    std::thread::sleep(Duration::from_millis(200));
    let record = show(tree.name()).expect("it goes on");
    assert_eq!(record["leader"], leader);
    let listed = output(&mut osier(["list", "--no-legend"]));
    assert!(String::from_utf8_lossy(&listed.stdout).contains(tree.name()));
    assert!(enter(leader, &["/bin/sh", "-c", "yes | head -c 1000000 > /dev/console"]).status.success());
    assert!(output(&mut osier(["terminate", tree.name()])).status.success());
    leftovers::assert_none(tree.name(), &tree.path());
}

#[test]
fn terminate_puts_the_terminal_back() {
    let session = Session::boot(&[]);
    assert!(output(&mut osier(["terminate", session.tree.name()])).status.success());
    session.assert_end(137);
}

#[test]
fn a_killed_supervisor_leaves_a_terminal_that_is_usable() {
    let mut session = Session::boot(&[]);
    let leader = session.record("leader");
    Session::kill(session.record("supervisor"), Signal::SIGKILL);
    let status = wait(&mut session.front, &|| session.terminal.screen());
    assert_eq!(code(status), 137);
    session.terminal.assert_as_found();
    await_death(leader);
    // The next one of the name clears what was left.
    let again = Machine::minimal(&session.tree, &[]);
    again.signal(Signal::SIGTERM);
    assert_eq!(again.end().0, 0);
}

#[test]
fn a_killed_front_leaves_a_terminal_that_is_usable() {
    let mut session = Session::boot(&[]);
    let leader = session.record("leader");
    let supervisor = session.record("supervisor");
    assert_ne!(supervisor, session.front.id());
    session.front.kill().unwrap();
    session.front.wait().unwrap();
    session.terminal.await_as_found();
    // A terminal that nobody holds any more is a hang-up: the machine is shut down.
    await_death(supervisor);
    await_death(leader);
    session.terminal.await_text("osier-minimal: halt");
    leftovers::assert_none(session.tree.name(), &session.tree.path());
}

#[test]
fn signals_to_the_front_are_for_the_machine() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let session = Session::boot(&[]);
        Session::kill(session.front.id(), signal);
        session.terminal.await_text("osier-minimal: halt");
        session.assert_end(0);
    }
}

#[test]
fn a_terminal_that_is_hung_up_shuts_the_machine_down() {
    let mut session = Session::boot(&[]);
    let tree = &session.tree;
    let leader = await_some("the record", || show(tree.name()))["leader"].as_u64().unwrap();
    session.terminal.hang_up();
    wait(&mut session.front, &|| "after the hang-up".to_owned());
    await_death(u32::try_from(leader).unwrap());
    await_that("nothing to be left", || leftovers::of(tree.name(), &tree.path()).is_empty());
}

#[test]
fn an_error_at_launch_leaves_the_terminal_as_it_was() {
    let session = Session::start(&["boot"], &["--inaccessible=/not/there"], &[]);
    session.terminal.await_text("cannot mask /not/there");
    session.assert_end(125);
    let session = Session::start(&["run"], &[], &["/not/there"]);
    session.terminal.await_text("cannot execute '/not/there'");
    session.assert_end(127);
}

#[test]
fn run_on_a_terminal_relays_the_status() {
    for options in [&[][..], &["--as-pid2"]] {
        let session =
            Session::start(&["run"], options, &["sh", "-c", "echo on $(tty); read x; echo got $x; exit 7"]);
        session.terminal.await_text("on /dev/console");
        session.terminal.press("word\r");
        session.terminal.await_text("got word");
        session.assert_end(7);
    }
    // ^C of a raw terminal arrives as the signal of the console inside.
    let session = Session::start(
        &["run"],
        &["--as-pid2"],
        &["sh", "-c", "trap 'echo caught; exit 5' INT; echo here; while :; do sleep 0.05; done"],
    );
    session.terminal.await_text("here");
    session.terminal.press("\x03");
    session.assert_end(5);
}

#[test]
fn the_window_size_follows() {
    let session = Session::boot(&[]);
    session.terminal.press("stty size; echo first''\r");
    session.terminal.await_text("24 80");
    session.terminal.resize(33, 101);
    let leader = session.record("leader");
    let size =
        || String::from_utf8(enter(leader, &["/bin/sh", "-c", "stty size < /dev/console"]).stdout).unwrap();
    await_that("the size", || size() == "33 101\n");
    session.terminal.press("stty size\r");
    session.terminal.await_text("33 101");
    session.terminal.press([ESCAPE, "p"].concat());
    session.assert_end(0);
}

#[test]
fn nothing_typed_by_the_payload_reaches_the_hosts_terminal() {
    let session = Session::boot(&["--capability=all"]);
    // TIOCSTI on every terminal that the machine has acts on its own pty at most: on the user's nothing is typed.
    let leader = session.record("leader");
    assert_eq!(
        enter(leader, &["/bin/sh", "-c", "ls /proc/1/fd | wc -l; readlink /proc/1/fd/0"])
            .stdout
            .split(|byte| *byte == b'\n')
            .nth(1)
            .unwrap(),
        b"/dev/console"
    );
    let of_machine = enter(leader, &["stat", "-Lc", "%d:%i", "/proc/1/fd/0"]).stdout;
    let of_user =
        output(Command::new("stat").args(["-Lc", "%d:%i"]).arg(format!("/proc/{}/fd/0", session.front.id())))
            .stdout;
    assert_ne!(of_machine, of_user);
    // No process inside has a descriptor of any terminal of the host's.
    let script =
        "for p in /proc/[0-9]*/fd/*; do stat -Lc '%t %d' $p 2>/dev/null; done | grep '^88 ' | sort -u";
    let terminals = String::from_utf8(enter(leader, &["/bin/sh", "-c", script]).stdout).unwrap();
    let of_host = format!("88 {}", std::os::unix::fs::MetadataExt::dev(&fs::metadata("/dev/pts").unwrap()));
    assert!(!terminals.is_empty() && terminals.lines().all(|line| line != of_host), "{terminals}");
    session.terminal.press([ESCAPE, "p"].concat());
    session.assert_end(0);
}

#[test]
fn modes_of_the_console_without_a_terminal() {
    for (option, standard_input) in [
        ("--console=read-only", "/dev/console"),
        ("--console=interactive", "/dev/console"),
        ("--console=passive", "/dev/console"),
    ] {
        let tree = Tree::minimal();
        let machine = Machine::start(&tree, &[option]);
        await_that("the shell", || {
            enter(machine.leader(), &["sh", "-c", "ps | grep -q 'sh -l'"]).status.success()
        });
        assert_eq!(machine.sh("readlink /proc/1/fd/0"), standard_input, "{option}");
        machine.sh("echo for the console > /dev/console");
        if option == "--console=passive" {
            machine.sh("yes | head -c 1000000 > /dev/console");
            assert_eq!(machine.console(), "");
        } else {
            machine.await_output("for the console");
        }
        machine.signal(Signal::SIGTERM);
        assert_eq!(machine.end().0, 0, "{option}");
    }
    for option in ["--console=pipe", "--console=autopipe"] {
        let tree = Tree::minimal();
        let machine = Machine::minimal(&tree, &[option]);
        assert!(machine.sh("readlink /proc/1/fd/1").starts_with("pipe:"), "{option}");
        assert_eq!(
            machine.sh("readlink /proc/1/fd/0; ls /dev/console 2>/dev/null || :"),
            "/dev/null",
            "{option}"
        );
        machine.signal(Signal::SIGTERM);
        let (code, stdout, _) = machine.end();
        assert_eq!((code, stdout.as_str()), (0, "osier-minimal: ready\nosier-minimal: halt\n"));
    }
}

#[test]
fn typed_ahead_input_from_a_pipe_reaches_an_interactive_console() {
    let tree = Tree::minimal();
    let mut command = osier(["run", "--console=interactive"]);
    command.arg(tree.path()).args(["--", "sh", "-c", "while read line; do echo \"<$line>\"; done; echo end"]);
    let host = Scratch::new();
    command.stdin(fs::File::open(host.file("lines", "one\ntwo\n")).unwrap());
    let output = output(&mut command);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(code(output.status), 0, "{text}");
    assert!(
        text.contains("<one>\r\n") && text.contains("<two>\r\n") && text.ends_with("end\r\n"),
        "{text:?}"
    );
}

#[test]
fn a_slow_reader_gets_every_byte() {
    let every_byte: Vec<u8> =
        (0..=255).cycle().take(5 << 20).map(|byte: u16| byte.to_le_bytes()[0]).collect();
    for mode in ["pipe", "read-only", "interactive"] {
        let tree = Tree::minimal();
        tree.file("root/bytes", &every_byte);
        let mut command = osier(["run", &format!("--console={mode}")]);
        let script = "[ -t 1 ] && stty raw; exec cat /root/bytes";
        command.arg(tree.path()).args(["--", "sh", "-c", script]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut pipe = child.stdout.take().unwrap();
        let mut got = Vec::new();
        let mut part = [0; 100_000];
        // Nothing at first, then little at a time; the command has long ended when the last is read.
        std::thread::sleep(Duration::from_millis(500));
        loop {
            let count = pipe.read(&mut part).unwrap();
            if count == 0 {
                break;
            }
            got.extend_from_slice(&part[..count]);
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(got == every_byte, "{mode}: {} of {} bytes", got.len(), every_byte.len());
        assert_eq!(code(wait(&mut child, &String::new)), 0, "{mode}");
        leftovers::assert_none(tree.name(), &tree.path());
    }
}

#[test]
fn a_reader_that_goes_away_does_not_stop_a_machine() {
    let tree = Tree::minimal();
    let mut command = osier(["run", "--console=read-only"]);
    command.arg(tree.path()).args(["--", "sh", "-c", "yes | head -c 1000000; echo done > /root/done"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(code(wait(&mut child, &String::new)), 0);
    assert!(tree.path().join("root/done").exists());
    leftovers::assert_none(tree.name(), &tree.path());
}

#[test]
fn streams_on_a_terminal_are_relayed_in_pipe_mode() {
    let session = Session::start(
        &["run"],
        &["--console=pipe"],
        &[
            "sh",
            "-c",
            "[ -t 0 ] || [ -t 1 ] || [ -t 2 ] || echo no terminal; echo apart >&2; read x; echo got $x",
        ],
    );
    session.terminal.await_text("no terminal");
    session.terminal.await_text("apart");
    session.terminal.press("word\n");
    session.terminal.await_text("got word");
    session.assert_end(0);
}
