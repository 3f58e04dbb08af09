//! Terminals that are attached to a machine's console: the screen so far, one keyboard, any number that watch. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::machine::{Machine, await_death, code, enter, osier, output, wait};
use support::terminal::Terminal;
use support::tree::Tree;
use support::{await_that, leftovers};

const ESCAPE: &str = "\x1d\x1d";
const WATCHES: &str = "another terminal has the keyboard; this one watches";

/// `osier attach` on a terminal of its own.
struct Attached {
    terminal: Terminal,
    front: Child,
}

impl Attached {
    fn start(name: &str, options: &[&str]) -> Self {
        Self::on(Terminal::new(), name, options)
    }

    fn on(terminal: Terminal, name: &str, options: &[&str]) -> Self {
        let mut osier = osier(["attach"]);
        osier.args(options).arg(name).env("TERM", "xterm-test");
        let front = terminal.spawn(&osier);
        Self { terminal, front }
    }

    /// With the keyboard.
    fn new(name: &str) -> Self {
        let attached = Self::start(name, &[]);
        attached.terminal.await_raw();
        attached
    }

    /// Types a command and waits for what it says.
    #[track_caller]
    fn says(&self, command: &str, answer: &str) {
        self.terminal.press(format!("{command}\r"));
        self.terminal.await_text(answer);
    }

    #[track_caller]
    fn assert_end(&mut self, expected: i32) {
        let status = wait(&mut self.front, &|| self.terminal.screen());
        self.terminal.assert_as_found();
        assert_eq!(code(status), expected, "{}", self.terminal.screen());
    }

    #[track_caller]
    fn leave(mut self) {
        self.terminal.press([ESCAPE, "d"].concat());
        self.assert_end(0);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.front.kill();
        let _ = self.front.wait();
    }
}

/// A machine that a terminal has detached from has no parent: a test that failed would leave it.
struct Detached<'t>(&'t Tree);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        let _ = output(&mut osier(["terminate", self.0.name()]));
    }
}

/// A machine that nobody's terminal is attached to; its console's output goes to a pipe.
fn machine(tree: &Tree) -> Machine {
    let machine = Machine::minimal(tree, &[]);
    await_that("its shell", || {
        enter(machine.leader(), &["sh", "-c", "ps | grep -q 's[h] -l'"]).status.success()
    });
    machine
}

#[track_caller]
fn end(machine: Machine) {
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

#[test]
fn a_machine_that_was_detached_from_is_attached_to_with_its_screen() {
    let tree = Tree::minimal();
    let boot = Terminal::new();
    let mut osier = osier(["boot"]);
    osier.arg(tree.path()).env("TERM", "xterm-test");
    let mut front = boot.spawn(&osier);
    let _guard = Detached(&tree);
    boot.await_text("osier-minimal: ready");
    boot.await_raw();
    boot.press("echo one''two\r");
    boot.await_text("onetwo");
    boot.press([ESCAPE, "d"].concat());
    assert_eq!(code(wait(&mut front, &|| boot.screen())), 0);

    let attached = Attached::new(tree.name());
    attached.terminal.await_text("onetwo");
    attached.says("echo three''four", "threefour");
    attached.terminal.resize(33, 101);
    attached.terminal.press("stty size\r");
    attached.terminal.await_text("33 101");
    attached.leave();

    // Its window had changed, and so has what is shown.
    let mut again = Attached::new(tree.name());
    again.terminal.await_text("threefour");
    again.terminal.await_text("33 101");
    again.says("stty size", "24 80");
    // What the last one typed is not typed again, and the machine's end is this front's.
    again.terminal.press("poweroff -f\r");
    again.terminal.await_text("has ended");
    again.assert_end(0);
    leftovers::assert_none(tree.name(), &tree.path());
}

#[test]
fn one_types_and_the_others_watch() {
    let tree = Tree::minimal();
    let machine = machine(&tree);
    let first = Attached::new(tree.name());
    first.says("echo who''types", "whotypes");
    let second = Attached::start(tree.name(), &[]);
    second.terminal.await_text(WATCHES);
    let third = Attached::start(tree.name(), &["--watch"]);
    for watcher in [&second, &third] {
        watcher.terminal.await_text("whotypes");
        watcher.terminal.press(format!("echo by-a-watcher\r{ESCAPE}p"));
        watcher.terminal.await_text("this terminal only watches");
        assert!(!watcher.terminal.is_raw(), "^C leaves");
    }
    // The size of a window that only watches is nothing to the machine.
    second.terminal.resize(11, 22);
    first.says("stty size; echo still''here", "stillhere");
    second.terminal.await_text("stillhere");
    third.terminal.await_text("stillhere");
    assert!(!first.terminal.screen().contains("by-a-watcher"), "{}", first.terminal.screen());
    first.terminal.await_text("24 80");
    // The one that has waited takes over, with its window; the one that only watches does not.
    first.leave();
    second.terminal.await_text("this terminal has the keyboard now");
    second.terminal.await_raw();
    second.says("stty size", "11 22");
    second.leave();
    let mut fourth = Attached::new(tree.name());
    fourth.says("echo fourth''types", "fourthtypes");
    third.terminal.await_text("fourthtypes");
    third.leave();
    // Who watches leaves by ^C as well, and by any signal.
    let mut fifth = Attached::start(tree.name(), &[]);
    fifth.terminal.await_text(WATCHES);
    fifth.terminal.press("\x03");
    fifth.assert_end(130);
    kill(Pid::from_raw(fourth.front.id().cast_signed()), Signal::SIGTERM).unwrap();
    fourth.assert_end(143);
    assert_eq!(machine.sh("echo goes on"), "goes on");
    end(machine);
}

#[test]
fn the_terminal_that_booted_has_the_keyboard_until_it_detaches() {
    let tree = Tree::minimal();
    let boot = Terminal::new();
    let mut osier = osier(["boot"]);
    osier.arg(tree.path());
    let mut front = boot.spawn(&osier);
    let _guard = Detached(&tree);
    boot.await_text("osier-minimal: ready");
    boot.await_raw();
    let mut attached = Attached::start(tree.name(), &[]);
    attached.terminal.await_text(WATCHES);
    boot.press("echo at''first\r");
    attached.terminal.await_text("atfirst");
    boot.press([ESCAPE, "d"].concat());
    assert_eq!(code(wait(&mut front, &|| boot.screen())), 0);
    attached.terminal.await_raw();
    attached.says("echo and''then", "andthen");
    // The escapes are those of the boot.
    attached.terminal.press([ESCAPE, "p"].concat());
    attached.terminal.await_text("osier-minimal: poweroff");
    attached.assert_end(0);
    leftovers::assert_none(tree.name(), &tree.path());
}

#[test]
fn a_watcher_that_does_not_read_holds_up_nobody() {
    let tree = Tree::minimal();
    let machine = machine(&tree);
    let keyboard = Attached::new(tree.name());
    // A pipe that nobody reads, beside a terminal whose user has typed ^S.
    let mut osier = osier(["attach", "--watch", tree.name()]);
    let mut slow = osier.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let held = Attached::start(tree.name(), &[]);
    held.terminal.await_text(WATCHES);
    held.terminal.stop_output();
    let line = "0123456789".repeat(7);
    keyboard.says(&format!("yes {line} | head -n 50000; echo all''written"), "allwritten");
    // Who has the keyboard gets every byte.
    keyboard.terminal.await_texts(&format!("{line}\r\n"), 50_000);
    held.terminal.start_output();
    held.terminal.await_text(" bytes not shown]");
    held.leave();
    slow.kill().unwrap();
    slow.wait().unwrap();
    keyboard.leave();
    end(machine);
}

#[test]
fn a_terminal_that_is_stopped_does_not_outlive_the_machine() {
    let tree = Tree::minimal();
    let machine = machine(&tree);
    let mut keyboard = Attached::new(tree.name());
    keyboard.says("echo at''hand", "athand");
    keyboard.terminal.stop_output();
    // More than the pty, the queues and the user's terminal hold: the console stands still.
    machine.sh("(yes | head -c 1000000) > /dev/console 2>&1 &");
    std::thread::sleep(Duration::from_millis(300));
    let ended = output(&mut osier(["terminate", tree.name()]));
    assert!(ended.status.success(), "{ended:?}");
    // Its reader, a pipe, has got what there was.
    let (status, console, _) = machine.end();
    assert_eq!(status, 137);
    assert!(console.contains("y\r\ny\r\n"), "{} bytes", console.len());
    keyboard.terminal.start_output();
    keyboard.assert_end(137);
}

#[test]
fn a_killed_front_leaves_its_terminal_usable_and_the_machine_alone() {
    let tree = Tree::minimal();
    let machine = machine(&tree);
    let mut first = Attached::new(tree.name());
    let second = Attached::start(tree.name(), &[]);
    second.terminal.await_text(WATCHES);
    first.front.kill().unwrap();
    first.front.wait().unwrap();
    first.terminal.await_as_found();
    second.terminal.await_raw();
    second.says("echo took''over", "tookover");
    let mut second = second;
    second.terminal.hang_up();
    wait(&mut second.front, &|| "after the hang-up".to_owned());
    // The keyboard is free again.
    let third = Attached::new(tree.name());
    third.says("echo third''types", "thirdtypes");
    third.leave();
    end(machine);
}

#[test]
fn a_killed_supervisor_leaves_a_terminal_that_is_usable() {
    let tree = Tree::minimal();
    let machine = machine(&tree);
    let mut attached = Attached::new(tree.name());
    let leader = machine.leader();
    machine.signal(Signal::SIGKILL);
    attached.assert_end(125);
    attached.terminal.await_text("lost the console of");
    await_death(leader);
    assert_eq!(machine.end_leaving().0, 137);
    // What it left is in nobody's way.
    let again = Machine::minimal(&tree, &[]);
    Attached::new(tree.name()).leave();
    end(again);
}

#[test]
fn a_full_screen_program_comes_back_as_it_was_and_leaves_no_modes() {
    let tree = Tree::minimal();
    let machine = machine(&tree);
    let first = Attached::new(tree.name());
    let paint = r"printf '\033[?1049h\033[2J\033[5;10H\033[7mpain''ted\033[m\033[?25l\033[?1h'; cat";
    first.says(paint, "painted");
    first.terminal.press([ESCAPE, "d"].concat());
    first.terminal.await_text("\x1b[?1049l");
    first.terminal.await_text("\x1b[?25h");
    let second = Attached::new(tree.name());
    second.terminal.await_text("painted");
    let screen = second.terminal.screen();
    assert!(screen.contains("\x1b[?1049h") && screen.contains("\x1b[?25l"), "{screen:?}");
    assert!(screen.contains("\x1b[5;10H"), "{screen:?}");
    second.leave();
    end(machine);
}

#[test]
fn a_console_is_attached_to_without_a_terminal() {
    let tree = Tree::minimal();
    let machine = machine(&tree);
    machine.sh("echo on the console > /dev/console");
    machine.await_output("on the console");
    let host = support::tree::Scratch::new();
    let mut osier = osier(["attach", tree.name()]);
    osier.stdin(fs::File::open(host.file("typed", "echo ty''ped\n")).unwrap());
    let mut child = osier.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    machine.await_output("\ntyped\r\n");
    std::thread::sleep(Duration::from_millis(200));
    machine.signal(Signal::SIGTERM);
    let status = wait(&mut child, &String::new);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(code(status), 0, "{text}");
    assert!(text.contains("on the console\n") && text.contains("\ntyped\r\n"), "{text:?}");
    let screen = text.split("echo ty''ped").next().unwrap();
    assert!(!screen.contains('\x1b'), "{text:?}");
    assert_eq!(machine.end().0, 0);
}

#[test]
fn what_cannot_be_attached_to_is_said() {
    let missing = output(&mut osier(["attach", "t-no-such-machine"]));
    assert_eq!(code(missing.status), 125);
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("no machine 't-no-such-machine'"),
        "{missing:?}"
    );
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &["--console=pipe"]);
    let refused = output(&mut osier(["attach", tree.name()]));
    assert_eq!(code(refused.status), 125);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("runs without a console") && text.contains("hint: "), "{text}");
    end(machine);
}
