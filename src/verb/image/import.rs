//! `osier image import`: an image of what an archive holds.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::Path;

use nix::poll::PollFlags;

use super::carried::{Follower, no_place, not_archived, target};
use super::export::{CLOCKS, await_ready};
use crate::cli::ImageImport;
use crate::clock::state::State;
use crate::error::{Context, Error, Kind, Result};
use crate::image::archive::{ArchiveError, Decoder, Unpacked, unpack};
use crate::image::{self, FreshError};
use crate::interrupt::Interrupt;
use crate::transfer::printable;

/// `osier image import`.
///
/// # Errors
/// Whatever keeps the image from being made; nothing is left of it then.
pub(super) fn execute(options: &ImageImport) -> Result<()> {
    let what = format!("cannot import '{}'", printable(&options.file));
    import(options).map_err(|error| error.within(what))
}

fn import(options: &ImageImport) -> Result<()> {
    let ImageImport { file, target: named, along } = options;
    let to = match named {
        Some(named) => target(named)?,
        None => target(&name_of(file)?)?,
    };
    let interrupt = Interrupt::watch().context(|| "cannot watch for signals")?;
    let from = In { file: open(file)?, interrupt: &interrupt };
    let mut follower = Follower::new(&interrupt, along.quiet);
    let made = image::make(&to, &interrupt, |tree| {
        let unpacked = read(from, tree, &mut follower)?;
        if !along.with_clocks {
            return Ok(None);
        }
        let note = unpacked.notes.iter().find(|(key, _)| key == CLOCKS);
        let (_, text) = note.ok_or(NotImported::NoClocks)?;
        State::parse(text, file).map(Some).map_err(|error| NotImported::Clocks(error.to_string()))
    });
    drop(follower);
    let interrupted = interrupt.check().is_err();
    made.map(drop).map_err(|error| match error {
        FreshError::Place(error) => no_place(&error),
        FreshError::Content(_) if interrupted => not_archived(&ArchiveError::Interrupted),
        FreshError::Content(error) => error.say(),
    })
}

/// Why an archive has become no image.
enum NotImported {
    Archive(ArchiveError),
    NoClocks,
    Clocks(String),
}

impl From<ArchiveError> for NotImported {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

impl NotImported {
    fn say(&self) -> Error {
        match self {
            Self::Archive(error) => not_archived(error),
            Self::NoClocks => Error::new(Kind::NotFound, "there are no clocks in it")
                .hint("leave out --with-clocks, or export it with that"),
            Self::Clocks(why) => Error::new(Kind::Failed, "cannot use the clocks in it")
                .because(why)
                .hint("leave out --with-clocks"),
        }
    }
}

fn read(
    from: In<'_>,
    tree: &Path,
    follower: &mut Follower<'_>,
) -> std::result::Result<Unpacked, ArchiveError> {
    let mut decoder = Decoder::open(from)?;
    let unpacked = unpack(&mut decoder, tree, &mut |count| follower.proceed(count))?;
    decoder.close()?;
    Ok(unpacked)
}

fn open(file: &Path) -> Result<File> {
    if file == Path::new("-") {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Err(Error::usage("cannot read an archive from a terminal")
                .hint("give the name of a file, or let something write to it"));
        }
        return Ok(stdin.as_fd().try_clone_to_owned().context(|| "cannot use standard input")?.into());
    }
    let opened = File::open(file).and_then(|opened| match opened.metadata()?.is_dir() {
        true => Err(io::ErrorKind::IsADirectory.into()),
        false => Ok(opened),
    });
    opened.map_err(|error| Error::io("cannot open it", &error))
}

/// The name that a file gives to an image: `web` of `/tmp/web.tar.zst`.
fn name_of(file: &Path) -> Result<OsString> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let endings = [".tar.zst", ".tar.gz", ".tzst", ".tgz", ".tar"];
    match endings.iter().find_map(|ending| name.strip_suffix(ending)) {
        Some(name) if !name.is_empty() => Ok(name.into()),
        _ => Err(Error::usage("the image needs a name").hint("osier image import FILE NAME")),
    }
}

/// What is read, in turns that the user can break off.
struct In<'a> {
    file: File,
    interrupt: &'a Interrupt,
}

impl Read for In<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        await_ready(self.file.as_fd(), PollFlags::POLLIN, self.interrupt)?;
        self.file.read(into)
    }
}
