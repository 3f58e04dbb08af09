//! Front, supervisor and terminal as they are in use: this test program starts itself on a pty, as a session of its own,
//! with a role to play.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::termios::{LocalModes, Winsize};

use super::super::{Ends, Event, Forwarder, Mode, Request, pty};
use super::*;

const ROLE: &str = "OSIER_TEST_ROLE";
const PATIENCE: Duration = Duration::from_secs(20);

/// A user at a terminal, and osier on it.
struct User {
    terminal: OwnedFd,
    slave: OwnedFd,
    process: Child,
    screen: String,
}

impl User {
    /// Starts the test `name` of this program, which then plays its role.
    fn starts(name: &str) -> Self {
        Self::starts_with(name, "/nonexistent".as_ref())
    }

    /// The same, with a file for the machine to make.
    fn starts_with(name: &str, mark: &Path) -> Self {
        let made = pty::open().unwrap();
        let slave = pty::open_peer(&made.master).unwrap();
        let copy = || Stdio::from(slave.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(std::env::current_exe().unwrap());
        command.args([
            &format!("console::front::tests::{name}"),
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ]);
        let process = command
            .env(ROLE, "front")
            .env("OSIER_TEST_MARK", mark)
            .stdin(copy())
            .stdout(copy())
            .stderr(copy())
            .spawn()
            .unwrap();
        Self { terminal: made.master, slave, process, screen: String::new() }
    }

    fn types(&self, keys: &str) {
        File::from(self.terminal.try_clone().unwrap()).write_all(keys.as_bytes()).unwrap();
    }

    /// Looks until `text` is on the screen; what is there up to its end.
    fn sees(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(at) = self.screen.find(text) {
                return self.screen.drain(..at + text.len()).collect();
            }
            assert!(start.elapsed() < PATIENCE, "no {text:?} in {:?}", self.screen);
            let mut set = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
            poll(&mut set, 100u8).unwrap();
            let mut piece = [0; 4096];
            if let Ok(count) = File::from(self.terminal.try_clone().unwrap()).read(&mut piece) {
                self.screen.push_str(&String::from_utf8_lossy(&piece[..count]));
            }
        }
    }

    /// The number after `word`.
    fn number(&mut self, word: &str) -> i32 {
        self.sees(word);
        self.sees(";").trim_end_matches(';').parse().unwrap()
    }

    fn is_raw(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.slave).unwrap().local_modes;
        assert_eq!(modes.contains(LocalModes::ICANON), modes.contains(LocalModes::ECHO));
        !modes.contains(LocalModes::ICANON)
    }

    fn waits_until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "{what}: it never came");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signals(&self, pid: i32, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The roles: what `osier boot` does on a terminal, with `payload` (a shell script on a pty) as the machine. Returns where
/// there is none to play. The test program has threads and must not fork, so the supervisor is started as a program, with
/// its end of the wire as standard error.
#[expect(clippy::zombie_processes, reason = "the front waits for it, that is what is tested")]
fn play(payload: &str) {
    let Some(role) = std::env::var_os(ROLE) else { return };
    let terminal = Terminal::of_caller(Mode::Interactive).unwrap().unwrap();
    if role == "supervisor" {
        rustix::process::setsid().unwrap();
        let wire = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
        send(&wire, b"r", &[]).unwrap();
        supervise(FrontWire::new(wire, terminal), payload);
    }
    let (ours, theirs) = pair().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(std::env::args_os().skip(1)).env(ROLE, "supervisor").stderr(Stdio::from(theirs));
    let child = command.spawn().unwrap();
    // Raw mode only after the supervisor has seen the terminal as it was.
    poll(&mut [PollFd::new(ours.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
    assert_eq!(receive(&ours).unwrap().length, 1);
    drop(command);
    let end = run(Pid::from_raw(child.id().try_into().unwrap()), ours, terminal);
    println!("front={end:?};");
    leave(0);
}

/// Out of the test program, past its harness.
fn leave(code: i32) -> ! {
    std::io::stdout().flush().unwrap();
    #[expect(clippy::exit, reason = "the role of a process ends with the process")]
    std::process::exit(code)
}

fn supervise(front: FrontWire, payload: &str) -> ! {
    let mut forwarder = Forwarder::new(Ends::of_caller(Mode::Interactive).unwrap());
    forwarder.set_flow(Flow::Paused);
    let made = pty::open().unwrap();
    let slave = pty::open_peer(&made.master).unwrap();
    forwarder.connect(made.master).unwrap();
    let copy = || Stdio::from(slave.try_clone().unwrap());
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait", "sh", "-c", payload]).stdin(copy()).stdout(copy()).stderr(copy());
    let mut machine = command.spawn().unwrap();
    let front_pid = std::os::unix::process::parent_id();
    print!("supervisor={};front={front_pid};", std::process::id());
    std::io::stdout().flush().unwrap();
    let mut front = Some(front);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = machine.try_wait().unwrap() {
            let (stop, _keep) = rustix::pipe::pipe().unwrap();
            forwarder.drain(stop.as_fd()).unwrap();
            leave(status.code().unwrap());
        }
        let mut set: Vec<_> = forwarder.interest().collect();
        set.extend(front.iter().map(|front| PollFd::new(front.fd(), PollFlags::POLLIN)));
        poll(&mut set, 20u8).unwrap();
        drop(set);
        while let Some(message) = front.as_mut().and_then(|front| front.recv().unwrap()) {
            match message {
                FromFront::Resized => forwarder.follow_window().unwrap(),
                FromFront::Input(flow) => forwarder.set_flow(flow),
                FromFront::Signal(signal) => print!("signal={signal};"),
                FromFront::Shown => {}
                FromFront::Gone => {
                    front = None;
                    print!("gone;");
                }
            }
            std::io::stdout().flush().unwrap();
        }
        while let Some(event) = forwarder.turn().unwrap() {
            if event == Event::Request(Request::Detach)
                && let Some(front) = front.take()
            {
                forwarder.detach();
                front.detach(None).unwrap();
            }
        }
    }
    machine.kill().unwrap();
    machine.wait().unwrap();
    leave(99);
}

#[test]
fn the_machine_s_status_is_relayed_and_the_terminal_put_back() {
    play("stty -echo; echo begun; read line; echo \"<$line>\"; exit 7");
    let mut user = User::starts("the_machine_s_status_is_relayed_and_the_terminal_put_back");
    user.sees("begun");
    user.waits_until("raw mode", User::is_raw);
    user.types("hello\r");
    user.sees("<hello>");
    user.sees("front=Ok(Ended(7));");
    assert!(!user.is_raw());
}

#[test]
fn a_killed_supervisor_leaves_the_terminal_as_it_was() {
    play("echo begun; read line");
    let mut user = User::starts("a_killed_supervisor_leaves_the_terminal_as_it_was");
    let supervisor = user.number("supervisor=");
    user.waits_until("raw mode", User::is_raw);
    user.signals(supervisor, Signal::SIGKILL);
    user.sees("front=Ok(Killed(9));");
    assert!(!user.is_raw());
}

#[test]
fn a_killed_front_leaves_the_terminal_as_it_was() {
    play("echo begun; sleep 2; exit 0");
    let mut user = User::starts("a_killed_front_leaves_the_terminal_as_it_was");
    user.sees("supervisor=");
    let front = user.number("front=");
    user.waits_until("raw mode", User::is_raw);
    user.signals(front, Signal::SIGKILL);
    user.waits_until("the terminal put back", |user| !user.is_raw());
}

#[test]
fn detach_gives_the_terminal_back_and_the_machine_goes_on() {
    play("echo begun; sleep 1; touch \"$OSIER_TEST_MARK\"");
    let mark = std::env::temp_dir().join(format!("osier-console-{}", std::process::id()));
    let mut user = User::starts_with("detach_gives_the_terminal_back_and_the_machine_goes_on", &mark);
    user.sees("begun");
    user.waits_until("raw mode", User::is_raw);
    user.types("\x1d\x1dd");
    user.sees("front=Ok(Detached);");
    assert!(!user.is_raw());
    user.waits_until("the machine's mark", |_| mark.exists());
    std::fs::remove_file(mark).unwrap();
}

#[test]
fn signals_to_the_front_reach_the_supervisor() {
    play("echo begun; read line");
    let mut user = User::starts("signals_to_the_front_reach_the_supervisor");
    user.sees("supervisor=");
    let front = user.number("front=");
    user.waits_until("raw mode", User::is_raw);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
        user.signals(front, signal);
        user.sees(&format!("signal={signal};"));
    }
    user.types("\r");
    user.sees("front=Ok(Ended(0));");
    assert!(!user.is_raw());
}

#[test]
fn a_new_window_size_reaches_the_machine() {
    play("trap 'echo size=$(stty size); exit 0' WINCH; echo begun; while :; do sleep 0.05; done");
    let mut user = User::starts("a_new_window_size_reaches_the_machine");
    user.sees("begun");
    user.waits_until("raw mode", User::is_raw);
    let size = Winsize { ws_row: 41, ws_col: 97, ws_xpixel: 0, ws_ypixel: 0 };
    pty::set_window_size(&user.terminal, size).unwrap();
    user.sees("size=41 97");
    user.sees("front=Ok(Ended(0));");
}

#[test]
fn stopped_and_continued_the_front_gives_and_takes_the_terminal() {
    play("stty -echo; echo begun; read line; echo \"<$line>\"");
    let mut user = User::starts("stopped_and_continued_the_front_gives_and_takes_the_terminal");
    user.sees("supervisor=");
    let front = user.number("front=");
    user.waits_until("raw mode", User::is_raw);
    user.signals(front, Signal::SIGTSTP);
    user.waits_until("the terminal given", |user| !user.is_raw());
    user.signals(front, Signal::SIGCONT);
    user.waits_until("the terminal taken", User::is_raw);
    user.types("again\r");
    user.sees("<again>");
    user.sees("front=Ok(Ended(0));");
}
