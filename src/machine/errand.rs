//! A request that is to reach a machine's init, by a signal or by a command inside.
//!
//! The kernel drops what is sent to the first process of a pid namespace while it has no handler for it (man 7
//! pid_namespaces): an init that has just been executed would never hear of a request that came a moment too early, and
//! its machine would be waited for in vain. Nothing tells when a handler is there, so that is looked at, ever less often. A
//! command that fails is tried again for the same reason: the socket on which the init listens may not be there yet.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::command::Child;
use super::hold::is_away;
use super::running::{Leader, Running};
use crate::cgroup::Cgroup;
use crate::cgroup::freezer::{Freezer, Motion};
use crate::error::{Context, Error, Kind, Result};
use crate::exit;
use crate::image::Way;
use crate::signal::Signal;

/// How soon is looked again for a handler; twice as late each time, up to [`SELDOM`].
const SOON: Duration = Duration::from_millis(10);
/// After how long a command that did what it can do is run again, when the machine is still there: runit takes one that
/// comes in its first stage and forgets it. That an init goes down already is no harm to the same request.
const AGAIN: Duration = Duration::from_secs(5);
/// How often is looked of an init that will probably never have one.
const SELDOM: Duration = Duration::from_secs(1);

/// The last request, as long as it may not have arrived.
#[derive(Debug, Default)]
pub(super) struct Errand(Option<Pending>);

#[derive(Debug)]
struct Pending {
    way: Way,
    /// The command that runs.
    child: Option<Child>,
    next: Instant,
    pace: Duration,
}

impl Errand {
    /// Asks by `way` as soon as that is heard; the request before it is forgotten. A machine that is frozen is thawed: it
    /// would hear of it when somebody else thaws it, and a service manager would lose patience. One that was given away is
    /// killed instead: it may run elsewhere.
    ///
    /// # Errors
    /// What fork(2), pidfd_send_signal(2) and the freezer give; that the machine has ended is none.
    pub(super) fn send(&mut self, running: &Running, way: Way) -> Result<()> {
        let payload = running.cgroup.as_ref().map(Cgroup::payload);
        if way == Way::Signal(Signal::KILL) || payload.is_some_and(|payload| is_away(&payload)) {
            // A command that runs stays: the kernel holds the leader's end back until the parent of each process in the
            // machine has waited for it (kernel/pid_namespace.c, zap_pid_ns_processes): for the command that is its [`Child`].
            return deliver(&running.leader, Signal::KILL);
        }
        self.0 = None;
        thaw(running).context(|| "cannot thaw the machine")?;
        let child = match way {
            Way::Signal(signal) if is_heard(&running.leader, signal) => {
                return deliver(&running.leader, signal);
            }
            Way::Signal(_) => None,
            // Where no process is to be had now, as at the unit's limit of tasks, it is tried again.
            Way::Command(argv) => Child::start(argv, running).ok(),
        };
        self.0 = Some(Pending { way, child, next: Instant::now() + SOON, pace: SOON });
        Ok(())
    }

    /// Hears of a command that has ended, and tries again if it is time. What comes back with no error is a request that
    /// the machine's init will never hear, and why: it is not tried again.
    ///
    /// # Errors
    /// As [`Errand::send`].
    pub(super) fn proceed(&mut self, running: &Running) -> Result<Option<Error>> {
        let now = Instant::now();
        let Some(pending) = &mut self.0 else { return Ok(None) };
        if let Some(child) = &mut pending.child {
            let Some(code) = child.code() else { return Ok(None) };
            pending.child = None;
            // A command that a signal ended was overtaken by what it had asked for.
            if code == 0 || code > exit::NOT_FOUND {
                pending.next = now + AGAIN;
            } else if code >= exit::CANNOT_EXECUTE {
                let way = pending.way;
                self.0 = None;
                return Ok(Some(unheard(way, code)));
            } else {
                pending.delay(now);
            }
            return Ok(None);
        }
        if pending.next > now {
            return Ok(None);
        }
        match pending.way {
            Way::Signal(signal) if is_heard(&running.leader, signal) => {
                self.0 = None;
                return deliver(&running.leader, signal).map(|()| None);
            }
            Way::Signal(_) => pending.delay(now),
            Way::Command(argv) => match Child::start(argv, running) {
                Ok(child) => pending.child = Some(child),
                Err(_) => pending.delay(now),
            },
        }
        Ok(None)
    }

    /// After how long it wants to try again.
    pub(super) fn patience(&self) -> Option<Duration> {
        let waiting = self.0.as_ref().filter(|pending| pending.child.is_none());
        waiting.map(|pending| pending.next.saturating_duration_since(Instant::now()))
    }

    /// Readable when a command has ended.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_ref()?.child.as_ref()?.pidfd())
    }
}

impl Pending {
    fn delay(&mut self, now: Instant) {
        self.pace = (self.pace * 2).min(SELDOM);
        self.next = now + self.pace;
    }
}

fn unheard(way: Way, code: u8) -> Error {
    let error = Error::new(Kind::Failed, format!("cannot ask the machine by '{way}'"));
    if code == exit::NOT_FOUND {
        error.because("there is no such command inside")
    } else {
        error.because("it cannot be executed inside")
    }
}

fn deliver(leader: &Leader, signal: Signal) -> Result<()> {
    match leader.signal(signal) {
        // It ended meanwhile, which is what was asked.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result.map_err(|error| Error::io(format!("cannot send {signal} to the machine"), &error)),
    }
}

/// Whether the leader has a handler for it, or blocks it and will look for it (signalfd(2), as systemd does), or looks for
/// signals now, as busybox does: while sigtimedwait(2) waits, what it waits for does not show as blocked.
fn is_heard(leader: &Leader, signal: Signal) -> bool {
    let read = |file| fs::read_to_string(format!("/proc/{}/{file}", leader.pid()));
    match (read("status"), read("syscall")) {
        (Ok(status), Ok(call)) => hears(&status, signal) || waits_for_signals(&call),
        // Without /proc there is but one try.
        _ => true,
    }
}

/// proc_pid_syscall(5): the number of the call in which the process waits, its arguments, two addresses.
fn waits_for_signals(call: &str) -> bool {
    call.split(' ').next().and_then(|number| number.parse().ok()) == Some(libc::SYS_rt_sigtimedwait)
}

/// The masks of proc(5), status: hexadecimal, the lowest bit is signal 1.
fn hears(status: &str, signal: Signal) -> bool {
    let masks =
        status.lines().filter_map(|line| line.strip_prefix("SigBlk:").or(line.strip_prefix("SigCgt:")));
    masks
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask >> (signal.number() - 1) & 1 == 1)
}

fn thaw(running: &Running) -> io::Result<()> {
    let Some(cgroup) = &running.cgroup else { return Ok(()) };
    let freezer = Freezer::of(&cgroup.payload());
    match freezer.asked() {
        Ok(Motion::Frozen) => freezer.ask(Motion::Running),
        Ok(Motion::Running) => Ok(()),
        // A kernel before 5.2 cannot freeze either.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_caught_or_blocked_is_heard() {
        let status =
            "Name:\tinit\nSigBlk:\t0000000000000001\nSigIgn:\t0000002000000000\nSigCgt:\t0000004000004000\n";
        let heard: Vec<_> =
            (1..=64).filter(|number: &i32| hears(status, number.to_string().parse().unwrap())).collect();
        assert_eq!(heard, [1, 15, 39]);
        assert!(!hears("", Signal::TERM));
        let call = format!("{} 0x7ffc 0x7ffd 0x0 0x8 0x0 0x0 0x7ffb 0x45\n", libc::SYS_rt_sigtimedwait);
        assert!(waits_for_signals(&call));
        assert!(!waits_for_signals("running\n") && !waits_for_signals(""));
    }
}
