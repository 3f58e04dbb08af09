//! The target's end: each state gives the next.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::files::{receive_files, rest, told};
use super::{Broken, Fate, FromSource, FromTarget, Hello, PROTOCOL, Welcome};
use crate::checkpoint::listing::{Listing, escape};
use crate::checkpoint::{HostMark, Manifest, Member, VERSION};
use crate::criu::images::{MOST, Pages, page};
use crate::error::{Error, Kind};
use crate::ids::MachineId;
use crate::migration::stream::{Link, LinkError};

/// The target, before it has heard anything.
#[derive(Debug)]
pub struct Listening<'a>(Link<'a>);

/// The target: somebody wants to send a machine.
#[derive(Debug)]
pub struct Greeted<'a>(Link<'a>);

/// The target: tree and memory come.
#[derive(Debug)]
pub struct Receiving<'a>(Link<'a>);

/// The target: it is asked what it lacks of a tree.
#[derive(Debug)]
pub struct Lacking<'a>(Link<'a>);

/// The target: an archive comes.
#[derive(Debug)]
pub struct Unpacking<'a>(Link<'a>);

/// The target: files come.
#[derive(Debug)]
pub struct Storing<'a>(Link<'a>, Vec<Member>);

/// The target: the last files come.
#[derive(Debug)]
pub struct Loading<'a>(Link<'a>, Vec<Member>);

/// The target: all is here, to be restored.
#[derive(Debug)]
pub struct Restoring<'a>(Link<'a>);

/// The target: all is here but memory that is fetched; to be restored, and then its own.
#[derive(Debug)]
pub struct Fetching<'a>(Link<'a>);

/// What the source says meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// These, and what is in them.
    Pages(Pages, Vec<u8>),
    /// The machine is the target's.
    Go,
}

/// The target: the machine is its own now.
#[derive(Debug)]
pub struct Going<'a>(Link<'a>);

/// The target: it was asked what became of a machine.
#[derive(Debug)]
pub struct Asked<'a>(Link<'a>);

/// What somebody who calls wants.
#[derive(Debug)]
pub enum Call<'a> {
    /// To send a machine.
    Hello(Greeted<'a>, Box<Hello>),
    /// To know what became of the one of this migration.
    Ask(Asked<'a>, MachineId),
}

/// What comes next from the source.
#[derive(Debug)]
pub enum Next<'a> {
    /// The tree is like this; to be answered.
    Listing(Lacking<'a>, Listing),
    /// An archive of what was lacking.
    Tree(Unpacking<'a>),
    /// The files of the copy of memory of this number.
    Round(Storing<'a>, u32),
    /// The machine stands still; nothing to do.
    Frozen(Receiving<'a>),
    /// The last, with the manifest of all.
    Images(Loading<'a>, Box<Manifest>),
}

impl<'a> Listening<'a> {
    /// At the beginning of a link.
    pub fn new(link: Link<'a>) -> Self {
        Self(link)
    }

    /// Waits for somebody to call. One of another version is refused here, in words.
    ///
    /// # Errors
    /// [`Broken::Here`] for that refusal; every error of the link.
    pub fn call(mut self) -> Result<Call<'a>, Broken> {
        let hello = match self.0.hear()? {
            FromSource::Hello(hello) => hello,
            FromSource::Ask(id) => return Ok(Call::Ask(Asked(self.0), id)),
            _ => return Err(LinkError::OutOfTurn.into()),
        };
        if (hello.protocol, hello.checkpoint) == (PROTOCOL, VERSION) {
            return Ok(Call::Hello(Greeted(self.0), hello));
        }
        let versions = |protocol, checkpoint| format!("protocol {protocol}, checkpoint version {checkpoint}");
        let ours = env!("CARGO_PKG_VERSION");
        let error = Error::new(Kind::Unsupported, format!("cannot take the machine '{}'", hello.name))
            .because(format_args!(
                "the source has osier {} ({}), and the target has osier {ours} ({})",
                hello.osier,
                versions(hello.protocol, hello.checkpoint),
                versions(PROTOCOL, VERSION)
            ))
            .hint("both hosts need the same version of osier");
        self.0.complain(&error);
        Err(Broken::Here(error))
    }
}

impl Asked<'_> {
    /// Answers. [`Fate::Gone`] is a promise.
    ///
    /// # Errors
    /// Every one of [`LinkError`].
    pub fn answer(mut self, fate: Fate) -> Result<(), LinkError> {
        self.0.say(&FromTarget::Fate(fate))
    }
}

impl<'a> Greeted<'a> {
    /// Takes the machine.
    ///
    /// # Errors
    /// Every one of [`LinkError`].
    pub fn welcome(mut self, host: HostMark) -> Result<Receiving<'a>, LinkError> {
        let osier = env!("CARGO_PKG_VERSION").to_owned();
        self.0.say(&FromTarget::Welcome(Box::new(Welcome { osier, host })))?;
        Ok(Receiving(self.0))
    }

    /// Refuses it.
    pub fn fail(self, error: &Error) {
        self.0.complain(error);
    }
}

impl<'a> Receiving<'a> {
    /// Waits for what comes.
    ///
    /// # Errors
    /// [`Broken::Here`] for a listing or a manifest that is none; every error of the link.
    pub fn next(mut self) -> Result<Next<'a>, Broken> {
        match self.0.hear()? {
            FromSource::Listing => {
                let mut incoming = self.0.incoming();
                let listing = Listing::parse_compressed(&mut incoming);
                let finished = incoming.finish();
                if let Some(error) = self.0.take_broken() {
                    return Err(error.into());
                }
                finished?;
                let listing = listing.map_err(|error| {
                    Broken::Here(Error::new(Kind::Failed, "cannot read the tree's listing").because(error))
                })?;
                Ok(Next::Listing(Lacking(self.0), listing))
            }
            FromSource::Tree => Ok(Next::Tree(Unpacking(self.0))),
            FromSource::Round { number, files } => {
                let prefix = format!("round-{number}/");
                match files.iter().all(|file| file.name.as_str().starts_with(&prefix)) {
                    true => Ok(Next::Round(Storing(self.0, files), number)),
                    false => Err(LinkError::OutOfTurn.into()),
                }
            }
            FromSource::Frozen => Ok(Next::Frozen(self)),
            FromSource::Images { manifest } => {
                let manifest = Manifest::decode(manifest.as_bytes()).map_err(|cause| {
                    Broken::Here(Error::new(Kind::Failed, "cannot read the manifest").because(cause))
                })?;
                Ok(Next::Images(Loading(self.0, rest(&manifest)), Box::new(manifest)))
            }
            FromSource::Hello(_) | FromSource::Ask(_) | FromSource::Go | FromSource::Pages(_) => {
                Err(LinkError::OutOfTurn.into())
            }
        }
    }

    /// Says what failed here.
    pub fn fail(self, error: &Error) {
        self.0.complain(error);
    }
}

impl<'a> Lacking<'a> {
    /// Says what is lacking.
    ///
    /// # Errors
    /// Every one of [`LinkError`].
    pub fn wanted<'p>(
        mut self,
        paths: impl IntoIterator<Item = &'p Path>,
    ) -> Result<Receiving<'a>, LinkError> {
        self.0.say(&FromTarget::Wanted)?;
        let mut out = self.0.outgoing();
        let written = paths.into_iter().try_for_each(|path| {
            // The root is an empty line otherwise, and that would be no line at all for some.
            writeln!(out, "./{}", escape(path.as_os_str().as_bytes()))
        });
        let finished = out.finish();
        match written {
            Ok(()) => finished.map(|()| Receiving(self.0)),
            Err(error) => Err(self.0.take_broken().unwrap_or(LinkError::Failed(0, error))),
        }
    }

    /// Says what failed here.
    pub fn fail(self, error: &Error) {
        self.0.complain(error);
    }
}

impl<'a> Unpacking<'a> {
    /// Lets `take` read the archive. What it leaves of it is passed over.
    ///
    /// # Errors
    /// The link's, before what `take` made of it; else what `take` gives, which the source was told.
    pub fn take<T>(
        mut self,
        take: impl FnOnce(&mut dyn Read) -> Result<T, Error>,
    ) -> Result<(Receiving<'a>, T), Broken> {
        let mut incoming = self.0.incoming();
        let taken = take(&mut incoming);
        if let Some(error) = incoming.take_broken() {
            return Err(error.into());
        }
        match taken {
            Ok(taken) => {
                incoming.finish()?;
                Ok((Receiving(self.0), taken))
            }
            Err(error) => {
                self.0.complain(&error);
                Err(Broken::Here(error))
            }
        }
    }
}

impl<'a> Storing<'a> {
    /// Writes the files below `directory`, whose directories are there, and looks at their sums.
    ///
    /// # Errors
    /// A file that cannot be written, which the source was told; every error of the link.
    pub fn store(mut self, directory: &Path) -> Result<Receiving<'a>, Broken> {
        match receive_files(&mut self.0, &self.1, directory) {
            Ok(()) => Ok(Receiving(self.0)),
            Err(error) => Err(told(self.0, error)),
        }
    }

    /// Says what failed here.
    pub fn fail(self, error: &Error) {
        self.0.complain(error);
    }
}

impl<'a> Loading<'a> {
    /// As [`Storing::store`].
    ///
    /// # Errors
    /// As [`Storing::store`].
    pub fn store(mut self, directory: &Path) -> Result<Restoring<'a>, Broken> {
        match receive_files(&mut self.0, &self.1, directory) {
            Ok(()) => Ok(Restoring(self.0)),
            Err(error) => Err(told(self.0, error)),
        }
    }

    /// Says what failed here: the manifest shows something that cannot be here.
    pub fn fail(self, error: &Error) {
        self.0.complain(error);
    }
}

impl<'a> Restoring<'a> {
    /// Says that work goes on, so that the source does not give up.
    ///
    /// # Errors
    /// Every one of [`LinkError`].
    pub fn alive(&mut self) -> Result<(), LinkError> {
        self.0.alive()
    }

    /// Says that the machine is here, held still, and waits for the word.
    ///
    /// # Errors
    /// Every one of [`LinkError`]: the machine is the source's, and what is here has to go.
    pub fn restored(mut self) -> Result<Going<'a>, LinkError> {
        self.0.say(&FromTarget::Restored)?;
        match self.0.hear()? {
            FromSource::Go => Ok(Going(self.0)),
            _ => Err(LinkError::OutOfTurn),
        }
    }

    /// Says what failed here.
    pub fn fail(self, error: &Error) {
        self.0.complain(error);
    }
}

impl<'a> Restoring<'a> {
    /// As if all had come over that link.
    #[cfg(test)]
    pub(super) fn over(link: Link<'a>) -> Self {
        Self(link)
    }

    /// A part of memory is to be fetched.
    pub fn fetching(self) -> Fetching<'a> {
        Fetching(self.0)
    }
}

impl Fetching<'_> {
    /// As [`Restoring::alive`].
    ///
    /// # Errors
    /// Every one of [`LinkError`].
    pub fn alive(&mut self) -> Result<(), LinkError> {
        self.0.alive()
    }

    /// Asks for pages; not before those have come that were asked for before.
    ///
    /// # Errors
    /// Every one of [`LinkError`].
    pub fn want(&mut self, pages: Vec<Pages>) -> Result<(), LinkError> {
        self.0.say(&FromTarget::Pages(pages))
    }

    /// Waits for pages that were asked for, or for the word after [`Fetching::restored`].
    ///
    /// # Errors
    /// Every one of [`LinkError`].
    pub fn hear(&mut self) -> Result<Fetched, LinkError> {
        match self.0.hear()? {
            FromSource::Go => Ok(Fetched::Go),
            FromSource::Pages(pages) => {
                let mut content = Vec::new();
                let mut incoming = self.0.incoming();
                let length = pages.number.min(MOST) * page();
                // One byte more would be too much, and its end has to be read in any case.
                let read = incoming.by_ref().take(length + 1).read_to_end(&mut content);
                if let Some(error) = incoming.take_broken() {
                    return Err(error);
                }
                read.map_err(|error| LinkError::Failed(0, error))?;
                if u64::try_from(content.len()) != Ok(length) || pages.number > MOST {
                    return Err(LinkError::OutOfTurn);
                }
                incoming.finish().map(|()| Fetched::Pages(pages, content))
            }
            _ => Err(LinkError::OutOfTurn),
        }
    }

    /// Says that the machine is here, held still.
    ///
    /// # Errors
    /// Every one of [`LinkError`]: the machine is the source's, and what is here has to go.
    pub fn restored(&mut self) -> Result<(), LinkError> {
        self.0.say(&FromTarget::Restored)
    }

    /// Says that it runs.
    ///
    /// # Errors
    /// Every one of [`LinkError`]: what is missing will not come.
    pub fn running(&mut self) -> Result<(), LinkError> {
        self.0.say(&FromTarget::Running)
    }

    /// Says that all is here.
    ///
    /// # Errors
    /// Every one of [`LinkError`]: the machine runs here all the same, and the source will ask.
    pub fn whole(mut self) -> Result<(), LinkError> {
        self.0.say(&FromTarget::Whole)
    }

    /// Says what failed here. The machine has not run, or has ended.
    pub fn fail(self, error: &Error) {
        self.0.complain(error);
    }
}

impl Going<'_> {
    /// Says that it runs.
    ///
    /// # Errors
    /// Every one of [`LinkError`]: the machine runs here all the same, and the source will ask.
    pub fn running(mut self) -> Result<(), LinkError> {
        self.0.say(&FromTarget::Running)
    }

    /// Says that it cannot be let go here after all: nothing of it has run, and nothing will.
    pub fn fail(self, error: &Error) {
        self.0.complain(error);
    }
}
