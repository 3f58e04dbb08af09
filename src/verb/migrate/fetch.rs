//! Post-copy at the target: the machine runs before all its memory is here, and what is missing is fetched from the source.
//!
//! Between `Go` and the last page the machine is on neither side alone. When the rest cannot come, it ends *before* the
//! [`LazyPages`] do, without whom the kernel would give it zeros; and a receiver that is killed lets go of its [`Bringer`], at which
//! the supervisor does the same. What has become of it is what that one has written down.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Signal, pidfd_send_signal};

use super::stock::Stock;
use super::target::{PULSE, Word, hear_restored, lost};
use crate::criu::images::{Pages, page};
use crate::criu::{Asked, Criu, LazyPages};
use crate::error::{Context, Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::launch::Lazily;
use crate::machine::process::open_leader;
use crate::machine::record::Store;
use crate::machine::snapshot;
use crate::machine::tether::{Bringer, Tether};
use crate::migration::ledger::Entry;
use crate::migration::protocol::{Fate, Fetched, Fetching, Restoring};
use crate::verb::start;
use crate::wire::Wire;

/// How long a machine may take to end that was killed.
const PATIENCE: Duration = Duration::from_secs(30);

/// So many pages are asked for at once at most. All of them come before the next are asked for: while the source waits for its answers
/// to be read it reads nothing, and nothing is to wait for that.
const BATCH: usize = 32;

/// Who brings a machine's memory.
pub(super) struct Porter {
    pages: LazyPages,
    stock: Stock,
    bringer: Bringer,
}

/// What is fetched for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host<'a> {
    /// Where the machine is to be found.
    pub(super) store: &'a Store,
    /// Its name here.
    pub(super) name: &'a str,
    /// What nobody is to be interrupted by once it runs.
    pub(super) interrupt: &'a Interrupt,
}

/// Refuses to begin what CRIU cannot do here.
pub(super) fn require(criu: &Criu) -> Result<()> {
    if criu.features().context(|| "cannot ask CRIU")?.lazy_pages {
        return Ok(());
    }
    Err(Error::new(Kind::Unsupported, "--postcopy")
        .because("CRIU cannot fetch pages when they are touched there (CONFIG_USERFAULTFD)")
        .hint("leave it out: all memory is sent while the machine stands still"))
}

impl Porter {
    /// Starts CRIU's half for a restore from `images`; the supervisor is to have the other part.
    pub(super) fn start(criu: &Criu, images: &Path, name: &str) -> Result<(Self, Lazily)> {
        let work = images.parent().unwrap_or(images).to_owned();
        let log = snapshot::log_path(&format!("{name}.lazy-pages"))?;
        let pages = criu.lazy_pages(images, &work, &log);
        let pages = pages.map_err(|failed| failed.into_error("CRIU cannot fetch its memory"))?;
        let what = || "cannot hold its memory";
        let (tether, bringer) = Tether::new(pages.lifeline().context(what)?).context(what)?;
        let stock = Stock::new(&work).context(what)?;
        Ok((Self { pages, stock, bringer }, Lazily { work, tether }))
    }

    /// As `let_go` of a machine that has all its memory, and then brings the rest.
    pub(super) fn let_go(
        self,
        restoring: Restoring<'_>,
        (own, starter): (&Wire, &Wire),
        entry: &Entry,
        host: Host<'_>,
    ) -> Result<()> {
        let Self { pages, stock, bringer } = self;
        let link = restoring.fetching();
        let stage = Stage::Serving;
        let mut fetch = Fetch { link, pages, stock, wanted: 0, again: None, stage, machine: None };
        if let Err(error) = fetch.begin((own, starter), host) {
            // It has not run, and with the end of `own` it never will.
            fetch.link.fail(&error);
            return Err(error);
        }
        host.interrupt.heed_no_more();
        let mut told = Told::Nothing;
        let fetched = fetch.bring((own, starter), &mut told);
        let ended = match fetched {
            Ok(()) => {
                bringer.whole();
                Error::new(Kind::Failed, "its supervisor died")
            }
            Err(error) => {
                // Its supervisor, and CRIU, are not to wait for it either.
                drop(bringer);
                fetch.lose(host, error)
            }
        };
        fetch.conclude(told, entry, ended)
    }
}

/// What the source knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    /// That it runs here.
    Runs,
}

/// The machine that has come.
struct Arrived {
    leader: OwnedFd,
    /// What CRIU saved of it now would not have what is still to come.
    _lock: Option<File>,
}

impl Arrived {
    fn find(host: Host<'_>) -> Result<Self> {
        let cannot = || format!("cannot find '{}'", host.name);
        let record = host.store.read(host.name);
        let record = record.ok_or_else(|| Error::new(Kind::NotFound, cannot()))?;
        let leader = open_leader(host.store, &record).context(cannot)?;
        let leader = leader.ok_or_else(|| Error::new(Kind::NotFound, cannot()).because("it has ended"))?;
        Ok(Self { leader, _lock: record.cgroup.as_deref().map(snapshot::lock).transpose()? })
    }
}

/// How far `criu lazy-pages` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    Over,
}

struct Fetch<'a> {
    link: Fetching<'a>,
    pages: LazyPages,
    stock: Stock,
    /// So many questions that were passed on have no answer yet.
    wanted: usize,
    /// The question after them, whose answer comes with theirs or has come: answers have the order of the questions.
    again: Option<Pages>,
    stage: Stage,
    machine: Option<Arrived>,
}

impl Fetch<'_> {
    /// Until the source has given it away. Nothing has run when this fails.
    fn begin(&mut self, (own, starter): (&Wire, &Wire), host: Host<'_>) -> Result<()> {
        self.serve(Some(own.as_fd()))?;
        hear_restored(own, starter)?;
        self.machine = Some(Arrived::find(host)?);
        self.link.restored().map_err(|error| lost(error.into()))?;
        loop {
            self.ask_on(None, PollTimeout::ZERO)?;
            if !self.take_one()? {
                return Ok(());
            }
        }
    }

    /// Lets it run, and brings the rest of its memory.
    fn bring(&mut self, (own, starter): (&Wire, &Wire), told: &mut Told) -> Result<()> {
        own.send(&Word::Go, &[]).context(|| "cannot talk to its supervisor")?;
        self.serve(Some(starter.as_fd()))?;
        start::hear(starter)?;
        *told = Told::Runs;
        self.link.running().map_err(|error| lost(error.into()))?;
        self.serve(None)?;
        self.pages.finish().map_err(|failed| failed.into_error("CRIU cannot fetch its memory"))
    }

    /// Fetches until there is something to read on `until`, or without one until no more is wanted.
    fn serve(&mut self, until: Option<BorrowedFd<'_>>) -> Result<()> {
        loop {
            // With nothing under way there is nothing else to wait for.
            let patience = if self.wanted == 0 { PollTimeout::NONE } else { PollTimeout::ZERO };
            if self.ask_on(until, patience)? || (until.is_none() && self.stage == Stage::Over) {
                return Ok(());
            }
            if self.wanted > 0 && !self.take_one()? {
                return Err(Error::new(Kind::Failed, "the source gave it away out of turn"));
            }
        }
    }

    /// Passes on what is wanted by now, waiting for the first of it, where nothing is under way. Says whether there is something to
    /// read on `until`.
    fn ask_on(&mut self, until: Option<BorrowedFd<'_>>, mut patience: PollTimeout) -> Result<bool> {
        let cannot = || "cannot hear what of its memory is wanted";
        let mut batch = Vec::new();
        if let Some(pages) = self.again.take_if(|_| self.wanted == 0) {
            self.sort(pages, &mut batch)?;
            patience = PollTimeout::ZERO;
        }
        let mut heard = false;
        loop {
            let full = self.wanted > 0 || self.again.is_some() || batch.len() == BATCH;
            let asks = self.stage == Stage::Serving && !full;
            let wants = asks.then(|| self.pages.fd());
            let fds = until.into_iter().chain(wants);
            let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            if fds.is_empty() {
                break;
            }
            // Nothing may be wanted for long, and whoever would be asked be gone meanwhile.
            let waits = patience.is_none();
            match poll(&mut fds, if waits { PULSE.into() } else { patience }) {
                Ok(0) if waits => {
                    self.link.alive().map_err(|error| lost(error.into()))?;
                    continue;
                }
                Ok(0) => break,
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(std::io::Error::from(errno)).context(cannot),
            }
            heard = until.is_some() && fds.first().is_some_and(|fd| fd.any().unwrap_or_default());
            if heard {
                break;
            }
            match self.pages.hear().context(cannot)? {
                Asked::Pages(pages) => self.sort(pages, &mut batch)?,
                Asked::Over => self.stage = Stage::Over,
            }
            if !batch.is_empty() || until.is_none() {
                patience = PollTimeout::ZERO;
            }
        }
        if !batch.is_empty() {
            self.wanted = batch.len();
            self.link.want(batch).map_err(|error| lost(error.into()))?;
        }
        Ok(heard)
    }

    /// Answers a question from what has come, if it can be its turn; has it wait for that; or puts it to what is to be passed on.
    fn sort(&mut self, pages: Pages, batch: &mut Vec<Pages>) -> Result<()> {
        let has = |run: &Pages| {
            let into = pages.address.checked_sub(run.address);
            run.task == pages.task && into.is_some_and(|into| into / page() < run.number)
        };
        match self.stock.read(pages).context(|| "cannot read its memory")? {
            Some((pages, content)) if batch.is_empty() => {
                return self.pages.give(pages, &content).context(|| "cannot give it its memory");
            }
            Some(_) => self.again = Some(pages),
            None if batch.iter().any(has) => self.again = Some(pages),
            None => batch.push(pages),
        }
        Ok(())
    }

    /// Hands an answer on; `false` for the word that is none.
    fn take_one(&mut self) -> Result<bool> {
        match self.link.hear().map_err(|error| lost(error.into()))? {
            Fetched::Go => Ok(false),
            Fetched::Pages(pages, content) => {
                self.wanted = self
                    .wanted
                    .checked_sub(1)
                    .ok_or_else(|| Error::new(Kind::Failed, "the source sends memory that nobody wanted"))?;
                self.pages.give(pages, &content).context(|| "cannot give it its memory")?;
                self.stock.keep(pages, &content).context(|| "cannot keep its memory")?;
                Ok(true)
            }
        }
    }

    /// The rest will not come. The machine ends, before whoever holds its memory does; gives the error.
    fn lose(&self, host: Host<'_>, error: Error) -> Error {
        if let Some(Err(worse)) = self.machine.as_ref().map(|machine| end(&machine.leader, host.name)) {
            crate::error::say(format_args!("osier: {worse}\n"));
        }
        error.within(format!("'{}' has ended: the rest of its memory is lost", host.name))
    }

    /// Says what has become of it. `ended` is why it does not run, if it does not.
    fn conclude(self, told: Told, entry: &Entry, ended: Error) -> Result<()> {
        let Self { mut link, pages, .. } = self;
        drop(pages);
        match entry.settle() {
            Ok(Fate::Running) => link.whole().map_err(|error| lost(error.into())),
            Ok(Fate::Gone) => {
                link.fail(&ended);
                Err(ended)
            }
            Ok(Fate::Lost) => {
                // That it is lost is not to be taken for that it has never run.
                if told == Told::Runs || link.running().is_ok() {
                    link.fail(&ended);
                }
                Err(ended)
            }
            // Its supervisor is still at it. A link that ends without a word has the source ask.
            Err(error) => Err(ended.because(&error)),
        }
    }
}

/// Kills the machine and waits until nothing of it runs: its first process is the last to end (man 7 pid_namespaces).
fn end(leader: &OwnedFd, name: &str) -> Result<()> {
    let _ = pidfd_send_signal(leader, Signal::KILL);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let mut fds = [PollFd::new(leader.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(100_u8)).is_ok_and(|ready| ready > 0) {
            return Ok(());
        }
    }
    Err(Error::new(Kind::Failed, format!("cannot end '{name}'")).because("it does not die"))
}
