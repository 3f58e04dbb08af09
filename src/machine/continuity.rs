//! `--clock=continue`: the file beside the image that says where the clocks of a machine are, kept in step while it runs.
//!
//! It says "running" before anything of the machine runs, so that there is no moment at which a machine that has seen a time
//! could be taken for one that has not. A launch that fails puts back what was there.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpid};

use crate::clock::Offsets;
use crate::clock::state::{self, Course, HostBoot, PACE, State};
use crate::error::{Context, Error, Result};
use crate::plan::LaunchPlan;

/// The clocks of a machine that go on in its next life.
#[derive(Debug)]
pub(super) struct Continuity {
    path: PathBuf,
    machine: (String, String),
    offsets: Offsets,
    /// What they were when it ended.
    last: Option<(i64, i64)>,
    host: HostBoot,
    /// When the file is written next.
    due: Instant,
    /// Whether the last writing failed: that is said once.
    failing: bool,
    phase: Phase,
    owner: Pid,
}

#[derive(Debug)]
enum Phase {
    /// The machine is being launched; this was in the file before.
    Begun(Option<Vec<u8>>),
    Running,
    Stopped,
}

impl Continuity {
    /// The machine of `plan` is about to run.
    ///
    /// # Errors
    /// What keeps the file from being written.
    pub(super) fn begin(plan: &LaunchPlan, path: &Path) -> Result<Self> {
        let before = state::read_bytes(path).context(|| format!("cannot read '{}'", path.display()))?;
        let continuity = Self {
            path: path.to_owned(),
            machine: (plan.name.to_string(), plan.id.to_string()),
            offsets: plan.clocks,
            last: None,
            host: HostBoot::read().context(|| "cannot read the host's clocks")?,
            due: Instant::now() + PACE,
            failing: false,
            phase: Phase::Begun(before),
            owner: getpid(),
        };
        continuity.write(&continuity.state(Course::Running))?;
        Ok(continuity)
    }

    /// It runs; nothing is put back any more.
    pub(super) fn run(&mut self) {
        self.phase = Phase::Running;
    }

    /// In how long the file is to be written.
    pub(super) fn due(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }

    /// Writes the file if it is time. A full disk is no reason to end a machine; what comes back is said, once for as long as
    /// it lasts, and the next time is the next attempt.
    pub(super) fn keep_up(&mut self) -> Result<()> {
        let now = Instant::now();
        if now < self.due {
            return Ok(());
        }
        self.due = now + PACE;
        let written = self.write(&self.state(Course::Running));
        let known = std::mem::replace(&mut self.failing, written.is_err());
        if known { Ok(()) } else { written }
    }

    /// The machine has ended just now.
    ///
    /// # Errors
    /// What keeps the file from being written: the clocks will go on from the last time that it was.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.phase = Phase::Stopped;
        let state = self.state(Course::Stopped);
        self.last = Some((state.monotonic_ns, state.boottime_ns));
        self.write(&state)
    }

    /// What its clocks showed when it ended, in nanoseconds: monotonic and boottime. Of a machine that boots again in place
    /// this counts, whether it could be written or not.
    pub(super) fn last(&self) -> Option<(i64, i64)> {
        self.last
    }

    fn state(&self, course: Course) -> State {
        State::now((&self.machine.0, &self.machine.1), self.offsets, &self.host, course)
    }

    fn write(&self, state: &State) -> Result<()> {
        state.write(&self.path).map_err(|error| cannot_keep(&self.path, &error))
    }
}

/// The refusal to keep clocks in the file at `path`.
pub fn cannot_keep(path: &Path, error: &io::Error) -> Error {
    let error = Error::io(format!("cannot keep the machine's clocks in '{}'", path.display()), error);
    error.hint("--clock=zero starts them anew each time, and keeps nothing")
}

impl Drop for Continuity {
    fn drop(&mut self) {
        if getpid() != self.owner {
            return;
        }
        match &self.phase {
            Phase::Begun(Some(before)) => {
                let _ = state::replace(&self.path, before, Course::Running);
            }
            Phase::Begun(None) => {
                let _ = std::fs::remove_file(&self.path);
            }
            // On the way out of an error: the leader has been killed, or is about to be.
            Phase::Running => {
                let _ = self.write(&self.state(Course::Stopped));
            }
            Phase::Stopped => {}
        }
    }
}
