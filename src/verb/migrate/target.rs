//! The target of a migration: it takes what it lacks, restores the machine in a supervisor of its own, and lets it run when the
//! source has given it away.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::carrier::Carrier;
use super::fetch::{self, Host, Porter};
use crate::checkpoint::listing::{Depth, Listing};
use crate::checkpoint::{self, Draft, Form, HostMark, Manifest};
use crate::cli::Migrate;
use crate::criu::Criu;
use crate::error::{Context, Error, Kind, Result};
use crate::ids::MachineId;
use crate::image::{self, Access, MACHINES, Scratch, Tree, TreeLock, archive};
use crate::interrupt::Interrupt;
use crate::launch::Moment;
use crate::machine::record::Store;
use crate::machine::tether::Tether;
use crate::migration::ledger::{Charge, Entry, Ledger};
use crate::migration::protocol::{Asked, Broken, Call, Fate, Hello, Listening, Next, Receiving, Restoring};
use crate::verb::checkpoint::{Progress, directory};
use crate::verb::restore::{Wish, suits};
use crate::verb::{restore, start};
use crate::wire::Wire;

/// How often the source is told that somebody is at work, milliseconds: far below what it waits for a word.
pub(super) const PULSE: u16 = 1000;

/// Between the supervisor, which restores, and this process, which has the link.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// From the supervisor: all is there and nothing has run.
    Restored,
    /// To it.
    Go,
}

/// Receives what comes by the way that was said.
///
/// # Errors
/// What went wrong here or between; the source knows, and nothing of the machine is here.
pub(super) fn receive(options: &Migrate, store: &Store) -> Result<u8> {
    let interrupt = Interrupt::watch().context(|| "cannot catch signals")?;
    let carried = Carrier::Streams.go(Some(&interrupt))?;
    let called = Listening::new(carried.link).call().map_err(lost)?;
    match called {
        Call::Ask(asked, id) => answer(asked, id).map(|()| 0),
        Call::Hello(greeted, hello) => {
            let readied = ready(options, store, &hello);
            let ready = match readied {
                Ok(ready) => ready,
                Err(error) => {
                    greeted.fail(&error);
                    return Err(error);
                }
            };
            let here = HostMark::read().context(|| "cannot look at the host")?;
            let receiving = greeted.welcome(here).map_err(|error| lost(error.into()))?;
            ready.take(receiving, (options, store), &interrupt)
        }
    }
}

pub(super) fn lost(broken: Broken) -> Error {
    broken.into_error("cannot receive it")
}

fn answer(asked: Asked<'_>, id: MachineId) -> Result<()> {
    let fate = Ledger::default().settle(id).context(|| "cannot find out what became of it")?;
    asked.answer(fate).map_err(|error| lost(error.into()))
}

/// Everything that can be looked at before anything comes.
struct Ready {
    name: String,
    criu: Criu,
    entry: Entry,
    draft: Draft,
    tree: Place,
    /// A part of its memory comes when it runs.
    postcopy: bool,
}

fn ready(options: &Migrate, store: &Store, hello: &Hello) -> Result<Ready> {
    let name = options.new_name.as_ref().unwrap_or(&hello.name).clone();
    name.parse::<crate::name::MachineName>()
        .map_err(|reason| Error::usage(format!("'{name}' is no machine name")).because(reason))?;
    suits(&hello.host)?;
    let criu = Criu::find(options.tool.criu.as_deref())?;
    if hello.postcopy {
        fetch::require(&criu)?;
    }
    if store.read(&name).is_some() {
        return Err(Error::new(Kind::InUse, format!("the name '{name}' is in use there"))
            .hint("--to-name=NAME gives it another one"));
    }
    let tree = Place::find(options.tree.as_deref(), &name, hello)?;
    let target = directory()?.join(format!("{name}-{}", hello.id));
    checkpoint::require(&target, Form::Directory, hello.memory)?;
    let draft = Draft::begin(&target, Form::Directory)?;
    let entry = Ledger::default().begin(hello.id).context(|| "cannot begin to receive it")?;
    Ok(Ready { name, criu, entry, draft, tree, postcopy: hello.postcopy })
}

/// Where the tree is to be: one that is there and is this machine's, or a new one.
struct Place {
    path: PathBuf,
    /// Where it grows: beside `path` until it is whole, or `path` itself.
    grows: PathBuf,
    scratch: Option<Scratch>,
    lock: Option<TreeLock>,
}

impl Place {
    fn find(said: Option<&Path>, name: &str, hello: &Hello) -> Result<Self> {
        let found = match said {
            Some(path) => path.to_owned(),
            None => image::find(name).map_or_else(|_| Path::new(MACHINES).join(name), |image| image.path),
        };
        if !found.exists() {
            let parent = found.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(parent).context(|| format!("cannot make '{}'", parent.display()))?;
            let beside = || format!("cannot make a directory beside '{}'", found.display());
            Scratch::remove_stale(&found).context(beside)?;
            let scratch = Scratch::make(&found).context(beside)?;
            return Ok(Self { grows: scratch.tree(), path: found, scratch: Some(scratch), lock: None });
        }
        let path = found.canonicalize().context(|| format!("cannot find '{}'", found.display()))?;
        let what = || format!("cannot use '{}'", path.display());
        let own = Tree::open(&path).and_then(|tree| tree.read_machine_id_text()).context(what)?;
        let own = own.and_then(|text| text.trim().parse::<MachineId>().ok());
        if own.is_none() || own != hello.machine {
            return Err(Error::new(Kind::InUse, what())
                .because("there is a tree of another machine")
                .hint("--tree=PATH names another place, --to-name=NAME another image"));
        }
        let lock = TreeLock::take(&path, Access::Exclusive).context(what)?;
        let lock = lock.ok_or_else(|| Error::new(Kind::InUse, what()).because("a machine runs from it"))?;
        Ok(Self { grows: path.clone(), path, scratch: None, lock: Some(lock) })
    }

    /// It is whole: it gets its name, and is free for the supervisor.
    fn settle(self) -> Result<PathBuf> {
        let what = || format!("cannot make '{}'", self.path.display());
        if let Some(scratch) = self.scratch {
            fs::rename(&self.grows, &self.path).context(what)?;
            scratch.close().context(what)?;
        }
        if let Some(lock) = self.lock {
            lock.close().context(|| "cannot unlock the tree")?;
        }
        Ok(self.path)
    }
}

impl Ready {
    fn take(
        self,
        mut receiving: Receiving<'_>,
        said: (&Migrate, &Store),
        interrupt: &Interrupt,
    ) -> Result<u8> {
        loop {
            receiving = match receiving.next().map_err(lost)? {
                Next::Listing(lacking, listing) => match self.compare(&listing, interrupt) {
                    Ok(wanted) => lacking
                        .wanted(wanted.iter().map(PathBuf::as_path))
                        .map_err(|error| lost(error.into()))?,
                    Err(error) => {
                        lacking.fail(&error);
                        return Err(error);
                    }
                },
                Next::Tree(unpacking) => {
                    let (receiving, ()) =
                        unpacking.take(|from| self.unpack(from, interrupt)).map_err(lost)?;
                    receiving
                }
                Next::Round(storing, number) => match self.draft.round(number) {
                    Ok(_) => storing.store(&self.draft.directory()).map_err(lost)?,
                    Err(error) => {
                        let error = Error::from(error);
                        storing.fail(&error);
                        return Err(error);
                    }
                },
                Next::Frozen(receiving) => receiving,
                Next::Images(loading, manifest) => {
                    let restoring = loading.store(&self.draft.directory()).map_err(lost)?;
                    return self.restore(restoring, *manifest, said, interrupt);
                }
            };
        }
    }

    /// What of the source's tree is lacking here. What it has not goes.
    fn compare(&self, theirs: &Listing, interrupt: &Interrupt) -> Result<Vec<PathBuf>> {
        let ours = self.list(interrupt)?;
        let difference = ours.difference(theirs);
        for path in difference.removed.iter().rev() {
            let path = self.tree.grows.join(path);
            let is_dir = path.symlink_metadata().is_ok_and(|found| found.is_dir());
            let removed = if is_dir { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            match removed {
                // A socket keeps its directory, and means nothing.
                Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                    fs::remove_dir_all(&path).context(|| format!("cannot remove '{}'", path.display()))?;
                }
                removed => removed.context(|| format!("cannot remove '{}'", path.display()))?,
            }
        }
        Ok(difference.wanted(theirs))
    }

    fn list(&self, interrupt: &Interrupt) -> Result<Listing> {
        let cannot = || format!("cannot read '{}'", self.tree.grows.display());
        Listing::read(&self.tree.grows, Depth::Quick, &mut Progress(interrupt))
            .map_err(|error| Error::new(Kind::Failed, cannot()).because(error))
    }

    fn compare_sum(&self, manifest: &Manifest, interrupt: &Interrupt) -> Result<()> {
        let ours = self.list(interrupt)?;
        match manifest.tree.listing {
            Some(theirs) if theirs != ours.sum() => {
                Err(Error::new(Kind::Failed, "its tree has not arrived as it was"))
            }
            _ => Ok(()),
        }
    }

    fn unpack(&self, from: &mut dyn Read, interrupt: &Interrupt) -> Result<()> {
        let unpacked = archive::unpack(from, &self.tree.grows, &mut |_| interrupt.check());
        unpacked.map(drop).map_err(|error| {
            Error::new(Kind::Failed, format!("cannot write '{}'", self.tree.grows.display())).because(error)
        })
    }

    /// Restores, holds, and lets go when the source has given it away. In the supervisor, a child, this comes back at the
    /// machine's end.
    fn restore(
        self,
        restoring: Restoring<'_>,
        manifest: Manifest,
        (options, store): (&Migrate, &Store),
        interrupt: &Interrupt,
    ) -> Result<u8> {
        let begun = self.compare_sum(&manifest, interrupt).and_then(|()| {
            let unpacked = self.draft.received(&manifest)?;
            let tree = self.tree.settle()?;
            let porter = self.postcopy.then(|| Porter::start(&self.criu, &unpacked.images(), &self.name));
            let porter = porter.transpose()?;
            let (own, theirs) = Wire::pair().context(|| "cannot make a socket")?;
            let charge = self.entry.charge().context(|| "cannot begin to let it run")?;
            Ok((unpacked, tree, porter, own, Holder { receiver: theirs, charge: Some(charge) }))
        });
        let (unpacked, tree, porter, own, mut holder) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                restoring.fail(&error);
                return Err(error);
            }
        };
        let wish = Wish {
            name: Some(&self.name),
            tree: Some(&tree),
            clock: &options.clock,
            console: Some("passive"),
            keep_unit: false,
            quiet: true,
            anew: None,
        };
        let host = Host { store, name: &self.name, interrupt };
        let mut link = Some((restoring, own, self.entry));
        let ended = restore::with(
            (&self.criu, unpacked),
            &manifest,
            &wish,
            Box::new(move |moment| holder.at(moment)),
            |wanted, mut company, sources| {
                let taken = link.take();
                let (porter, lazily) = porter.unzip();
                if let Some(revival) = &mut company.revival {
                    revival.lazily = lazily;
                }
                // All of it moved: in the supervisor this end is closed, so that it sees the end of the other.
                start::in_background(wanted, company, sources, move |starter| match (taken, porter) {
                    (Some((restoring, own, entry)), Some(porter)) => {
                        porter.let_go(restoring, (&own, starter), &entry, host)
                    }
                    (Some((restoring, own, entry)), None) => let_go(restoring, (&own, starter), &entry),
                    (None, _) => Ok(()),
                })
            },
        );
        if let (Some((restoring, ..)), Err(error)) = (link, &ended) {
            restoring.fail(error);
        }
        ended
    }
}

/// In the supervisor: lets the machine run when the receiver says so, and has it written down what becomes of it from then on.
struct Holder {
    receiver: Wire,
    charge: Option<Charge>,
}

impl Holder {
    fn at(&mut self, moment: Moment<'_>) -> Result<()> {
        match moment {
            Moment::Coming => match self.is_alone() {
                true => Err(Error::new(Kind::Failed, "the source has kept it")),
                false => Ok(()),
            },
            Moment::Restored => self.hold(),
            Moment::Runs(tether) => self.note(tether).context(|| "cannot write down that it runs"),
        }
    }

    fn is_alone(&self) -> bool {
        let mut fds = [PollFd::new(self.receiver.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|hung_up| hung_up > 0)
    }

    /// Waits for the word.
    fn hold(&mut self) -> Result<()> {
        self.receiver.send(&Word::Restored, &[]).context(|| "cannot talk to the receiver")?;
        match (self.receiver.receive::<Word>().context(|| "cannot hear the receiver")?, &mut self.charge) {
            (Some((Word::Go, _)), Some(charge)) => {
                charge.going().context(|| "the source was told that it never runs here")
            }
            _ => Err(Error::new(Kind::Failed, "the source has kept it")),
        }
    }

    fn note(&mut self, tether: Option<&Tether>) -> io::Result<()> {
        let Some(mut charge) = self.charge.take() else { return Ok(()) };
        match tether {
            None => charge.running(),
            Some(tether) => {
                let noted = charge.coming();
                tether.charge(charge);
                noted
            }
        }
    }
}

/// Here: passes the words on between the supervisor and the source.
fn let_go(mut restoring: Restoring<'_>, (own, starter): (&Wire, &Wire), entry: &Entry) -> Result<()> {
    while !is_ready(own).context(|| "cannot hear its supervisor")? {
        // A source that is gone is noticed, and one that is there waits on.
        restoring.alive().map_err(|error| lost(error.into()))?;
    }
    if let Err(error) = hear_restored(own, starter) {
        restoring.fail(&error);
        return Err(error);
    }
    let going = restoring.restored().map_err(|error| lost(error.into()))?;
    // From here on it may run, whatever is not heard of it.
    let told = own.send(&Word::Go, &[]).context(|| "cannot talk to its supervisor");
    let Err(error) = told.and_then(|()| start::hear(starter)) else {
        // It runs, whatever becomes of this process and of the link: the source asks, and finds it written down.
        return going.running().map_err(|error| lost(error.into()));
    };
    match entry.settle() {
        Ok(Fate::Running) => going.running().map_err(|error| lost(error.into())),
        Ok(Fate::Gone) => {
            going.fail(&error);
            Err(error)
        }
        // A link that ends without a word has the source ask.
        Ok(Fate::Lost) | Err(_) => Err(error.within("it may have run, and has ended")),
    }
}

/// Waits for a word of the supervisor, no longer than until the source is to be told that somebody is at work.
fn is_ready(own: &Wire) -> io::Result<bool> {
    match poll(&mut [PollFd::new(own.as_fd(), PollFlags::POLLIN)], PULSE) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Hears that all is there and nothing has run.
pub(super) fn hear_restored(own: &Wire, starter: &Wire) -> Result<()> {
    if matches!(own.receive::<Word>(), Ok(Some((Word::Restored, _)))) {
        return Ok(());
    }
    // Its reason is what it tells who has started it.
    let error = start::hear(starter).err();
    Err(error.unwrap_or_else(|| Error::new(Kind::Failed, "its supervisor died")))
}
