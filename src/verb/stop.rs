//! The verbs that end machines: `poweroff`, `reboot`, `terminate`.
//!
//! A shutdown is the supervisor's business: it knows what the machine's init takes for a request, and what is to become of
//! the machine afterwards. It is asked with the signals that systemd takes for the same (man 1 systemd, SIGRTMIN+4 and +5).

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Signal as KernelSignal, pidfd_send_signal};

use super::may::{Way, refusal, refused, way};
use super::target::{Target, await_end, deadline, find_all, listed, quoted, watch};
use crate::bus::machined;
use crate::cgroup::PAYLOAD;
use crate::cgroup::freezer::{Freezer, Motion};
use crate::cli::{Shutdown, Terminate};
use crate::error::{Context, Error, Kind, Result};
use crate::image;
use crate::machine::process::{open_leader, open_supervisor};
use crate::machine::record::{Record, Store};
use crate::machine::watch::Outcome;
use crate::signal::Signal;
use crate::sys;

/// How long a shutdown may take: as long as systemd gives a unit to stop (man 5 systemd-system.conf).
const SHUTDOWN: Duration = Duration::from_secs(90);
/// How long the last output may take to reach its reader.
const DRAIN: Duration = Duration::from_millis(500);
/// How long a supervisor may take to clean up after a machine's end.
const CLEANUP: Duration = Duration::from_secs(10);

/// Machines and how to get at each, when that is allowed for all of them.
fn allowed(store: &Store, names: &[String], action: &str) -> Result<(Vec<Target>, Vec<Way>)> {
    let targets = find_all(store, names)?;
    let ways: Result<Vec<_>> = targets.iter().map(|target| way(target, action)).collect();
    Ok((targets, ways?))
}

/// Shuts machines down and waits until they have ended.
///
/// # Errors
/// When a machine is not there, may not be shut down, or has not ended in time; then it goes on with its shutdown.
pub fn poweroff(options: &Shutdown, store: &Store) -> Result<()> {
    const ACTION: &str = "power off";
    let deadline = deadline(options.timeout.as_deref(), Some(SHUTDOWN))?;
    let (targets, ways) = allowed(store, &options.names, ACTION)?;
    let watch = watch(store, &targets)?;
    let asked = ask_all(store, targets, &ways, Request::PowerOff);
    if options.no_wait {
        return asked.verdict;
    }
    let left = await_end(store, &asked.done, watch, deadline, || Ok(()))?;
    asked.verdict?;
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Failed, format!("cannot power off {}", quoted(&left)))
        .because("still running when the time was over; the shutdown goes on")
        .hint(format!("`osier terminate {}` ends it at once", listed(&left))))
}

/// Has machines boot again and waits until they do.
///
/// # Errors
/// When a machine is not there, may not be rebooted, has no init, ends instead, or has not booted in time.
pub fn reboot(options: &Shutdown, store: &Store) -> Result<()> {
    const ACTION: &str = "reboot";
    let deadline = deadline(options.timeout.as_deref(), Some(SHUTDOWN))?;
    let (targets, ways) = allowed(store, &options.names, ACTION)?;
    for target in &targets {
        if let Target::Own(record) = target
            && record.verb != "boot"
        {
            return Err(Error::new(Kind::Unsupported, format!("cannot reboot '{}'", record.name))
                .because("it runs one command and has no init")
                .hint(format!("`osier terminate {}` ends it", record.name)));
        }
    }
    let watch = watch(store, &targets)?;
    let asked = ask_all(store, targets, &ways, Request::Reboot);
    if options.no_wait {
        return asked.verdict;
    }
    let mut ended = Vec::new();
    let mut outcome = Outcome::Came;
    if let Some(mut watch) = watch {
        outcome = watch.until(deadline, || {
            let next = |record: &Record| after(store, record);
            let own = asked.done.iter().filter_map(|target| Some((target, next(target.own()?))));
            let own: Vec<_> = own.collect();
            ended = own.iter().filter(|(_, next)| *next == After::Ended).map(|(target, _)| *target).collect();
            Ok(own.iter().all(|(_, next)| *next != After::Pending))
        })?;
    }
    asked.verdict?;
    if !ended.is_empty() {
        return Err(Error::new(Kind::Failed, format!("cannot reboot {}", quoted(&ended)))
            .because("it has ended and does not boot again"));
    }
    if outcome == Outcome::TimedOut {
        let late: Vec<_> = asked
            .done
            .iter()
            .filter(|target| target.own().is_some_and(|record| after(store, record) == After::Pending))
            .collect();
        return Err(Error::new(Kind::Failed, format!("cannot reboot {}", quoted(&late)))
            .because("not booted again when the time was over; the shutdown goes on"));
    }
    Ok(())
}

/// What a machine that was asked to reboot has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// Nothing yet.
    Pending,
    /// It has booted again.
    Booted,
    /// It is gone.
    Ended,
}

fn after(store: &Store, record: &Record) -> After {
    match store.read(&record.name) {
        Some(found) if found.boot() == record.boot() => After::Pending,
        Some(_) => After::Booted,
        // Its unit boots it again, with another supervisor.
        None if record.unit.as_ref().is_some_and(|unit| unit.ends_with(".service")) => After::Pending,
        None => After::Ended,
    }
}

/// What a supervisor is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    PowerOff,
    Reboot,
}

impl Request {
    fn action(self) -> &'static str {
        match self {
            Self::PowerOff => "power off",
            Self::Reboot => "reboot",
        }
    }

    fn to_supervisor(self) -> Signal {
        match self {
            Self::PowerOff => Signal::realtime(4),
            Self::Reboot => Signal::realtime(5),
        }
    }

    /// Through machined, which can send a signal and no more: what the machine's init is known to take for the request;
    /// `None` when that is no signal. Of a machine that is not osier's, as machinectl does it, for systemd and for sysvinit.
    fn to_leader(self, target: &Target) -> Option<Signal> {
        let wanted = match self {
            Self::PowerOff => image::Shutdown::PowerOff,
            Self::Reboot => image::Shutdown::Reboot,
        };
        match (target, self) {
            (Target::Own(record), _) => match record.init?.way(wanted) {
                image::Way::Signal(signal) => Some(signal),
                image::Way::Command(_) => None,
            },
            (Target::Machined(_), Self::PowerOff) => Some(Signal::realtime(4)),
            (Target::Machined(_), Self::Reboot) => Some(Signal::INT),
        }
    }
}

/// The machines of which it worked, and the first error of the others.
struct Asked {
    done: Vec<Target>,
    verdict: Result<()>,
}

/// Asks all of them, whatever becomes of one.
fn ask_all(store: &Store, targets: Vec<Target>, ways: &[Way], request: Request) -> Asked {
    let mut asked = Asked { done: Vec::new(), verdict: Ok(()) };
    for (target, way) in targets.into_iter().zip(ways) {
        match ask(store, &target, *way, request) {
            Ok(()) => asked.done.push(target),
            Err(error) => asked.verdict = asked.verdict.and(Err(error)),
        }
    }
    asked
}

fn ask(store: &Store, target: &Target, way: Way, request: Request) -> Result<()> {
    let action = request.action();
    let (Target::Own(record), Way::Direct) = (target, way) else {
        let signal = request.to_leader(target).ok_or_else(|| refusal(target.name(), action))?;
        return machined::kill(target.name(), machined::Whom::Leader, signal.number())
            .map_err(|error| refused(target.name(), action, &error));
    };
    let what = || format!("cannot {action} '{}'", record.name);
    let Some(supervisor) = open_supervisor(store, record).context(what)? else { return Ok(()) };
    let frozen = record.cgroup.as_ref().map(|cgroup| Freezer::of(&cgroup.join(PAYLOAD)).asked());
    if matches!(frozen, Some(Ok(Motion::Frozen))) {
        crate::error::say(format_args!("osier: '{}' was frozen and is thawed to shut down\n", record.name));
    }
    match sys::pidfd_send_realtime(supervisor.as_fd(), request.to_supervisor().number()) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result.context(what),
    }
}

/// Ends machines at once: SIGKILL to each leader, with which the kernel kills all in its pid namespace, then waits until
/// nothing is left of them. All machines named have to be there, or none is ended. What osier did not boot, machined ends.
///
/// # Errors
/// When a machine is not there, may not or cannot be killed, or its supervisor does not clean up in time.
pub fn terminate(options: &Terminate, store: &Store) -> Result<()> {
    let deadline = deadline(options.timeout.as_deref(), Some(CLEANUP))?;
    let (targets, ways) = allowed(store, &options.names, "terminate")?;
    let watch = watch(store, &targets)?;
    let mut verdict = Ok(());
    // Who is refused is not waited for.
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for (target, way) in targets.into_iter().zip(ways) {
        if matches!((&target, way), (Target::Own(_), Way::Direct)) {
            own.push(target);
            continue;
        }
        match machined::terminate(target.name()) {
            Ok(()) => others.push(target),
            Err(error) => verdict = verdict.and(Err(refused(target.name(), "terminate", &error))),
        }
    }
    let count = own.len();
    let waited: Vec<Target> = own.into_iter().chain(others).collect();
    let records = waited[..count].iter().filter_map(Target::own);
    let mut direct: Vec<_> = records.map(|record| Execution { record, killed: None }).collect();
    let soon = Instant::now() + DRAIN;
    let first = deadline.map_or(soon, |deadline| deadline.min(soon));
    let mut proceed = || {
        direct.iter_mut().map(|execution| execution.proceed(store)).collect::<Vec<_>>().into_iter().collect()
    };
    let mut left = await_end(store, &waited, watch, Some(first), &mut proceed)?;
    if !left.is_empty() {
        // A supervisor that brings the last output to a reader who takes none leaves off at the next signal.
        let watch = super::target::watch(store, &waited)?;
        left.iter().filter_map(|target| target.own()).for_each(|record| hurry(store, record));
        left = await_end(store, &waited, watch, deadline, &mut proceed)?;
    }
    verdict?;
    if left.is_empty() {
        return Ok(());
    }
    let who = |target: &&Target| match target.own() {
        Some(record) => format!("its supervisor, process {}", record.supervisor),
        None => "systemd-machined".to_owned(),
    };
    let who: Vec<_> = left.iter().map(who).collect();
    Err(Error::new(Kind::Failed, format!("cannot terminate {}", quoted(&left)))
        .because(format!("not cleaned up in time by {}", who.join(", "))))
}

/// Tells a supervisor whose machine was killed not to wait for anybody; one that is gone has not.
fn hurry(store: &Store, record: &Record) {
    if let Ok(Some(supervisor)) = open_supervisor(store, record) {
        let _ = sys::pidfd_send_realtime(supervisor.as_fd(), libc::SIGTERM);
    }
}

/// A machine that is being ended, in whichever boot.
struct Execution<'t> {
    record: &'t Record,
    /// The boot that was killed.
    killed: Option<(u32, u32)>,
}

impl Execution<'_> {
    /// Kills the boot that there is now: a machine that reboots at this moment has a leader that is none any more, and then
    /// another.
    fn proceed(&mut self, store: &Store) -> Result<()> {
        let Some(now) = store.read(&self.record.name) else { return Ok(()) };
        if now.supervisor != self.record.supervisor || self.killed == Some(now.boot()) {
            return Ok(());
        }
        let what = || format!("cannot terminate '{}'", now.name);
        if let Some(leader) = open_leader(store, &now).context(what)? {
            match pidfd_send_signal(&leader, KernelSignal::KILL) {
                Err(Errno::SRCH) => {}
                sent => sent.context(what)?,
            }
        }
        self.killed = Some(now.boot());
        Ok(())
    }
}
