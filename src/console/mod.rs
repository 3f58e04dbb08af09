//! The console: a pty inside the machine, the user's terminal outside, and what carries bytes between them.
//!
//! [`Mode`] says how the payload's standard streams and `/dev/console` are made. With a pty, [`pty`] makes it in the
//! machine, [`Forwarder`] carries bytes and finds the escapes ([`escape`]), and on a terminal a second process, the
//! front ([`front`]), holds the terminal in raw mode and puts it back on every way out. Without one ([`Mode::Pipe`]) the
//! payload gets the caller's descriptors, but never one that is a terminal: [`relay`].
//!
//! Other terminals are attached later ([`attach()`]) through a socket ([`listener`]): the forwarder serves them beside the
//! caller's, and they see first what the screen was ([`replay`]). A console that nobody looks at can be kept in a [`log`].
//!
//! Refused here: deciding what a request or a hang-up means for the machine; that is the supervisor's.

mod attach;
mod audience;
pub mod escape;
pub mod forward;
pub mod front;
pub mod listener;
pub mod log;
mod protocol;
pub mod pty;
mod queue;
pub mod relay;
pub mod replay;
mod ring;
pub mod screen;
mod stream;
pub mod terminal;

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::str::FromStr;

pub use attach::{AttachEnd, attach};
pub use escape::Request;
pub use forward::{Drained, Ends, Event, Forwarder};
pub use front::{FrontEnd, FrontWire};
pub use listener::Listener;
pub use log::Log;
pub use protocol::{FromFront, Hello, Role, Snapshot, ToFront};
pub use pty::Pty;
pub use relay::{Relay, Streams};
pub use terminal::Terminal;

/// What `--console=` asks for (man 1 systemd-nspawn), and what each verb takes when nothing is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Nothing asked of `boot`: interactive on a terminal, else read-only.
    BootDefault,
    /// Nothing asked of `run`: interactive on a terminal, else pipe.
    RunDefault,
    /// `interactive`
    Interactive,
    /// `read-only`
    ReadOnly,
    /// `passive`
    Passive,
    /// `pipe`
    Pipe,
    /// `autopipe`: interactive on a terminal, else pipe.
    AutoPipe,
}

impl Asked {
    /// The words that `--console=` takes.
    pub const WORDS: [&'static str; 5] = ["interactive", "read-only", "passive", "pipe", "autopipe"];
}

impl FromStr for Asked {
    type Err = UnknownMode;

    fn from_str(word: &str) -> Result<Self, UnknownMode> {
        match word {
            "interactive" => Ok(Self::Interactive),
            "read-only" => Ok(Self::ReadOnly),
            "passive" => Ok(Self::Passive),
            "pipe" => Ok(Self::Pipe),
            "autopipe" => Ok(Self::AutoPipe),
            _ => Err(UnknownMode),
        }
    }
}

/// A word that is none of [`Asked::WORDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownMode;

impl fmt::Display for UnknownMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not one of {}", Asked::WORDS.join(", "))
    }
}

impl std::error::Error for UnknownMode {}

/// Which of the caller's standard streams are terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminals {
    /// Standard input is one.
    pub stdin: bool,
    /// Standard output is one.
    pub stdout: bool,
}

impl Terminals {
    /// This process's own.
    pub fn of_caller() -> Self {
        Self { stdin: io::stdin().is_terminal(), stdout: io::stdout().is_terminal() }
    }
}

/// How the payload's standard streams and `/dev/console` are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A pty, connected to the caller's standard input and output.
    Interactive,
    /// A pty; its output goes to the caller's standard output, nothing is read from the caller.
    ReadOnly,
    /// A pty, connected to nothing; what the payload writes to it is thrown away, so that it never waits.
    Passive,
    /// No pty and no /dev/console: the caller's descriptors themselves; [`relay`] for those that are terminals.
    Pipe,
}

impl Mode {
    /// What is done for what was asked, on these terminals.
    pub fn resolve(asked: Asked, terminals: Terminals) -> Self {
        let on_terminal = terminals.stdin && terminals.stdout;
        match asked {
            Asked::Interactive => Self::Interactive,
            Asked::ReadOnly => Self::ReadOnly,
            Asked::Passive => Self::Passive,
            Asked::Pipe => Self::Pipe,
            Asked::BootDefault | Asked::RunDefault | Asked::AutoPipe if on_terminal => Self::Interactive,
            Asked::BootDefault => Self::ReadOnly,
            Asked::RunDefault | Asked::AutoPipe => Self::Pipe,
        }
    }

    /// The word for it, as `--console=` takes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::ReadOnly => "read-only",
            Self::Passive => "passive",
            Self::Pipe => "pipe",
        }
    }
}

/// Whether what the user types is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It is read and passed on.
    Flowing,
    /// It is left where it is: the terminal is the shell's for now.
    Paused,
}

/// Lets go of the caller's terminal and pipes after a detach: standard input and output become /dev/null; so does
/// standard error when it is a terminal (a log that it was redirected to is kept).
///
/// # Errors
/// When /dev/null cannot be opened or put in place.
pub fn release_standard_streams() -> io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    rustix::stdio::dup2_stdout(null.as_fd())?;
    if io::stderr().is_terminal() {
        rustix::stdio::dup2_stderr(null.as_fd())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Terminals = Terminals { stdin: true, stdout: true };
    const IN: Terminals = Terminals { stdin: true, stdout: false };
    const OUT: Terminals = Terminals { stdin: false, stdout: true };
    const NONE: Terminals = Terminals { stdin: false, stdout: false };

    #[test]
    fn defaults_follow_the_terminals() {
        assert_eq!(Mode::resolve(Asked::BootDefault, BOTH), Mode::Interactive);
        assert_eq!(Mode::resolve(Asked::RunDefault, BOTH), Mode::Interactive);
        assert_eq!(Mode::resolve(Asked::AutoPipe, BOTH), Mode::Interactive);
        for terminals in [IN, OUT, NONE] {
            assert_eq!(Mode::resolve(Asked::BootDefault, terminals), Mode::ReadOnly, "{terminals:?}");
            assert_eq!(Mode::resolve(Asked::RunDefault, terminals), Mode::Pipe, "{terminals:?}");
            assert_eq!(Mode::resolve(Asked::AutoPipe, terminals), Mode::Pipe, "{terminals:?}");
        }
    }

    #[test]
    fn what_is_said_is_done_whatever_the_terminals() {
        for word in ["interactive", "read-only", "passive", "pipe"] {
            for terminals in [BOTH, IN, OUT, NONE] {
                assert_eq!(Mode::resolve(word.parse().unwrap(), terminals).word(), word);
            }
        }
    }

    #[test]
    fn every_word_parses_and_no_other() {
        for word in Asked::WORDS {
            assert!(word.parse::<Asked>().is_ok(), "{word}");
        }
        assert_eq!("Interactive".parse::<Asked>(), Err(UnknownMode));
        assert_eq!("".parse::<Asked>(), Err(UnknownMode));
    }
}
