//! A run that goes on: a child of this process, a supervisor in a session of its own, its output in pipes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use super::clocks::Clock;
use super::output::{Output, Stream};
use super::{Finished, Outcome};
use crate::error::{Context, Error, Kind, Result};
use crate::wire::Wire;

/// How long a supervisor has to end its machine before it is told again; the second time it kills it.
const AGAIN: Duration = Duration::from_secs(1);

/// This process's ends of what a run writes to.
pub(super) struct Ours {
    wire: Wire,
    out: OwnedFd,
    err: OwnedFd,
}

/// The run's own.
pub(super) struct Ends {
    wire: Wire,
    out: OwnedFd,
    err: OwnedFd,
    parent: rustix::process::Pid,
}

impl Ends {
    /// Both sides, before the fork.
    ///
    /// # Errors
    /// What pipe(2) and socketpair(2) give.
    pub(super) fn pair() -> io::Result<(Ours, Self)> {
        let pipe = || -> io::Result<(OwnedFd, OwnedFd)> {
            let (read_end, write_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            rustix::fs::fcntl_setfl(&read_end, OFlags::NONBLOCK)?;
            Ok((read_end, write_end))
        };
        let (wire, theirs) = Wire::pair()?;
        let ((out, their_out), (err, their_err)) = (pipe()?, pipe()?);
        let parent = rustix::process::getpid();
        Ok((Ours { wire, out, err }, Self { wire: theirs, out: their_out, err: their_err, parent }))
    }

    /// In the child: leaves the caller's terminal, does `work`, and tells how it went.
    ///
    /// # Errors
    /// As `work`.
    pub(super) fn live(self, work: impl FnOnce() -> Result<u8>) -> Result<u8> {
        let result = self.settle().context(|| "cannot become a run of the sweep").and_then(|()| work());
        let said: std::result::Result<(), &Error> = result.as_ref().map(|_| ());
        // Who has stopped listening has ended.
        let _ = self.wire.send(&said, &[]);
        result
    }

    fn settle(&self) -> io::Result<()> {
        // ^C is for the process that sweeps, which then asks this one.
        nix::unistd::setsid()?;
        // When that is killed, this is asked all the same.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
        if rustix::process::getppid() != Some(self.parent) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&self.out)?;
        Ok(rustix::stdio::dup2_stderr(&self.err)?)
    }
}

/// Why a run was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    TooLong(Duration),
    Interrupted,
}

/// See the [module's](self) page. It is ended and waited for when this is dropped.
pub(super) struct UnderWay {
    at: usize,
    child: Option<Pid>,
    pidfd: OwnedFd,
    ours: Ours,
    output: Output,
    started: Instant,
    limit: Option<Duration>,
    asked: Option<Asked>,
    /// When it is asked (again) to end.
    due: Option<Instant>,
}

impl UnderWay {
    /// The run under the clock `at`, just forked.
    ///
    /// # Errors
    /// What pidfd_open(2) gives; the child then ends by itself.
    pub(super) fn new(at: usize, child: Pid, ours: Ours, limit: Option<Duration>) -> Result<Self> {
        let started = Instant::now();
        let number = rustix::process::Pid::from_raw(child.as_raw()).ok_or(Errno::ESRCH);
        let pidfd = number
            .map_err(io::Error::from)
            .and_then(|number| Ok(pidfd_open(number, PidfdFlags::empty())?))
            .context(|| "cannot watch a run")?;
        let due = limit.and_then(|limit| started.checked_add(limit));
        let output = Output::default();
        Ok(Self { at, child: Some(child), pidfd, ours, output, started, limit, asked: None, due })
    }

    /// In another child of the same parent, whose this is not.
    pub(super) fn forget(mut self) {
        self.child = None;
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> [BorrowedFd<'_>; 3] {
        [self.pidfd.as_fd(), self.ours.out.as_fd(), self.ours.err.as_fd()]
    }

    /// When there is something to do though nothing has come.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Asks it to end; nothing will be said about it.
    pub(super) fn stop(&mut self) {
        self.asked = Some(Asked::Interrupted);
        self.ask();
    }

    fn ask(&mut self) {
        // One that has ended needs no signal.
        let _ = pidfd_send_signal(&self.pidfd, rustix::process::Signal::TERM);
        self.due = Instant::now().checked_add(AGAIN);
    }

    /// Takes what it has written, and asks it to end when it is time; whether it has ended.
    ///
    /// # Errors
    /// What read(2) and poll(2) give.
    pub(super) fn turn(&mut self) -> io::Result<bool> {
        // Asked first: what is written before the end is there after it.
        let ended = has_ended(&self.pidfd)?;
        for stream in [Stream::Out, Stream::Err] {
            self.take(stream, ended)?;
        }
        if !ended && self.due.is_some_and(|due| due <= Instant::now()) {
            self.asked = self.asked.or(self.limit.map(Asked::TooLong));
            self.ask();
        }
        Ok(ended)
    }

    /// One read of a run that goes on, so that one that writes for ever keeps nobody else waiting; all that is there of one
    /// that has ended.
    fn take(&mut self, stream: Stream, ended: bool) -> io::Result<()> {
        let mut part = [0; 1 << 16];
        loop {
            let fd = match stream {
                Stream::Out => &self.ours.out,
                Stream::Err => &self.ours.err,
            };
            match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut part)) {
                Ok(0) => return Ok(()),
                Ok(count) => self.output.add(stream, &part[..count]),
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if !ended {
                return Ok(());
            }
        }
    }

    /// What came of one that has ended, with its place in the list.
    pub(super) fn finish(mut self, clocks: &[Clock]) -> (usize, Finished) {
        let took = self.started.elapsed();
        let code = self.reap();
        let said = self.ours.wire.receive::<std::result::Result<(), Error>>();
        let outcome = match (self.asked, said) {
            (Some(Asked::TooLong(limit)), _) => Outcome::TimedOut(limit),
            (_, Ok(Some((Err(error), _)))) => Outcome::Error(error),
            (_, Ok(Some((Ok(()), _)))) if code == 0 => Outcome::Passed,
            (_, Ok(Some((Ok(()), _)))) => Outcome::Failed(code),
            (_, Ok(None) | Err(_)) => Outcome::Error(Error::new(Kind::Failed, "its supervisor died")),
        };
        let output = std::mem::take(&mut self.output);
        (self.at, Finished { clock: clocks[self.at].clone(), outcome, took, output })
    }

    /// Waits for the child, which has ended or will.
    fn reap(&mut self) -> u8 {
        use nix::sys::wait::WaitStatus;
        let Some(child) = self.child.take() else { return 0 };
        loop {
            match waitpid(child, None) {
                Err(Errno::EINTR) => {}
                Ok(WaitStatus::Exited(_, code)) => return u8::try_from(code).unwrap_or(u8::MAX),
                _ => return u8::MAX,
            }
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // Something failed here: no machine is to be left behind.
        while self.child.is_some() {
            self.ask();
            let ended = wait_for_end(&self.pidfd, AGAIN);
            if ended.unwrap_or(true) {
                self.reap();
            }
        }
    }
}

fn has_ended(pidfd: &OwnedFd) -> io::Result<bool> {
    wait_for_end(pidfd, Duration::ZERO)
}

fn wait_for_end(pidfd: &OwnedFd, patience: Duration) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let patience = Timespec::try_from(patience).map_err(|_| io::ErrorKind::InvalidInput)?;
    let ready =
        rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&patience)))?;
    Ok(ready > 0)
}
