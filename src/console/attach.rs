//! A front that attaches to a machine that runs already: it shows the screen so far, then holds the terminal as any front
//! does, until the user leaves or the machine ends. It has no child: the supervisor's word, or the end of the wire, is the
//! end.
//!
//! Signals are for this front and not for the machine: it is one of several that look at it.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::Mode;
use super::front::{Held, catch, leave};
use super::protocol::{FromFront, Hello, Role, Snapshot, ToFront, receive};
use super::replay::Replay;
use super::terminal::{Keys, Terminal};

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachEnd {
    /// The user left; the machine goes on.
    Detached,
    /// The machine has ended, with this exit code.
    Ended(u8),
    /// This signal asked the front to leave; the machine goes on.
    Left(i32),
    /// The supervisor is gone without a word.
    Lost,
}

/// Attaches the caller's terminal, or what its standard input and output are, through `socket` ([`super::listener`]).
/// `say` tells the user what the terminal may do when that is not what was asked for, or changes.
///
/// # Errors
/// What tcsetattr(3), poll(2) or recvmsg(2) give. The terminal is put back then, too.
pub fn attach(socket: OwnedFd, asked: Hello, say: impl Fn(ToFront)) -> io::Result<AttachEnd> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    // Before the supervisor answers nothing is held: a signal ends the wait as it ends any program.
    asked.send(&socket, [stdin.as_fd(), stdout.as_fd()])?;
    let packet = receive(&socket)?;
    if packet.length == 0 {
        return Ok(AttachEnd::Lost);
    }
    let (told, screen) = ToFront::decode(packet)?;
    let terminal = Terminal::new(stdin.as_fd(), stdout.as_fd(), Mode::Interactive)?;
    let mut signals = catch()?;
    let flags = rustix::fs::fcntl_getfl(&socket)?;
    rustix::fs::fcntl_setfl(&socket, flags | OFlags::NONBLOCK)?;
    let mut held = Held::new(terminal, socket);
    be(&mut held, told)?;
    held.take()?;
    show(screen.as_ref())?;
    if told == ToFront::Role(Role::Waiting) {
        say(told);
    }
    held.send(FromFront::Shown);
    loop {
        if held.wait(&signals, None)?.told {
            match held.hear()? {
                Some((ToFront::Detached, screen)) => {
                    leave(held, screen.as_ref());
                    return Ok(AttachEnd::Detached);
                }
                Some((ToFront::Ended(code), _)) => return Ok(AttachEnd::Ended(code)),
                Some((told, _)) => {
                    be(&mut held, told)?;
                    say(told);
                }
                None if held.is_alone() => return Ok(AttachEnd::Lost),
                None => {}
            }
        }
        for signal in signals.pending().collect::<Vec<_>>() {
            match signal {
                SIGTERM | SIGINT | SIGHUP | SIGQUIT => return Ok(AttachEnd::Left(signal)),
                other => held.pass_on(other)?,
            }
        }
    }
}

/// Who only watches can leave by ^C.
fn be(held: &mut Held, told: ToFront) -> io::Result<()> {
    match told {
        ToFront::Role(Role::Keyboard) => held.set_keys(Keys::Raw),
        ToFront::Role(_) => held.set_keys(Keys::Signals),
        _ => Ok(()),
    }
}

/// Shows the screen so far.
fn show(screen: Option<&Snapshot>) -> io::Result<()> {
    let Some(screen) = screen else { return Ok(()) };
    let (bytes, rows, columns) = screen.read()?;
    let replay = Replay::of(&bytes, rows, columns);
    let mut stdout = io::stdout().lock();
    let text = if stdout.is_terminal() { replay.for_terminal() } else { replay.as_text() };
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
