//! The source's end: each state gives the next.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::files::{rest, send, send_files, told};
use super::{Broken, Fate, FromSource, FromTarget, Hello, Welcome};
use crate::checkpoint::listing::{Listing, unescape};
use crate::checkpoint::{Manifest, Member};
use crate::criu::images::Pages;
use crate::error::Error;
use crate::ids::MachineId;
use crate::migration::stream::{Link, LinkError};

/// No line of an answer is longer: a path, each byte of it escaped.
const LONGEST_LINE: u64 = 32 << 10;

/// The source, before it has said anything.
#[derive(Debug)]
pub struct Calling<'a>(Link<'a>);

/// The source: tree and memory may be sent.
#[derive(Debug)]
pub struct Offering<'a>(Link<'a>);

/// The source: all is sent.
#[derive(Debug)]
pub struct Sent<'a>(Link<'a>);

/// The source: the machine is there as well, and runs on neither side.
#[derive(Debug)]
pub struct Held<'a>(Link<'a>);

/// The machine was not taken over, as far as is known.
#[derive(Debug)]
pub enum NotTaken {
    /// The target says so: nothing of it ran there or will, and it goes on here.
    Back(Error),
    /// `Go` was said, and no answer came, or not the last one: the machine has to stay held until the target was asked.
    Undecided(LinkError),
    /// The target says so: it ran there, and has ended for want of its memory.
    Lost(Error),
}

/// The memory that the images have not.
pub type Store<'a> = dyn Fn(Pages) -> io::Result<(Pages, Vec<u8>)> + 'a;

impl From<LinkError> for NotTaken {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::There(error) => Self::Back(error),
            error => Self::Undecided(error),
        }
    }
}

impl<'a> Calling<'a> {
    /// At the beginning of a link.
    pub fn new(link: Link<'a>) -> Self {
        Self(link)
    }

    /// Says who calls, and waits for the answer.
    ///
    /// # Errors
    /// [`LinkError::There`] with the target's refusal; every other one.
    pub fn hello(mut self, hello: &Hello) -> Result<(Offering<'a>, Welcome), LinkError> {
        self.0.say(&FromSource::Hello(Box::new(hello.clone())))?;
        match self.0.hear()? {
            FromTarget::Welcome(welcome) => Ok((Offering(self.0), *welcome)),
            _ => Err(LinkError::OutOfTurn),
        }
    }

    /// Asks what became of a machine that was given away.
    ///
    /// # Errors
    /// As [`Calling::hello`].
    pub fn ask(mut self, id: MachineId) -> Result<Fate, LinkError> {
        self.0.say(&FromSource::Ask(id))?;
        match self.0.hear()? {
            FromTarget::Fate(fate) => Ok(fate),
            _ => Err(LinkError::OutOfTurn),
        }
    }
}

impl<'a> Offering<'a> {
    /// Says what the tree is like, and gives the paths of what the target lacks.
    ///
    /// # Errors
    /// Every one of [`LinkError`].
    pub fn listing(mut self, listing: &Listing) -> Result<(Self, BTreeSet<PathBuf>), LinkError> {
        self.0.say(&FromSource::Listing)?;
        let mut out = self.0.outgoing();
        let written = listing.write_compressed(&mut out);
        written
            .map_err(|error| LinkError::Failed(0, error))
            .and_then(|_| out.finish())
            .map_err(|error| self.0.take_broken().unwrap_or(error))?;
        match self.0.hear()? {
            FromTarget::Wanted => {}
            _ => return Err(LinkError::OutOfTurn),
        }
        let mut incoming = self.0.incoming();
        let wanted = read_paths(&mut incoming, listing);
        if let Some(error) = incoming.take_broken() {
            return Err(error);
        }
        match wanted {
            Ok(wanted) => incoming.finish().map(|()| (self, wanted)),
            Err(_) => Err(LinkError::OutOfTurn),
        }
    }

    /// Sends an archive, which `fill` writes.
    ///
    /// # Errors
    /// What `fill` gives, which the target was told, and every error of the link.
    pub fn tree<T>(
        mut self,
        fill: impl FnOnce(&mut dyn Write) -> Result<T, Error>,
    ) -> Result<(Self, T), Broken> {
        self.0.say(&FromSource::Tree)?;
        match send(&mut self.0, fill) {
            Ok(filled) => Ok((self, filled)),
            Err(error) => Err(told(self.0, error)),
        }
    }

    /// Sends the files of the `number`th copy of memory beforehand; they are at their names below `directory`.
    ///
    /// # Errors
    /// A file that cannot be read or is not as it is said to be, which the target was told; every error of the link.
    pub fn round(mut self, number: u32, files: &[Member], directory: &Path) -> Result<Self, Broken> {
        self.0.say(&FromSource::Round { number, files: files.to_vec() })?;
        match send_files(&mut self.0, files, directory) {
            Ok(()) => Ok(self),
            Err(error) => Err(told(self.0, error)),
        }
    }

    /// Says that the machine stands still from now on.
    ///
    /// # Errors
    /// Every one of [`LinkError`].
    pub fn frozen(mut self) -> Result<Self, LinkError> {
        self.0.say(&FromSource::Frozen)?;
        Ok(self)
    }

    /// Sends the manifest and the files that no round has sent, from a checkpoint's `directory`.
    ///
    /// # Errors
    /// As [`Offering::round`].
    pub fn images(mut self, manifest: &Manifest, directory: &Path) -> Result<Sent<'a>, Broken> {
        let sent =
            manifest.encode().map_err(|error| Broken::Here(Error::io("cannot write the manifest", &error)));
        let sent = sent.and_then(|manifest_text| {
            self.0.say(&FromSource::Images { manifest: manifest_text })?;
            send_files(&mut self.0, &rest(manifest), directory)
        });
        match sent {
            Ok(()) => Ok(Sent(self.0)),
            Err(error) => Err(told(self.0, error)),
        }
    }

    /// Says what failed here. The machine goes on here.
    pub fn fail(self, error: &Error) {
        self.0.complain(error);
    }
}

impl<'a> Sent<'a> {
    /// Waits until the machine is there, and gives the pages of `store` meanwhile.
    ///
    /// # Errors
    /// What `store` gives, which the target was told; every error of the link: the machine goes on here.
    pub fn restored(mut self, store: &Store<'_>) -> Result<Held<'a>, Broken> {
        loop {
            match self.0.hear()? {
                FromTarget::Restored => return Ok(Held(self.0)),
                FromTarget::Pages(wanted) => {
                    if let Err(error) = give(&mut self.0, wanted, store) {
                        return Err(told(self.0, error));
                    }
                }
                _ => return Err(LinkError::OutOfTurn.into()),
            }
        }
    }

    /// Says what failed here. The machine goes on here.
    pub fn fail(self, error: &Error) {
        self.0.complain(error);
    }
}

impl Held<'_> {
    /// Gives the machine away, and waits until it runs there.
    ///
    /// # Errors
    /// [`NotTaken`]: undecided even where the word could not be said, for it may have gone all the same.
    pub fn go(mut self) -> Result<(), NotTaken> {
        self.0.say(&FromSource::Go)?;
        match self.0.hear()? {
            FromTarget::Running => Ok(()),
            _ => Err(NotTaken::Undecided(LinkError::OutOfTurn)),
        }
    }

    /// Gives the machine away, and the pages of `store` until it has all. `runs` is told when it runs there.
    ///
    /// # Errors
    /// As [`Held::go`]; also when the rest of its memory did not get there.
    pub fn go_serving(mut self, store: &Store<'_>, runs: &mut dyn FnMut()) -> Result<(), NotTaken> {
        let mut ran = false;
        self.0.say(&FromSource::Go)?;
        loop {
            match self.0.hear() {
                Ok(FromTarget::Running) if !ran => {
                    ran = true;
                    runs();
                }
                Ok(FromTarget::Pages(wanted)) => match give(&mut self.0, wanted, store) {
                    Ok(()) => {}
                    Err(Broken::Link(LinkError::There(error))) if ran => return Err(NotTaken::Lost(error)),
                    Err(Broken::Link(error)) => return Err(error.into()),
                    Err(Broken::Here(error)) => {
                        let broken = LinkError::Failed(0, io::Error::other(error.to_string()));
                        self.0.complain(&error);
                        return Err(NotTaken::Undecided(broken));
                    }
                },
                Ok(FromTarget::Whole) if ran => return Ok(()),
                Ok(_) => return Err(NotTaken::Undecided(LinkError::OutOfTurn)),
                Err(LinkError::There(error)) if ran => return Err(NotTaken::Lost(error)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Keeps it instead: says what failed here.
    pub fn fail(self, error: &Error) {
        self.0.complain(error);
    }
}

fn give(link: &mut Link<'_>, wanted: Vec<Pages>, store: &Store<'_>) -> Result<(), Broken> {
    wanted.into_iter().try_for_each(|wanted| give_one(link, wanted, store))
}

fn give_one(link: &mut Link<'_>, wanted: Pages, store: &Store<'_>) -> Result<(), Broken> {
    let found = store(wanted);
    let (pages, content) =
        found.map_err(|error| Broken::Here(Error::io("cannot read its memory", &error)))?;
    link.say(&FromSource::Pages(pages))?;
    send(link, |out| out.write_all(&content).map_err(|error| Error::io("cannot send its memory", &error)))
}

/// Paths of `listing`. Nobody can want what is not there, or more than there is.
fn read_paths(from: &mut dyn Read, listing: &Listing) -> io::Result<BTreeSet<PathBuf>> {
    let mut from = BufReader::new(from);
    let (mut paths, mut line) = (BTreeSet::new(), String::new());
    loop {
        line.clear();
        if from.by_ref().take(LONGEST_LINE).read_line(&mut line)? == 0 {
            return Ok(paths);
        }
        let path = line.strip_suffix('\n').and_then(|line| unescape(line.strip_prefix("./")?));
        let path = path.map(|path| PathBuf::from(OsStr::from_bytes(&path)));
        let path = path.filter(|path| listing.entry(path).is_some()).ok_or(io::ErrorKind::InvalidData)?;
        if !paths.insert(path) {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}
