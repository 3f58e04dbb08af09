//! A terminal's alternate screen, for a verb that draws again and again: taken, followed in its size, and put back on every
//! way out, a panic and a stop (^Z) among them.
//!
//! The escape sequences are those of the VT100 and, for the second screen, xterm's (XTerm Control Sequences, "The
//! Alternate Screen Buffer"): every terminal has them that is not [`is_dumb`].

use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::sys::signal::{Signal, raise};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use super::{Mode, Terminal};

/// The second screen, and no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// The cursor, and the screen as it was.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// What a user or the system wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The time to wait for has come.
    Due,
    /// A byte was typed.
    Key(u8),
    /// What is on the screen may be wrong: it has another size, or something else used it.
    Redraw,
    /// It is to end; by this signal, or because the terminal is gone.
    End(Option<i32>),
}

/// Whether the terminal has no second screen, or osier's environment does not say what it is.
pub fn is_dumb() -> bool {
    std::env::var("TERM").map_or(true, |term| term.is_empty() || term == "dumb")
}

/// A terminal whose second screen is shown.
pub struct Screen {
    held: Arc<Held>,
    signals: SignalDelivery<UnixStream, SignalOnly>,
}

/// What has to be put back.
struct Held {
    terminal: Terminal,
    entered: AtomicBool,
    /// Standard input is a terminal: there are keys.
    keys: bool,
}

impl Screen {
    /// Takes the caller's terminal; `None` when standard output is none.
    ///
    /// # Errors
    /// What tcgetattr(3), tcsetattr(3), sigaction(2) and writing to the terminal give.
    pub fn open() -> io::Result<Option<Self>> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        if !rustix::termios::isatty(&stdout) {
            return Ok(None);
        }
        let Some(terminal) = Terminal::new(stdin.as_fd(), stdout.as_fd(), Mode::Interactive)? else {
            return Ok(None);
        };
        let (read_end, write_end) = UnixStream::pair()?;
        let caught = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP, SIGCONT];
        let signals = SignalDelivery::with_pipe(read_end, write_end, SignalOnly, caught)?;
        let keys = rustix::termios::isatty(&stdin);
        let held = Arc::new(Held { terminal, entered: AtomicBool::new(false), keys });
        let (hold, before) = (Arc::clone(&held), panic::take_hook());
        // Before the panic's own text, which would go with the second screen. Nothing is unwound in a release.
        panic::set_hook(Box::new(move |panic| {
            hold.leave();
            before(panic);
        }));
        held.enter()?;
        Ok(Some(Self { held, signals }))
    }

    /// Shows lines from the top; what does not fit is cut. In one write, over what was there before: nothing flickers.
    ///
    /// # Errors
    /// What write(2) gives; `EIO` when the terminal was hung up.
    pub fn draw(&self, lines: &[String]) -> io::Result<()> {
        let size = rustix::termios::tcgetwinsize(io::stdout())?;
        let or = |given: u16, usual: usize| if given == 0 { usual } else { usize::from(given) };
        let (rows, columns) = (or(size.ws_row, 24), or(size.ws_col, 80));
        let mut frame = String::from("\x1b[H");
        for (at, line) in lines.iter().take(rows).enumerate() {
            let end = line.char_indices().nth(columns).map_or(line.len(), |(at, _)| at);
            // In raw mode a line feed is no more than one. Erased before it is written: after a full line the cursor
            // still stands on its last column.
            let _ = write!(frame, "{}\x1b[K{}", if at == 0 { "" } else { "\r\n" }, &line[..end]);
        }
        if lines.len() < rows {
            frame.push_str("\x1b[J");
        }
        write_all(&frame)
    }

    /// Waits for what comes first, until `due`.
    ///
    /// # Errors
    /// What poll(2) gives.
    pub fn wait(&mut self, due: Instant) -> io::Result<Event> {
        loop {
            if let Some(event) = self.signalled()? {
                return Ok(event);
            }
            let Some(left) = due.checked_duration_since(Instant::now()) else { return Ok(Event::Due) };
            let stdin = io::stdin();
            let mut set = vec![PollFd::new(self.signals.get_read(), PollFlags::IN)];
            if self.held.keys {
                set.push(PollFd::new(&stdin, PollFlags::IN));
            }
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
            match poll(&mut set, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if set.get(1).is_some_and(|stdin| !stdin.revents().is_empty()) {
                return Ok(read_key(stdin.as_fd()));
            }
        }
    }

    fn signalled(&mut self) -> io::Result<Option<Event>> {
        let mut event = None;
        for signal in self.signals.pending().collect::<Vec<_>>() {
            event = Some(match signal {
                SIGTSTP => {
                    self.held.leave();
                    raise(Signal::SIGSTOP)?;
                    self.held.enter()?;
                    Event::Redraw
                }
                // SIGSTOP cannot be caught: the shell has set its own attributes in the meantime.
                SIGCONT => {
                    self.held.enter()?;
                    Event::Redraw
                }
                SIGWINCH => Event::Redraw,
                signal => return Ok(Some(Event::End(Some(signal)))),
            });
        }
        Ok(event)
    }

    /// Stops, as ^Z asks in a terminal that is not raw.
    ///
    /// # Errors
    /// What kill(2) gives.
    pub fn stop(&self) -> io::Result<()> {
        Ok(raise(Signal::SIGTSTP)?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.held.leave();
    }
}

impl Held {
    fn enter(&self) -> io::Result<()> {
        let entered = self.entered.swap(true, Ordering::SeqCst);
        self.terminal.prepare()?;
        if entered { Ok(()) } else { write_all(ENTER) }
    }

    /// Once, whoever comes first. A terminal that is gone cannot be put back, and need not be.
    fn leave(&self) {
        if self.entered.swap(false, Ordering::SeqCst) {
            let _ = write_all(LEAVE);
            let _ = self.terminal.restore();
        }
    }
}

fn read_key(stdin: BorrowedFd<'_>) -> Event {
    let mut byte = [0];
    match retry_on_intr(|| rustix::io::read(stdin, &mut byte)) {
        Ok(1..) => Event::Key(byte[0]),
        Ok(_) | Err(_) => Event::End(None),
    }
}

/// Past the lock of standard output, which a panic may hold.
fn write_all(text: &str) -> io::Result<()> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let count = retry_on_intr(|| rustix::io::write(io::stdout(), rest))?;
        rest = rest.get(count..).unwrap_or_default();
    }
    Ok(())
}
