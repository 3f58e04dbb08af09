//! Streams and files over the link, and whose failure it is when they break.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Broken;
use crate::checkpoint::{Manifest, Member, Summing};
use crate::error::{Error, Kind};
use crate::migration::stream::Link;

/// The files that come with the manifest.
pub(super) fn rest(manifest: &Manifest) -> Vec<Member> {
    let sent_before = |file: &&Member| !file.name.as_str().starts_with("round-");
    manifest.files.iter().filter(sent_before).cloned().collect()
}

pub(super) fn told(link: Link<'_>, error: Broken) -> Broken {
    if let Broken::Here(error) = &error {
        link.complain(error);
    }
    error
}

/// Sends what `fill` writes. The link's error comes before what `fill` made of it.
pub(super) fn send<T>(
    link: &mut Link<'_>,
    fill: impl FnOnce(&mut dyn Write) -> Result<T, Error>,
) -> Result<T, Broken> {
    let mut out = link.outgoing();
    let filled = fill(&mut out);
    let finished = if filled.is_ok() { out.finish() } else { Ok(()) };
    if let Some(error) = link.take_broken() {
        return Err(error.into());
    }
    finished?;
    filled.map_err(Broken::Here)
}

pub(super) fn send_files(link: &mut Link<'_>, files: &[Member], directory: &Path) -> Result<(), Broken> {
    for file in files {
        let path = directory.join(file.name.as_str());
        let cannot = || format!("cannot send '{}'", path.display());
        send(link, |out| {
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
            let mut content = Summing::new(opened.map_err(|error| Error::io(cannot(), &error))?);
            io::copy(&mut content, out).map_err(|error| Error::io(cannot(), &error))?;
            let (sum, size, _) = content.finish();
            match (sum, size) == (file.sha256, file.size) {
                true => Ok(()),
                false => Err(Error::new(Kind::Failed, cannot()).because("it was changed meanwhile")),
            }
        })?;
    }
    Ok(())
}

pub(super) fn receive_files(link: &mut Link<'_>, files: &[Member], directory: &Path) -> Result<(), Broken> {
    for file in files {
        let stored = store(&mut link.incoming(), file, directory);
        if let Some(error) = link.take_broken() {
            return Err(error.into());
        }
        stored.map_err(Broken::Here)?;
    }
    Ok(())
}

fn store(from: &mut dyn Read, file: &Member, directory: &Path) -> Result<(), Error> {
    let path = directory.join(file.name.as_str());
    let cannot = || format!("cannot store '{}'", path.display());
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let to: File = created.map_err(|error| Error::io(cannot(), &error))?;
    let mut to = Summing::new(to);
    // One byte more would be too much, and its end has to be read in any case.
    let copied = io::copy(&mut from.take(file.size.saturating_add(1)), &mut to);
    copied.map_err(|error| Error::io(cannot(), &error))?;
    let (sum, size, _) = to.finish();
    match (sum, size) == (file.sha256, file.size) {
        true => Ok(()),
        false => Err(Error::new(Kind::Failed, cannot()).because("it is not what the manifest says")),
    }
}
