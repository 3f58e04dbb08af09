//! One boot of a machine: its leader, its link, its cgroup, its unit. Owned here from the moment each is made, so that a
//! launch that fails in the middle, and every end, give back exactly what there is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal as KernelSignal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::record::Checkpointable;
use super::tenure::Tenure;
use super::tether::Tether;
use crate::cgroup::Cgroup;
use crate::error::{Context, Error, Kind, Result};
use crate::exit::Ended;
use crate::net::VethGuard;
use crate::signal::Signal;

/// How long the end of a process takes at most, from its first sign on.
const DEATH: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// The leader of a machine: a child of this process.
#[derive(Debug)]
pub struct Leader {
    /// In the host's pid namespace.
    pid: u32,
    pidfd: OwnedFd,
    ended: Option<Ended>,
}

impl Leader {
    /// Takes charge of a child; it is killed when this is dropped before its end was seen.
    pub fn new(pid: u32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, ended: None }
    }

    /// Its pid on the host.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its pidfd: readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it has ended, waited for or not.
    pub fn has_ended(&self) -> bool {
        self.ends_within(Timespec::default())
    }

    fn ends_within(&self, time: Timespec) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&time))).is_ok_and(|ready| ready > 0)
    }

    /// Whether it has ended, or is about to, because somebody killed it: what it had open is closed a while before its end is seen.
    pub fn was_killed(&mut self) -> bool {
        self.ends_within(DEATH) && self.wait().is_ok_and(|ended| ended == Ended::Killed(libc::SIGKILL))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        crate::sys::pidfd_send_realtime(self.pidfd.as_fd(), signal.number())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What waitid(2) gives.
    pub fn wait(&mut self) -> io::Result<Ended> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        let status =
            rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED))?;
        let status = status.ok_or(io::ErrorKind::WouldBlock)?;
        let ended = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended::Exited(code),
            (None, Some(libc::SIGHUP)) => Ended::Rebooted,
            (None, Some(libc::SIGINT)) => Ended::PoweredOff,
            (None, signal) => Ended::Killed(signal.unwrap_or(libc::SIGKILL)),
        };
        self.ended = Some(ended);
        Ok(ended)
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if self.ended.is_none() && pidfd_send_signal(&self.pidfd, KernelSignal::KILL).is_ok() {
            let _ = self.wait();
        }
    }
}

/// A machine that runs, or is on its way to.
#[derive(Debug)]
pub struct Running {
    // In the order in which they are given back when dropped: first the processes.
    /// Its leader.
    pub leader: Leader,
    /// Its link to the host.
    pub link: Option<VethGuard>,
    /// Its cgroup.
    pub cgroup: Option<Cgroup>,
    /// Its unit under systemd.
    pub unit: Option<String>,
    /// How it can be saved and restored, where it can.
    pub checkpointable: Option<Checkpointable>,
    /// The socket on which its init reports.
    pub notify: Option<OwnedFd>,
    /// What it hangs on, of which memory is still to come.
    pub tether: Option<Tether>,
}

impl Running {
    /// A machine of which there is only the leader.
    pub fn new(leader: Leader) -> Self {
        Self {
            leader,
            link: None,
            cgroup: None,
            unit: None,
            checkpointable: None,
            notify: None,
            tether: None,
        }
    }

    /// Gives back what this boot had, after the leader's end: cgroup, unit and registration, link. Name and tree stay
    /// held by `tenure`.
    ///
    /// # Errors
    /// The first of what went wrong; the rest was given back all the same.
    pub fn close(self, tenure: &mut Tenure) -> Result<Ended> {
        let Self { mut leader, link, cgroup, unit, checkpointable: _, notify, tether } = self;
        drop(notify);
        let noted = tether.map_or(Ok(()), |tether| {
            tether.close().context(|| "cannot write down that all of its memory was here")
        });
        let ended = leader.wait().context(|| "cannot wait for the machine's first process");
        let place = cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
        let emptied = cgroup.map_or(Ok(()), |cgroup| {
            let path = cgroup.path().display().to_string();
            cgroup.close().context(|| format!("cannot remove the cgroup '{path}'"))
        });
        let released = release(unit, place, tenure);
        let unlinked = link.map_or(Ok(()), |link| {
            let name = link.name().to_owned();
            link.close().context(|| format!("cannot remove the link '{name}'"))
        });
        let ended = ended?;
        [noted, emptied, released, unlinked].into_iter().collect::<Result<()>>()?;
        Ok(ended)
    }
}

/// Ends the unit and what machined knows of it; where the registrar is lost PID 1 sees that the machine's directory is empty.
fn release(unit: Option<String>, place: Option<PathBuf>, tenure: &mut Tenure) -> Result<()> {
    let (Some(unit), Some((registrar, _))) = (unit, tenure.registrar()) else { return Ok(()) };
    registrar
        .release()
        .map_err(|error| Error::new(Kind::Failed, format!("cannot end the unit '{unit}'")).because(error))?;
    // PID 1 gives up on a unit's directory where others below it go away at the same time, which are many after a kill. It is
    // not to go before the unit: with it goes what PID 1 was to be told.
    let _ = place.map(std::fs::remove_dir);
    Ok(())
}
