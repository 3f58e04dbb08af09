//! A user at a terminal: a pseudoterminal whose slave is the program's standard streams and controlling terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Termios, Winsize};

use super::await_that;

/// The thread that reads the screen: a terminal whose output nobody reads stops its programs.
struct Reader {
    screen: Arc<Mutex<Vec<u8>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn of(master: OwnedFd) -> Self {
        let (screen, stopped) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (sink, stop) = (Arc::clone(&screen), Arc::clone(&stopped));
        let thread = std::thread::spawn(move || {
            let mut master = File::from(master);
            let mut part = [0; 1 << 16];
            while !stop.load(Ordering::Relaxed) {
                let mut set = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
                if poll(&mut set, PollTimeout::from(20u8)) != Ok(1) {
                    continue;
                }
                match master.read(&mut part) {
                    Ok(count @ 1..) => sink.lock().unwrap().extend_from_slice(&part[..count]),
                    _ => break,
                }
            }
        });
        Self { screen, stopped, thread: Some(thread) }
    }

    /// Lets go of the master.
    fn stop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) struct Terminal {
    master: Option<OwnedFd>,
    slave: OwnedFd,
    found: Termios,
    reader: Reader,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        // Close-on-exec: what another test starts must not hold this terminal open.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let reader = Reader::of(master.try_clone().unwrap());
        let mut found = rustix::termios::tcgetattr(&slave).unwrap();
        // A setting that nobody has by chance, so that "as it was" is not "as it is by default".
        found.local_modes.remove(LocalModes::ECHOK);
        rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &found).unwrap();
        let terminal = Self { master: Some(master), slave, found, reader };
        terminal.resize(24, 80);
        terminal
    }

    /// Starts a command with this as its controlling terminal; the child is the command itself.
    pub(crate) fn spawn(&self, command: &Command) -> Child {
        let slave = || Stdio::from(self.slave.try_clone().unwrap());
        // The child leads no process group, so that setsid(1) does not fork.
        let mut setsid = Command::new("setsid");
        setsid.args(["--ctty", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => setsid.env(key, value),
                None => setsid.env_remove(key),
            };
        }
        setsid.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap()
    }

    pub(crate) fn press(&self, keys: impl AsRef<[u8]>) {
        let mut keys = keys.as_ref();
        while !keys.is_empty() {
            let count = rustix::io::write(self.master.as_ref().unwrap(), keys).unwrap();
            keys = &keys[count..];
        }
    }

    pub(crate) fn screen(&self) -> String {
        String::from_utf8_lossy(&self.reader.screen.lock().unwrap()).into_owned()
    }

    pub(crate) fn await_text(&self, text: &str) {
        self.await_texts(text, 1);
    }

    pub(crate) fn await_texts(&self, text: &str, count: usize) {
        let deadline = std::time::Instant::now() + super::PATIENCE;
        while self.screen().matches(text).count() < count {
            assert!(
                std::time::Instant::now() < deadline,
                "no '{text}' ({count}) on the screen: {:?}",
                self.screen()
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Takes the terminal away from its users, as a closed window does: nobody holds the master any more.
    pub(crate) fn hang_up(&mut self) {
        self.master = None;
        self.reader.stop();
    }

    /// As ^S on a terminal that knows it: what is written waits.
    pub(crate) fn stop_output(&self) {
        rustix::termios::tcflow(&self.slave, rustix::termios::Action::OOff).unwrap();
    }

    /// As ^Q.
    pub(crate) fn start_output(&self) {
        rustix::termios::tcflow(&self.slave, rustix::termios::Action::OOn).unwrap();
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(self.master.as_ref().unwrap(), size).unwrap();
    }

    fn attributes(&self) -> Termios {
        rustix::termios::tcgetattr(self.slave.as_fd()).unwrap()
    }

    pub(crate) fn is_raw(&self) -> bool {
        !self.attributes().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    pub(crate) fn await_raw(&self) {
        await_that("raw mode", || self.is_raw());
    }

    pub(crate) fn is_as_found(&self) -> bool {
        let (found, now) = (&self.found, self.attributes());
        (found.input_modes, found.output_modes, found.control_modes, found.local_modes)
            == (now.input_modes, now.output_modes, now.control_modes, now.local_modes)
            && format!("{:?}", found.special_codes) == format!("{:?}", now.special_codes)
    }

    #[track_caller]
    pub(crate) fn assert_as_found(&self) {
        assert!(self.is_as_found(), "the terminal was not put back: {:?}", self.attributes());
    }

    pub(crate) fn await_as_found(&self) {
        await_that("the terminal to be put back", || self.is_as_found());
    }
}
