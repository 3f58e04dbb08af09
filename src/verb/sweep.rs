//! `osier run --clock-sweep`: one command under several clocks, each time in a machine of its own, and what came of it.
//!
//! Everything that can be wrong is looked for before the first run. The runs are forks of this process, which stays one
//! thread and waits for them with poll(2); it ends after the last of them, also when it is interrupted, and leaves nothing.

mod clocks;
mod junit;
mod output;
mod report;
mod under_way;

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use super::lifetime::{Company, Sources, Wanted, host, supervise_to_end};
use super::target::patience;
use super::{print, run};
use crate::cli::{Invocation, Run};
use crate::console::Mode;
use crate::error::{Context, Error, Result};
use crate::exit;
use crate::mount::op::Access;
use crate::name::MachineName;
use crate::plan::LaunchPlan;
use crate::settings::{Setting, Settings};
use crate::spec::{Clocks, Layer, MachineSpec};
use crate::sys::{Forked, fork};
use clocks::Clock;
use output::Output;
use under_way::{Ends, UnderWay};

/// A test failed under at least one clock, or took too long.
const FAILED: u8 = 1;

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// The command exited with 0.
    Passed,
    /// With something else; 128 and the signal's number where one killed it.
    Failed(u8),
    /// It was ended after this time.
    TimedOut(Duration),
    /// osier could not run it.
    Error(Error),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed(code) => {
                write!(f, "exit status {code}")?;
                let signal = code
                    .checked_sub(128)
                    .and_then(|number| nix::sys::signal::Signal::try_from(i32::from(number)).ok());
                signal.map_or(Ok(()), |signal| write!(f, " ({signal})"))
            }
            Self::TimedOut(limit) => write!(f, "took longer than {}", report::length(*limit)),
            Self::Error(error) => write!(f, "not run: {error}"),
        }
    }
}

/// A run that is over.
#[derive(Debug)]
struct Finished {
    clock: Clock,
    outcome: Outcome,
    /// From the fork until the machine was gone.
    took: Duration,
    output: Output,
}

/// Runs the command under each clock and reports; the exit code to leave with. In the runs, which are children, their own.
///
/// # Errors
/// What is wrong with the command line or the tree, before anything runs; what keeps the report from being written.
pub(super) fn execute(options: &Run, list: &str, said: &Settings) -> Result<u8> {
    let clocks = clocks::parse(list)?;
    // What a settings file says of clocks, such as to keep them, is not for a sweep.
    let said = &Settings { clock: Some(Setting::flag("--clock-sweep", "host")), ..said.clone() };
    let timeout = patience(options.sweep.timeout.as_deref(), None)?;
    let quiet =
        Invocation { dry_run: false, quiet: true, settings: options.options.invocation.settings.clone() };
    let plans = decide(options, said, &clocks)?;
    if options.options.invocation.dry_run {
        let texts: Vec<_> = plans.iter().map(ToString::to_string).collect();
        print(&texts.join("\n"))?;
        return Ok(0);
    }
    drop(plans);
    options.sweep.junit.as_deref().map_or(Ok(()), junit::check)?;
    let started = Instant::now();
    let sweep = Sweep { options, said, invocation: &quiet, clocks: &clocks, timeout };
    match sweep.run()? {
        Swept::Child(code) => Ok(code),
        Swept::Interrupted(signal) => Ok(u8::try_from(128 + signal).unwrap_or(exit::OWN_FAILURE)),
        Swept::Finished(finished) => {
            let verdict = verdict(&finished);
            if !options.options.invocation.quiet {
                print(&report::text(&finished))?;
            }
            if let Some(path) = &options.sweep.junit {
                junit::write(path, options, &finished, started.elapsed())?;
            }
            Ok(verdict)
        }
    }
}

/// osier's own failure outweighs the test's: it leaves unknown what the test would have said.
fn verdict(finished: &[Finished]) -> u8 {
    let is_error = |run: &Finished| matches!(run.outcome, Outcome::Error(_));
    match finished {
        runs if runs.iter().any(is_error) => exit::OWN_FAILURE,
        runs if runs.iter().any(|run| run.outcome != Outcome::Passed) => FAILED,
        _ => 0,
    }
}

/// What each run would do. The first one warns of what is odd in settings files, so that it is said once.
fn decide(options: &Run, said: &Settings, clocks: &[Clock]) -> Result<Vec<LaunchPlan>> {
    let invocation = &options.options.invocation;
    let quiet = Invocation { dry_run: false, quiet: true, settings: invocation.settings.clone() };
    let plan = |(at, clock): (usize, &Clock)| {
        let invocation = if at == 0 { invocation } else { &quiet };
        let sources = Sources::find(&options.tree, said, invocation)?;
        let place = Place { sweep: std::process::id(), at };
        LaunchPlan::resolve(&spec(&sources, place, clock)?, &host()?)
    };
    clocks.iter().enumerate().map(plan).collect()
}

/// The machine for one clock: as it would be without the sweep, but for its name, its clocks and what it writes to. Its host
/// name is the same each time, so that nothing but the clock differs.
fn spec(sources: &Sources<'_>, place: Place, clock: &Clock) -> Result<MachineSpec> {
    let mut spec = sources.spec(run::look)?;
    spec.name = name(&spec.name, place);
    spec.clocks = Clocks::both(clock.wanted);
    spec.console = Mode::Pipe;
    if spec.root.access == Access::ReadWrite {
        spec.root.layer = Layer::Scratch;
    }
    Ok(spec)
}

/// Which run of which sweep.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Its process.
    sweep: u32,
    /// Its clock's place in the list.
    at: usize,
}

/// A name that no other run has, of this sweep or of another one at the same time.
fn name(base: &MachineName, Place { sweep, at }: Place) -> MachineName {
    let tail = format!("-clock-{sweep}-{}", at + 1);
    let head: String = base.as_str().chars().take(MachineName::MAX_LEN - tail.len()).collect();
    let name = format!("{}{tail}", head.trim_end_matches(['-', '.']));
    // Letters and digits in front, and a tail that may stand in a name: it is one.
    name.parse().unwrap_or_else(|_| base.clone())
}

struct Sweep<'a> {
    options: &'a Run,
    said: &'a Settings,
    invocation: &'a Invocation,
    clocks: &'a [Clock],
    timeout: Option<Duration>,
}

/// Where a sweep has come out.
enum Swept {
    /// In the process that was asked for it, after all runs.
    Finished(Vec<Finished>),
    /// There, after a signal that ended it.
    Interrupted(i32),
    /// In one of the runs.
    Child(u8),
}

type Signals = SignalDelivery<UnixStream, SignalOnly>;

impl Sweep<'_> {
    fn run(&self) -> Result<Swept> {
        let sweep = std::process::id();
        let (read_end, write_end) = UnixStream::pair().context(|| "cannot make a socket")?;
        let mut signals = Signals::with_pipe(read_end, write_end, SignalOnly, [SIGINT, SIGTERM, SIGHUP])
            .context(|| "cannot catch signals")?;
        let jobs = self.options.sweep.jobs.or(available_parallelism().ok()).map_or(1, usize::from);
        let mut waiting: VecDeque<usize> = (0..self.clocks.len()).collect();
        let (mut running, mut finished) = (Vec::<UnderWay>::new(), Vec::new());
        let mut interrupted = None;
        loop {
            while running.len() < jobs
                && let Some(at) = waiting.pop_front()
            {
                let (ours, theirs) = Ends::pair().context(|| "cannot make a pipe")?;
                match fork().context(|| "cannot fork")? {
                    Forked::Parent(child) => running.push(UnderWay::new(at, child, ours, self.timeout)?),
                    Forked::Child => {
                        // None of it is this process's: not the other runs, nor what their end is reported to.
                        running.into_iter().for_each(UnderWay::forget);
                        drop((ours, signals));
                        let place = Place { sweep, at };
                        return theirs.live(|| self.live(place)).map(Swept::Child);
                    }
                }
            }
            if running.is_empty() {
                break;
            }
            wait(&running, &signals).context(|| "cannot wait for the runs")?;
            if let Some(signal) = signals.pending().last() {
                interrupted = Some(signal);
                waiting.clear();
                running.iter_mut().for_each(UnderWay::stop);
            }
            for at in (0..running.len()).rev() {
                if running[at].turn().context(|| "cannot hear the runs")? {
                    finished.push(running.swap_remove(at).finish(self.clocks));
                }
            }
        }
        if let Some(signal) = interrupted {
            return Ok(Swept::Interrupted(signal));
        }
        finished.sort_by_key(|(at, _)| *at);
        Ok(Swept::Finished(finished.into_iter().map(|(_, run)| run).collect()))
    }

    /// A run's life, from its own plan: the host's clocks have gone on since all were decided.
    fn live(&self, place: Place) -> Result<u8> {
        let sources = Sources::find(&self.options.tree, self.said, self.invocation)?;
        let spec = spec(&sources, place, &self.clocks[place.at])?;
        let plan = LaunchPlan::resolve(&spec, &host()?)?;
        supervise_to_end(Wanted::plain(spec, plan), Company::default(), &sources)
    }
}

/// Waits until there is something to do.
fn wait(running: &[UnderWay], signals: &Signals) -> std::io::Result<()> {
    let mut fds = vec![PollFd::new(signals.get_read().as_fd(), PollFlags::POLLIN)];
    fds.extend(running.iter().flat_map(UnderWay::interest).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    let next = running.iter().filter_map(UnderWay::due).min();
    let left = next.map(|next| next.saturating_duration_since(Instant::now()));
    // Rounded up: a poll that ends before the time would be repeated until it is over.
    let left = left.map_or(PollTimeout::NONE, |left| {
        PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut fds, left) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn finished(outcomes: &[Outcome]) -> Vec<Finished> {
        let run = |outcome: &Outcome| Finished {
            clock: clocks::parse("0").unwrap().remove(0),
            outcome: outcome.clone(),
            took: Duration::ZERO,
            output: Output::default(),
        };
        outcomes.iter().map(run).collect()
    }

    #[test]
    fn the_exit_code_tells_a_failed_test_from_one_that_was_not_run() {
        let error = Outcome::Error(Error::new(Kind::Failed, "x"));
        for (outcomes, code) in [
            (&[Outcome::Passed, Outcome::Passed][..], 0),
            (&[Outcome::Passed, Outcome::Failed(7)], 1),
            (&[Outcome::TimedOut(Duration::ZERO)], 1),
            (&[Outcome::Failed(7), error], 125),
        ] {
            assert_eq!(verdict(&finished(outcomes)), code, "{outcomes:?}");
        }
    }

    #[test]
    fn outcomes_are_words() {
        assert_eq!(Outcome::Failed(3).to_string(), "exit status 3");
        assert_eq!(Outcome::Failed(139).to_string(), "exit status 139 (SIGSEGV)");
        assert_eq!(Outcome::Failed(255).to_string(), "exit status 255");
        assert_eq!(Outcome::TimedOut(Duration::from_millis(1500)).to_string(), "took longer than 1.5s");
    }

    #[test]
    fn a_long_name_stays_one() {
        let base: MachineName = format!("{}.-x", "a".repeat(40)).replace(".-", ".").parse().unwrap();
        let longest: MachineName = "b".repeat(64).parse().unwrap();
        for base in [base, longest] {
            let name = |at| name(&base, Place { sweep: 4_194_304, at });
            let (one, other) = (name(0), name(1));
            assert_ne!(one, other);
            assert!(one.as_str().ends_with("-clock-4194304-1"), "{one}");
        }
    }
}
