//! A request that is to reach a machine's first process.
//!
//! The kernel drops what is sent to the first process of a pid namespace while it has no handler for it (man 7
//! pid_namespaces): an init that has just been executed would never hear of a request that came a moment too early, and
//! its machine would be waited for in vain. Nothing tells when a handler is there, so that is looked at, ever less often.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use super::running::{Leader, Running};
use crate::cgroup::freezer::{Freezer, Motion};
use crate::error::{Context, Error, Result};
use crate::signal::Signal;

/// How soon is looked again for a handler; twice as late each time, up to [`SELDOM`].
const SOON: Duration = Duration::from_millis(10);
/// How often is looked of an init that will probably never have one.
const SELDOM: Duration = Duration::from_secs(1);

/// The last request, as long as it has not been sent.
#[derive(Debug, Default)]
pub(super) struct Errand(Option<Unheard>);

#[derive(Debug)]
struct Unheard {
    signal: Signal,
    next: Instant,
    pace: Duration,
}

impl Errand {
    /// Sends `signal` as soon as it is heard; the request before it is forgotten. A machine that is frozen is thawed: it
    /// would hear of it when somebody else thaws it, and a service manager would lose patience.
    ///
    /// # Errors
    /// What pidfd_send_signal(2) and the freezer give; that the machine has ended is none.
    pub(super) fn send(&mut self, running: &Running, signal: Signal) -> Result<()> {
        self.0 = None;
        if signal == Signal::KILL {
            return deliver(&running.leader, signal);
        }
        thaw(running).context(|| "cannot thaw the machine")?;
        if is_heard(&running.leader, signal) {
            return deliver(&running.leader, signal);
        }
        self.0 = Some(Unheard { signal, next: Instant::now() + SOON, pace: SOON });
        Ok(())
    }

    /// Tries again if it is time.
    ///
    /// # Errors
    /// As [`Errand::send`].
    pub(super) fn proceed(&mut self, leader: &Leader) -> Result<()> {
        let now = Instant::now();
        let Some(unheard) = self.0.as_mut().filter(|unheard| unheard.next <= now) else { return Ok(()) };
        if is_heard(leader, unheard.signal) {
            let signal = unheard.signal;
            self.0 = None;
            return deliver(leader, signal);
        }
        unheard.pace = (unheard.pace * 2).min(SELDOM);
        unheard.next = now + unheard.pace;
        Ok(())
    }

    /// After how long it wants to try again.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.0.as_ref().map(|unheard| unheard.next.saturating_duration_since(Instant::now()))
    }
}

fn deliver(leader: &Leader, signal: Signal) -> Result<()> {
    match leader.signal(signal) {
        // It ended meanwhile, which is what was asked.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result.map_err(|error| Error::io(format!("cannot send {signal} to the machine"), &error)),
    }
}

/// Whether the leader has a handler for it, or blocks it and will look for it (signalfd(2), as systemd does).
fn is_heard(leader: &Leader, signal: Signal) -> bool {
    match fs::read_to_string(format!("/proc/{}/status", leader.pid())) {
        Ok(status) => hears(&status, signal),
        // Without /proc there is but one try.
        Err(_) => true,
    }
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
    }
}
