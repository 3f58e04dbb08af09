//! What somebody at a terminal has who looks at machines: `osier top`, what it says and what it does to the terminal, and
//! completion of machines' names in bash.
#![expect(clippy::unwrap_used, reason = "a test that cannot run the program has failed")]

#[expect(dead_code, reason = "each test uses a part of what they share")]
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use osier::console::screen::Screen;
use serde_json::Value;

use support::machine::{Machine, code, osier, output, show, wait};
use support::terminal::Terminal;
use support::tree::{Tree, debian};
use support::{await_that, program};

/// The second screen is left.
const LEFT: &str = "\x1b[?1049l";

fn top(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("top").args(arguments).env("TERM", "xterm");
    command
}

#[test]
fn the_busy_machine_is_above_the_idle_one() {
    let (idle_tree, busy_tree) = (Tree::minimal(), Tree::minimal());
    let idle = Machine::minimal(&idle_tree, &["--register=no", "--network=none"]);
    let mut command = osier(["run", "--register=no"]);
    command.arg(busy_tree.path()).args(["--", "/bin/sh", "-c", "while :; do :; done"]);
    let busy = Machine::spawn(command, busy_tree.name(), &busy_tree.path());
    busy.show();

    let printed = output(&mut osier(["top", "--json", "--iterations=2", "--delay=700ms"]));
    assert!(printed.status.success() && printed.stderr.is_empty(), "{printed:?}");
    let text = String::from_utf8(printed.stdout).unwrap();
    let snapshots: Vec<Vec<Value>> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(snapshots.len(), 2, "{text}");
    for rows in snapshots {
        let at = |name: &str| rows.iter().position(|row| row["name"] == name).unwrap();
        let (idle, busy) = (at(&idle.name), at(&busy.name));
        assert!(busy < idle, "{rows:?}");
        let percent = |at: usize| rows[at]["cpu_percent"].as_f64().unwrap();
        // One process: one processor at most, and less where others want it as well.
        assert!(percent(busy) > 5.0 && percent(busy) < 130.0, "{rows:?}");
        assert!(percent(idle) < percent(busy), "{rows:?}");
    }

    let printed = output(&mut osier(["top", "--batch", "-n1", "-d", "50ms", "--sort=name"]));
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(text.starts_with("NAME ") && !text.contains('\x1b'), "{text:?}");
    assert!(text.lines().any(|line| line.starts_with(&format!("{} ", idle.name))), "{text}");
    for machine in [idle, busy] {
        assert!(osier(["terminate", &machine.name]).status().unwrap().success());
        machine.end();
    }
}

/// The text of `status NAME` with these options.
fn status(name: &str, options: &[&str]) -> String {
    let output = output(osier(["status", name]).args(options));
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn status_ends_with_the_last_lines_of_the_journal() {
    let name = support::unique("journal");
    let mut command = osier(["boot", "--register=no", "--ephemeral", "--network=none"]);
    command.arg(format!("--machine={name}")).arg(debian());
    let machine = Machine::spawn(command, &name, &debian());
    let script = "for line in one two three; do printf 'said \\033[31m%s\\n' $line; done | systemd-cat";
    await_that("the machine", || show(&name).is_some_and(|shown| shown["state"] == "running"));
    assert!(machine.enter(&["/bin/sh", "-c", script]).status.success());
    // What comes between and after is not ours: the machine boots.
    let text = support::await_some("the last line", || {
        Some(status(&name, &["--lines=400"])).filter(|text| text.contains("three"))
    });
    assert!(text.contains("said ") && !text.contains('\x1b'), "{text:?}");
    let shown: Value = serde_json::from_str(&status(&name, &["--json", "-n2"])).unwrap();
    assert_eq!(shown["log"].as_array().unwrap().len(), 2, "{shown}");
    assert_eq!(
        serde_json::from_str::<Value>(&status(&name, &["--json", "-n0"])).unwrap()["log"],
        Value::from(Vec::<u8>::new())
    );

    // What is frozen answers no question.
    assert!(osier(["freeze", &name]).status().unwrap().success());
    let start = Instant::now();
    assert!(status(&name, &[]).contains("State: running (frozen)\n"));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(osier(["terminate", &name]).status().unwrap().success());
    machine.end();
}

#[test]
fn a_reader_that_has_seen_enough_ends_it() {
    let mut child = top(&["--batch", "--delay=20ms"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(code(wait(&mut child, &|| "top".to_owned())), 0);
}

#[test]
fn a_wrong_delay_is_refused() {
    for delay in ["--delay=soon", "--delay=0", "--delay=-1s", "--iterations=0"] {
        let refused = output(&mut osier(["top", "--batch", delay]));
        assert_eq!(refused.status.code(), Some(2), "{delay}: {refused:?}");
    }
}

#[test]
fn it_follows_keys_and_the_window_and_leaves_the_terminal_as_it_was() {
    let terminal = Terminal::new();
    let mut child = terminal.spawn(&top(&["--delay=1h"]));
    terminal.await_raw();
    terminal.await_text("by cpu;");
    terminal.press("n");
    terminal.await_text("by name;");
    terminal.resize(5, 30);
    await_that("lines as long as the window", || {
        let screen = terminal.screen();
        let mut lines = screen.rsplit("\x1b[H").next().unwrap().split("\x1b[K");
        lines.nth(1).is_some_and(|line| line.trim_end_matches("\r\n").len() == 30)
    });
    terminal.press("\x1a");
    terminal.await_as_found();
    terminal.await_text(LEFT);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGCONT).unwrap();
    terminal.await_raw();
    terminal.press("q");
    assert_eq!(code(wait(&mut child, &|| terminal.screen())), 0);
    terminal.assert_as_found();
    await_that("the first screen", || terminal.screen().ends_with(LEFT));
}

#[test]
fn signals_and_interrupts_put_the_terminal_back() {
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let terminal = Terminal::new();
        let mut child = terminal.spawn(&top(&[]));
        terminal.await_raw();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        assert_eq!(code(wait(&mut child, &|| terminal.screen())), status);
        terminal.assert_as_found();
        await_that("the first screen", || terminal.screen().ends_with(LEFT));
    }
    let terminal = Terminal::new();
    let mut child = terminal.spawn(&top(&[]));
    terminal.await_raw();
    terminal.press("\x03");
    assert_eq!(code(wait(&mut child, &|| terminal.screen())), 0);
    terminal.assert_as_found();
}

#[test]
fn a_window_that_is_closed_ends_it() {
    let mut terminal = Terminal::new();
    let mut child = terminal.spawn(&top(&["--delay=50ms"]));
    terminal.await_raw();
    terminal.hang_up();
    wait(&mut child, &|| "top".to_owned());
}

#[test]
fn a_dumb_terminal_gets_plain_snapshots() {
    let terminal = Terminal::new();
    let mut command = top(&["--iterations=1", "--delay=50ms"]);
    command.env("TERM", "dumb");
    let mut child = terminal.spawn(&command);
    assert_eq!(code(wait(&mut child, &|| terminal.screen())), 0);
    await_that("the table", || terminal.screen().contains("NAME "));
    assert!(!terminal.screen().contains('\x1b'), "{:?}", terminal.screen());
}

/// What the next test starts on a terminal; alone it does nothing.
#[test]
fn panicking() {
    if std::env::var_os("OSIER_TEST_PANIC").is_some() {
        let screen = Screen::open().unwrap().unwrap();
        screen.draw(&["drawn".to_owned()]).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        panic!("on purpose");
    }
}

#[test]
fn a_panic_puts_the_terminal_back_before_it_is_told() {
    let terminal = Terminal::new();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "panicking", "--nocapture", "--test-threads=1"]).env("OSIER_TEST_PANIC", "1");
    let mut child = terminal.spawn(&command);
    terminal.await_raw();
    terminal.await_text("drawn");
    wait(&mut child, &|| terminal.screen());
    terminal.assert_as_found();
    terminal.await_text("on purpose");
    let screen = terminal.screen();
    assert!(screen.find(LEFT).unwrap() < screen.find("on purpose").unwrap(), "{screen:?}");
}

/// Types in a real bash, which has sourced the script and nothing else; TAB is `\t`.
#[test]
fn bash_completes_the_name_of_a_machine_that_runs() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &["--register=no", "--network=none"]);
    let path = format!("{}:/usr/bin:/bin", program().parent().unwrap().display());
    let mut command = Command::new("bash");
    command.args(["--noprofile", "--norc", "-i"]).env("PATH", path).env("PS1", "at> ").env("TERM", "xterm");
    let terminal = Terminal::new();
    terminal.resize(24, 200);
    let mut shell = terminal.spawn(&command);
    terminal.await_text("at> ");
    terminal.press("source <(osier completions bash); echo rea''dy\n");
    terminal.await_text("ready\r");
    let typed = &machine.name[..machine.name.len() - 3];
    terminal.press(format!("osier show -p Name {typed}\t\n"));
    terminal.await_text(&format!("Name={}\r", machine.name));
    terminal.press(format!("osier termi\t{typed}\t && exit 7\n"));
    assert_eq!(code(wait(&mut shell, &|| terminal.screen())), 7, "{}", terminal.screen());
    machine.end();
}
