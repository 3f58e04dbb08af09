//! A machine held still: frozen, and let go again whatever becomes of who holds it.
//!
//! A guardian, a child process, waits for the holder's end: one that is killed leaves a machine that goes on, not one that
//! stands still until somebody finds out.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::wait::waitpid;
use nix::unistd::{Pid, setsid};
use rustix::fs::{XattrFlags, getxattr, removexattr, setxattr};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::cgroup::freezer::{Freezer, Motion};
use crate::net::{self, attire::Attire};
use crate::sys::{Forked, close_range, exit_now, fork};

/// The mark of what was given away (man 7 xattr: only CAP_SYS_ADMIN sees it).
const AWAY: &str = "trusted.osier.away";
/// The guardian need not do anything any more.
const STAND_DOWN: u8 = 1;
/// How long processes may take to stop that CRIU has stopped already, or that run.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long they may take for a pause; one that waits for a disk is not waited for.
const MOMENT: Duration = Duration::from_millis(200);

/// The host's ends of a machine's links, and how each was set up.
pub type Links = Vec<(String, Attire)>;

/// The hold on a machine. Dropped, it lets the machine go on, but after [`Hold::leave`].
#[derive(Debug)]
pub struct Hold {
    payload: PathBuf,
    freezer: Freezer,
    links: Links,
    guardian: Option<(Pid, OwnedFd)>,
}

impl Hold {
    /// Prepares to hold what is in the cgroup `payload` and behind `links`; nothing is stopped yet.
    ///
    /// # Errors
    /// What pipe(2) and fork(2) give; `EBUSY` for who has threads.
    pub fn prepare(payload: &Path, links: Links) -> io::Result<Self> {
        let (waits, holds) = pipe_with(PipeFlags::CLOEXEC)?;
        match fork()? {
            Forked::Parent(guardian) => {
                let (payload, freezer) = (payload.to_owned(), Freezer::of(payload));
                Ok(Self { payload, freezer, links, guardian: Some((guardian, holds)) })
            }
            Forked::Child => {
                drop(holds);
                guard(&waits, payload, &links)
            }
        }
    }

    /// Stops what is in the cgroup all at once, for as long as it takes CRIU to stop one after the other; `false` when that cannot be
    /// had in a moment: then it runs.
    ///
    /// # Errors
    /// As [`Freezer::ask`] and [`Freezer::wait`].
    pub fn pause(&self) -> io::Result<bool> {
        self.ask()?;
        if self.freezer.wait(Motion::Frozen, MOMENT)? {
            return Ok(true);
        }
        self.resume()?;
        Ok(false)
    }

    /// Lets go what [`Hold::pause`] has stopped and CRIU has not.
    ///
    /// # Errors
    /// As [`Freezer::ask`].
    pub fn resume(&self) -> io::Result<()> {
        self.freezer.ask(Motion::Running)
    }

    /// Asks for it and comes back at once: what CRIU has stopped counts as frozen when it is let go.
    ///
    /// # Errors
    /// As [`Freezer::ask`].
    pub fn ask(&self) -> io::Result<()> {
        self.freezer.ask(Motion::Frozen)
    }

    /// Nothing gets through its links until it goes on. The kernel would acknowledge for it what its processes never get, and
    /// say goodbye to everybody at its end.
    ///
    /// # Errors
    /// As [`net::lower`].
    pub fn cut(&self) -> io::Result<()> {
        self.links.iter().try_for_each(|(link, _)| net::lower(link))
    }

    /// Waits until everything stands still; `false` when it does not in ten seconds.
    ///
    /// # Errors
    /// As [`Freezer::wait`].
    pub fn wait(&self) -> io::Result<bool> {
        self.freezer.wait(Motion::Frozen, PATIENCE)
    }

    /// Whether nobody has let it go on meanwhile, as a request to shut down does.
    ///
    /// # Errors
    /// As [`Freezer::asked`].
    pub fn is_held(&self) -> io::Result<bool> {
        Ok(self.freezer.asked()? == Motion::Frozen)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// As [`Freezer::ask`].
    pub fn release(mut self) -> io::Result<()> {
        let joined = join(&self.links);
        let thawed = take_back(&self.payload).and_then(|()| self.freezer.ask(Motion::Running));
        self.dismiss();
        thawed.and(joined)
    }

    /// From now on it stays as it is, whoever dies and whatever is dropped, until [`Hold::release`]: it runs elsewhere, or goes on
    /// from what was saved. That is marked on its cgroup ([`is_away`]).
    pub fn leave(&mut self) {
        // Without the mark a request to shut down would have it run for that.
        let _ = setxattr(&self.payload, AWAY, &[], XattrFlags::empty());
        self.dismiss();
    }

    fn dismiss(&mut self) {
        if let Some((guardian, holds)) = self.guardian.take() {
            let _ = rustix::io::write(&holds, &[STAND_DOWN]);
            drop(holds);
            let _ = waitpid(guardian, None);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The guardian does it all the same when this fails.
        if let Some((guardian, holds)) = self.guardian.take() {
            let _ = join(&self.links);
            let _ = self.freezer.ask(Motion::Running);
            drop(holds);
            let _ = waitpid(guardian, None);
        }
    }
}

/// Whether what stands still in the cgroup `payload` was given away: it may run elsewhere, and must not run here for anything but that
/// an operator says so.
pub fn is_away(payload: &Path) -> bool {
    getxattr(payload, AWAY, &mut [0_u8; 0][..]).is_ok()
}

/// Says that it is not.
///
/// # Errors
/// What removexattr(2) gives; that it was not said before is none.
pub fn take_back(payload: &Path) -> io::Result<()> {
    match removexattr(payload, AWAY) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Puts right what [`Hold::cut`] did; nothing where it did nothing.
fn join(links: &Links) -> io::Result<()> {
    links.iter().map(|(link, attire)| net::raise_again(link, attire)).fold(Ok(()), io::Result::and)
}

/// The guardian's life: of its parent it keeps the pipe, and ^C at the terminal is not for it.
fn guard(waits: &OwnedFd, payload: &Path, links: &Links) -> ! {
    let _ = setsid();
    let kept = waits.as_raw_fd();
    if kept > 0 {
        let _ = close_range(0, kept - 1);
    }
    let _ = close_range(kept + 1, i32::MAX);
    let mut word = [0];
    let said = rustix::io::retry_on_intr(|| rustix::io::read(waits, &mut word));
    if !matches!(said, Ok(1)) {
        let _ = join(links);
        let _ = Freezer::of(payload).ask(Motion::Running);
    }
    exit_now(0)
}
