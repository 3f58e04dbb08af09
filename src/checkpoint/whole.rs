//! A checkpoint that is there: read, looked at as a whole, and made ready for a restore.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use super::Watch;
use super::cause::{At, Cause, CheckpointError, Of};
use super::draft::{Form, PARENT, copy, create, entries, open};
use super::file::{self, Compression, Next, Sink};
use super::listing::Listing;
use super::manifest::{LONGEST, Manifest};
use super::member::{IMAGES, LISTING, MANIFEST, Member, Summing, TREE, TREE_COMPRESSED, is_directory, round};
use super::room::free;
use super::scratch::Scratch;

/// A checkpoint of which the manifest has been read, and nothing else.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    form: Form,
    /// The file; or the directory, which is not read through this.
    file: File,
    manifest: Manifest,
}

/// A checkpoint of which every byte has been looked at, as a directory. One that was a file is gone when this is dropped.
#[derive(Debug)]
pub struct Unpacked {
    pub(super) directory: PathBuf,
    pub(super) _scratch: Option<Scratch>,
}

impl Checkpoint {
    /// Reads the manifest of the checkpoint `path`.
    ///
    /// # Errors
    /// [`Cause::NotThere`], [`Cause::Foreign`], [`Cause::Version`] and all others that a manifest gives.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::read(path).reading(path)
    }

    fn read(path: &Path) -> Result<Self, Cause> {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Cause::NotThere),
            opened => opened.at(path)?,
        };
        let kind = file.metadata().at(path)?.file_type();
        let (form, manifest) = if kind.is_dir() {
            (Form::Directory, read_directory(path)?)
        } else if kind.is_file() {
            let mut beginning = Beginning(None);
            file::read(&file, path, &mut beginning)?;
            (Form::File(Compression::None), beginning.0.ok_or(Cause::Cut(0))?)
        } else {
            return Err(Cause::Foreign("it is neither a file nor a directory".to_owned()));
        };
        Ok(Self { path: path.to_owned(), form, file, manifest })
    }

    /// What it is of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at every byte, and makes nothing.
    ///
    /// # Errors
    /// What is wrong with it; [`Cause::Stopped`].
    pub fn verify(&self, watch: &mut dyn Watch) -> Result<(), CheckpointError> {
        match self.form {
            Form::Directory => verify_directory(&self.path, &self.manifest, watch),
            Form::File(_) => self.read_file(None, watch),
        }
        .reading(&self.path)
    }

    /// Looks at every byte. A file is unpacked meanwhile, into a hidden directory in `place`; a directory is used where it
    /// is. The caller has what is given for as long as it is in use.
    ///
    /// # Errors
    /// As [`Checkpoint::verify`]; [`Cause::NoRoom`]. Nothing is left then.
    pub fn unpack(&self, place: &Path, watch: &mut dyn Watch) -> Result<Unpacked, CheckpointError> {
        self.unpack_into(place, watch).reading(&self.path)
    }

    fn unpack_into(&self, place: &Path, watch: &mut dyn Watch) -> Result<Unpacked, Cause> {
        if self.form == Form::Directory {
            verify_directory(&self.path, &self.manifest, watch)?;
            return Ok(Unpacked { directory: self.path.clone(), _scratch: None });
        }
        let (needed, free) = (self.manifest.size(), free(place).at(place)?);
        if needed > free {
            return Err(Cause::NoRoom { needed, free });
        }
        let scratch = Scratch::make(place)?;
        self.read_file(Some(scratch.path()), watch)?;
        link_rounds(scratch.path(), self.manifest.rounds)?;
        Ok(Unpacked { directory: scratch.path().to_owned(), _scratch: Some(scratch) })
    }

    fn read_file(&self, into: Option<&Path>, watch: &mut dyn Watch) -> Result<(), Cause> {
        let mut members = Members { manifest: &self.manifest, into, watch };
        file::read(&self.file, &self.path, &mut members)
    }
}

/// CRIU finds what a round has not by a link to the one before.
pub(super) fn link_rounds(directory: &Path, rounds: u32) -> Result<(), Cause> {
    for number in 2..=rounds {
        link_parent(&directory.join(round(number)), number - 1)?;
    }
    if rounds > 0 {
        link_parent(&directory.join(IMAGES), rounds)?;
    }
    Ok(())
}

fn link_parent(directory: &Path, number: u32) -> Result<(), Cause> {
    let link = directory.join(PARENT);
    symlink(format!("../{}", round(number)), &link).at(&link)
}

impl Unpacked {
    /// The checkpoint's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the machine's tree was like, where that was written down.
    ///
    /// # Errors
    /// What reading gives; [`Cause::Altered`] for what is no listing.
    pub fn listing(&self) -> Result<Option<Listing>, CheckpointError> {
        let path = self.directory.join(LISTING);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.at(&path).reading(&self.directory)?,
        };
        let listing = Listing::parse_compressed(file).map_err(|_| Cause::Altered(LISTING.to_owned()));
        listing.map(Some).reading(&self.directory)
    }

    /// The archive of the machine's tree, compressed or not, where it is in it.
    pub fn tree(&self) -> Option<PathBuf> {
        let paths = [TREE, TREE_COMPRESSED].map(|name| self.directory.join(name));
        paths.into_iter().find(|path| path.exists())
    }

    /// CRIU's images. Nothing may be written there: one more file, and the checkpoint is another one.
    pub fn images(&self) -> PathBuf {
        self.directory.join(IMAGES)
    }
}

/// Takes the manifest of a file.
struct Beginning(Option<Manifest>);

impl Sink for Beginning {
    fn manifest(&mut self, manifest: Manifest) -> Result<Next, Cause> {
        self.0 = Some(manifest);
        Ok(Next::Enough)
    }

    fn member(&mut self, _: &Member, _: &mut dyn Read) -> Result<io::Result<()>, Cause> {
        Ok(Ok(()))
    }
}

/// Looks at the members of a file, and makes them where it is told to.
struct Members<'a> {
    manifest: &'a Manifest,
    into: Option<&'a Path>,
    watch: &'a mut dyn Watch,
}

impl Sink for Members<'_> {
    fn manifest(&mut self, manifest: Manifest) -> Result<Next, Cause> {
        // Written over since it was opened.
        if manifest != *self.manifest {
            return Err(Cause::ManifestAltered);
        }
        if let Some(into) = self.into {
            for name in (1..=manifest.rounds).map(round).chain([IMAGES.to_owned()]) {
                let path = into.join(name);
                DirBuilder::new().mode(0o700).create(&path).at(&path)?;
            }
        }
        Ok(Next::Members)
    }

    fn member(&mut self, member: &Member, content: &mut dyn Read) -> Result<io::Result<()>, Cause> {
        let Some(into) = self.into else { return file::drain(content, &mut io::sink(), self.watch) };
        let path = into.join(member.name.as_str());
        let mut writing = Writing { file: create(&path)?, failed: None };
        let drained = file::drain(content, &mut writing, self.watch)?;
        match writing.failed {
            Some(error) => Err(Cause::io(&path, error)),
            None => Ok(drained),
        }
    }
}

/// A file whose errors are told from those of what is read.
struct Writing {
    file: File,
    failed: Option<io::Error>,
}

impl io::Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failed = Some(error);
            }
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_directory(path: &Path) -> Result<Manifest, Cause> {
    let manifest = path.join(MANIFEST);
    let opened =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&manifest);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Cause::Foreign("there is no checkpoint.json in it".to_owned()));
        }
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(Cause::NotFile(MANIFEST.to_owned()));
        }
        opened => opened.at(&manifest)?,
    };
    let metadata = file.metadata().at(&manifest)?;
    if !metadata.is_file() {
        return Err(Cause::NotFile(MANIFEST.to_owned()));
    }
    if metadata.len() > LONGEST {
        return Err(Cause::Foreign("its checkpoint.json is too long".to_owned()));
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).at(&manifest)?;
    Manifest::decode(&text)
}

/// Every member, and that there is nothing else.
fn verify_directory(directory: &Path, manifest: &Manifest, watch: &mut dyn Watch) -> Result<(), Cause> {
    if read_directory(directory)? != *manifest {
        return Err(Cause::ManifestAltered);
    }
    for name in entries(directory)? {
        let path = directory.join(&name);
        // A link to a directory is none.
        if is_directory(&name) && fs::symlink_metadata(&path).at(&path)?.is_dir() {
            for file in entries(&path)? {
                verify_known(manifest, &format!("{name}/{file}"), &path.join(&file))?;
            }
        } else if name != MANIFEST {
            verify_known(manifest, &name, &path)?;
        }
    }
    for member in &manifest.files {
        let name = || member.name.to_string();
        let (file, size) = open(directory, &member.name)?;
        if size != member.size {
            return Err(Cause::Size { name: name(), found: size, wanted: member.size });
        }
        let mut content = Summing::new(file);
        copy(&mut content, &mut io::sink(), watch)?.at(&directory.join(member.name.as_str()))?;
        if content.finish().0 != member.sha256 {
            return Err(Cause::Altered(name()));
        }
    }
    Ok(())
}

/// A member, or the link to the round before as CRIU made it.
fn verify_known(manifest: &Manifest, name: &str, path: &Path) -> Result<(), Cause> {
    if manifest.member(name).is_some() {
        return Ok(());
    }
    let mut parents = (2..=manifest.rounds).map(|number| (round(number), number - 1));
    let last = (manifest.rounds > 0).then(|| (IMAGES.to_owned(), manifest.rounds));
    let leads =
        |number: u32| fs::read_link(path).is_ok_and(|to| to == Path::new(&format!("../{}", round(number))));
    let is_parent =
        |(directory, number): (String, u32)| name == format!("{directory}/{PARENT}") && leads(number);
    if last.is_some_and(is_parent) || parents.any(is_parent) {
        return Ok(());
    }
    Err(Cause::Unknown(name.to_owned()))
}
