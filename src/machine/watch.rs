//! Waiting for what becomes of machines, in the kernel: a record that is written or removed shows in its directory
//! (inotify(7)), a supervisor that is killed in its pidfd.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use super::process::open_supervisor;
use super::record::{Record, Store};
use crate::error::{Context, Result};

/// Whether what was waited for has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has.
    Came,
    /// It has not, and the time is over.
    TimedOut,
}

/// News of some machines.
#[derive(Debug)]
pub struct Watch {
    records: OwnedFd,
    /// Those that live.
    supervisors: Vec<OwnedFd>,
}

impl Watch {
    /// Watches from now on: opened before something is asked of the machines, it misses nothing.
    ///
    /// # Errors
    /// What inotify_add_watch(2) and pidfd_open(2) give.
    pub fn open<'r>(store: &Store, records: impl IntoIterator<Item = &'r Record>) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // The first record of a machine is written into its file, a later one replaces it, the end removes it.
        let news = WatchFlags::MODIFY | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        inotify::add_watch(&inotify, store.directory(), news | WatchFlags::ONLYDIR)?;
        let mut supervisors = Vec::new();
        for record in records {
            supervisors.extend(open_supervisor(store, record)?);
        }
        Ok(Self { records: inotify, supervisors })
    }

    /// Waits until `is_so`, which is asked now and whenever there are news. Without a deadline for as long as it takes.
    ///
    /// # Errors
    /// What poll(2) gives, and what `is_so` does.
    pub fn until(
        &mut self,
        deadline: Option<Instant>,
        mut is_so: impl FnMut() -> Result<bool>,
    ) -> Result<Outcome> {
        while !is_so()? {
            if !self.await_news(deadline).context(|| "cannot wait for the machines")? {
                return Ok(Outcome::TimedOut);
            }
        }
        Ok(Outcome::Came)
    }

    /// `false` when the time is over.
    fn await_news(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        let left = match deadline.map(|deadline| deadline.checked_duration_since(Instant::now())) {
            Some(None) => return Ok(false),
            // More than the kernel can count is no end either.
            Some(Some(left)) => Timespec::try_from(left).ok(),
            None => None,
        };
        let mut fds = vec![PollFd::new(&self.records, PollFlags::IN)];
        fds.extend(self.supervisors.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // One that has ended stays ready: it is news once.
        let mut ended = fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
        self.supervisors.retain(|_| ended.next() == Some(false));
        self.forget_events()?;
        Ok(true)
    }

    /// What happened to which file is of no interest: the records are looked at anyway.
    fn forget_events(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.records, &mut buffer);
        loop {
            match events.next() {
                Ok(_) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
