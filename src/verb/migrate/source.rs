//! The source of a migration: everything is sent while the machine runs, then again what has changed while it stands still; it
//! ends here when the target says that it runs there, and goes on here otherwise.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::BinaryBytes;

use super::carrier::{Carried, Carrier};
use crate::checkpoint::listing::{Depth, Listing};
use crate::checkpoint::{self, Draft, Form, HostMark, Manifest, Member};
use crate::cli::Migrate;
use crate::criu::images::Aside;
use crate::criu::{Criu, Memory};
use crate::duration;
use crate::error::{Context, Error, Kind, Result};
use crate::ids::MachineId;
use crate::image::archive::{self, Packing};
use crate::interrupt::Interrupt;
use crate::machine::record::Store;
use crate::machine::snapshot::{Candidate, Still};
use crate::migration::protocol::{Broken, Calling, Fate, Hello, NotTaken, Offering};
use crate::verb::checkpoint::{Progress, directory};
use crate::verb::may::may;
use crate::verb::unknown;

/// How long the target is asked what became of a machine that was given away.
const PATIENCE: Duration = Duration::from_secs(60);
/// As long with post-copy, where it may run there for a while and be killed: the target notices after two minutes that the link is
/// dead, and its machine is to have ended half a minute later.
const LATE: Duration = Duration::from_secs(180);
/// How long between two of these questions.
const PACE: Duration = Duration::from_secs(1);

/// A machine on its way.
struct Migration<'a> {
    name: &'a str,
    options: &'a Migrate,
    id: MachineId,
    criu: Criu,
    candidate: Candidate<'a>,
    draft: Draft,
    interrupt: &'a Interrupt,
}

/// Sends the machine `name`.
///
/// # Errors
/// What keeps it from going on there; it goes on here, but where nobody knows whether it runs there: then it stands still, and
/// the hint says what to do.
pub(super) fn send(name: &str, options: &Migrate, store: &Store) -> Result<()> {
    let record = store.read(name).ok_or_else(|| unknown(store, name))?;
    may(&record, "migrate")?;
    let carrier = Carrier::of(options)?;
    let interrupt = Interrupt::watch().context(|| "cannot catch signals")?;
    let criu = Criu::find(options.tool.criu.as_deref())?;
    let candidate = Candidate::open(store, record)?.from_a_copy();
    candidate.check()?;
    if options.precopy.is_some() && !criu.features().context(|| "cannot ask CRIU")?.dirty_pages {
        return Err(Error::new(Kind::Unsupported, "--precopy")
            .because("this kernel does not track which pages change (CONFIG_MEM_SOFT_DIRTY)")
            .hint("leave it out: memory is sent while the machine stands still"));
    }
    let id = MachineId::random().context(|| "cannot make an ID")?;
    let target = directory()?.join(format!("{name}-{id}"));
    let size = candidate.size()?;
    checkpoint::require(&target, Form::Directory, size)?;
    let draft = Draft::begin(&target, Form::Directory)?;
    let migration = Migration { name, options, id, criu, candidate, draft, interrupt: &interrupt };
    let (sent, stood) = migration.go(&carrier, size)?;
    if !options.tool.quiet {
        let (sent, stood) = (BinaryBytes(sent), duration::taken(stood));
        let said = |place| format!("'{name}' goes on at {place}: {sent} sent; it stood still for {stood}\n");
        match options.host.as_deref() {
            Some(host) => crate::verb::print(&said(host))?,
            // Standard output is the way there.
            None => crate::error::say(format_args!("{}", said("the other end"))),
        }
    }
    Ok(())
}

impl Migration<'_> {
    fn tree(&self) -> &Path {
        &self.candidate.record().root
    }

    fn go(self, carrier: &Carrier, size: u64) -> Result<(u64, Duration)> {
        let Carried { link, child } = carrier.go(Some(self.interrupt))?;
        let lost = |broken: Broken| broken.into_error(format!("cannot send it by {}", carrier.name()));
        let mut hello =
            Hello::new(self.name, self.id, HostMark::read().context(|| "cannot look at the host")?);
        hello.memory = size;
        hello.path = self.tree().display().to_string();
        hello.machine = self.candidate.record().id.parse().ok();
        hello.postcopy = self.options.postcopy;
        let (offering, _) = Calling::new(link).hello(&hello).map_err(|error| lost(error.into()))?;
        // While it runs: the most of it.
        let (mut offering, _) = self.send_tree(offering).map_err(lost)?;
        let mut memory = Memory::Whole;
        for number in 1..=self.options.precopy.unwrap_or(0) {
            (offering, memory) = self.precopy(offering, number, memory)?;
        }
        let mut still = match self.candidate.dump(&self.criu, &self.draft.images(), memory, self.interrupt) {
            Ok(still) => still,
            Err(error) => {
                offering.fail(&error);
                return Err(error);
            }
        };
        // From here on it goes on here when `still` is dropped.
        let offering = offering.frozen().map_err(|error| lost(error.into()))?;
        let (offering, listing) = self.send_tree(offering).map_err(lost)?;
        let completed = self.set_aside().and_then(|aside| {
            let manifest = self.complete(&still, &listing)?;
            still.check().map(|()| (manifest, aside))
        });
        let (manifest, aside) = match completed {
            Ok(completed) => completed,
            Err(error) => {
                offering.fail(&error);
                return Err(error);
            }
        };
        let sent = offering.images(&manifest, &self.draft.directory()).map_err(lost)?;
        let store = |pages| aside.read(pages);
        let held = sent.restored(&store).map_err(lost)?;
        if let Err(error) = still.check() {
            held.fail(&error);
            return Err(error);
        }
        // Before the word: who is killed after it must not leave a machine that goes on here as well.
        still.give_away();
        let mut stood = None;
        let given = if self.options.postcopy {
            self.interrupt.heed_no_more();
            held.go_serving(&store, &mut || stood = Some(still.stood()))
        } else {
            held.go()
        };
        let stood = stood.unwrap_or_else(|| still.stood());
        drop(child);
        self.settle(carrier, given, still)?;
        Ok((manifest.size() + aside.size(), stood))
    }

    /// It was given away: it ends here, or goes on, or stands still where that is for others to decide.
    fn settle(
        &self,
        carrier: &Carrier,
        given: std::result::Result<(), NotTaken>,
        still: Still<'_>,
    ) -> Result<()> {
        match given {
            Ok(()) => still.end(),
            Err(NotTaken::Back(error)) => still.release().and(Err(error)),
            Err(NotTaken::Lost(error)) => Err(self.lost(error)),
            Err(NotTaken::Undecided(broken)) => match self.ask(carrier, &broken)? {
                Fate::Running => still.end(),
                Fate::Lost => Err(self.lost(broken)),
                Fate::Gone => {
                    let error = Error::new(Kind::Failed, "the link broke at the last moment").because(broken);
                    still.release().and(Err(error))
                }
            },
        }
    }

    /// The memory that is sent when it runs there; none without post-copy.
    fn set_aside(&self) -> Result<Aside> {
        if !self.options.postcopy {
            return Ok(Aside::default());
        }
        let beside = self.draft.beside()?;
        Aside::take(&self.draft.images(), &beside).context(|| "cannot set its memory aside")
    }

    /// It ran there, or may have, and has ended. What stands still here is what it was before.
    fn lost(&self, cause: impl std::fmt::Display) -> Error {
        let what = match self.options.postcopy {
            true => "it ran there and has ended: not all of its memory came",
            false => "it may have run there, and has ended",
        };
        Error::new(Kind::Failed, what).because(cause).hint(
            format!(
                "it stands still here as it was before: {}`osier thaw {1}` to go on from there, without what it did \
                 since, or `osier terminate {1}` to end it",
                self.raise(),
                self.name
            ),
        )
    }

    /// How its links are to be set up before it goes on.
    fn raise(&self) -> String {
        let links = self.candidate.record().links.iter();
        links.map(|link| format!("`ip link set {link} up` and ")).collect()
    }

    /// Sends what the target lacks of the tree as it is now.
    fn send_tree<'l>(&self, offering: Offering<'l>) -> std::result::Result<(Offering<'l>, Listing), Broken> {
        let cannot = || format!("cannot read '{}'", self.tree().display());
        let listing = match Listing::read(self.tree(), Depth::Quick, &mut Progress(self.interrupt)) {
            Ok(listing) => listing,
            Err(error) => {
                let error = Error::new(Kind::Failed, cannot()).because(error);
                offering.fail(&error);
                return Err(Broken::Here(error));
            }
        };
        let (offering, wanted) = offering.listing(&listing)?;
        if wanted.is_empty() {
            return Ok((offering, listing));
        }
        let (offering, ()) = offering.tree(|out| {
            self.pack(&wanted, out).map_err(|error| Error::new(Kind::Failed, cannot()).because(error))
        })?;
        Ok((offering, listing))
    }

    fn pack(
        &self,
        wanted: &BTreeSet<PathBuf>,
        out: &mut dyn Write,
    ) -> std::result::Result<(), archive::ArchiveError> {
        let mut only = |path: &Path| wanted.contains(path);
        let mut watch = |_| self.interrupt.check();
        let packing = Packing { only: Some(&mut only), notes: &[], watch: &mut watch };
        archive::pack(self.tree(), out, packing).map(drop)
    }

    /// Memory beforehand, once more.
    fn precopy<'l>(
        &self,
        offering: Offering<'l>,
        number: u32,
        memory: Memory,
    ) -> Result<(Offering<'l>, Memory)> {
        let round = || -> Result<Vec<Member>> {
            let directory = self.draft.round(number)?;
            let memory = if memory == Memory::Whole { Memory::Tracked } else { memory.clone() };
            self.candidate.pre_dump(&self.criu, &directory, memory, self.interrupt)?;
            Ok(self.draft.members(&checkpoint::round(number), &mut Progress(self.interrupt))?)
        };
        match round() {
            Ok(members) => {
                let sent = offering.round(number, &members, &self.draft.directory());
                let offering = sent.map_err(|broken| broken.into_error("cannot send its memory"))?;
                Ok((offering, Memory::Since(format!("../{}", checkpoint::round(number)))))
            }
            Err(error) => {
                offering.fail(&error);
                Err(error)
            }
        }
    }

    fn complete(&self, still: &Still<'_>, listing: &Listing) -> Result<Manifest> {
        let mut manifest = still.manifest(&self.criu)?;
        manifest.id = self.id;
        manifest.tree.listing = Some(listing.sum());
        self.draft.seal(&mut manifest, &mut Progress(self.interrupt))?;
        Ok(manifest)
    }

    /// `Go` was said and nothing came back: the target is asked over another link, as often as it takes.
    ///
    /// # Errors
    /// When it does not answer: what to do with the machine is for somebody who can look there.
    fn ask(&self, carrier: &Carrier, broken: impl std::fmt::Display) -> Result<Fate> {
        let (patience, hint) = match self.options.postcopy {
            true => (LATE, "three minutes from now: "),
            false => (PATIENCE, ""),
        };
        let deadline = Instant::now() + patience;
        while carrier.can_repeat() && Instant::now() < deadline {
            let asked = carrier.go(None).ok().and_then(|Carried { link, child }| {
                let fate = Calling::new(link).ask(self.id).ok();
                drop(child);
                fate
            });
            match asked {
                Some(fate) => return Ok(fate),
                None => thread::sleep(PACE),
            }
        }
        let raise = self.raise();
        Err(Error::new(Kind::Failed, "nobody knows whether it runs there").because(broken).hint(format!(
            "it stands still here; {hint}{raise}`osier thaw {0}` if it does not run there, `osier terminate {0}` if it does",
            self.name
        )))
    }
}
