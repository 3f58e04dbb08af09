//! A checkpoint being written: hidden until it is whole and on the disk, then there at once under its own name.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::Watch;
use super::cause::{At, Cause, CheckpointError, Of};
use super::file::{self, Compression};
use super::listing::Listing;
use super::manifest::Manifest;
use super::member::{IMAGES, LISTING, MANIFEST, Member, MemberName, Sum, Summing, is_directory, round};
use super::scratch::Scratch;
use super::whole::{Unpacked, link_rounds};

/// So much is read at a time.
pub(super) const PIECE: usize = 256 << 10;
/// So many files at a time wait for the disk.
const WAITING: usize = 8;
/// CRIU's link to the images of the round before.
pub(super) const PARENT: &str = "parent";

/// What a checkpoint is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A directory.
    Directory,
    /// One file.
    File(Compression),
}

impl Form {
    /// What the name of a checkpoint asks for: one that ends in `.osier` a file, any other a directory.
    pub fn of(target: &Path) -> Self {
        match target.extension() {
            Some(extension) if extension == "osier" => Self::File(Compression::None),
            _ => Self::Directory,
        }
    }
}

/// A checkpoint being written. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Draft {
    target: PathBuf,
    form: Form,
    scratch: Scratch,
}

/// The directory in which `target` is to be.
pub(super) fn parent(target: &Path) -> PathBuf {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

impl Draft {
    /// Begins the checkpoint `target`. Removes what was left beside it by others that were killed.
    ///
    /// # Errors
    /// [`Cause::Exists`] when something of that name is there; [`Cause::Io`] where nothing can be made.
    pub fn begin(target: &Path, form: Form) -> Result<Self, CheckpointError> {
        Self::prepare(target, form).writing(target)
    }

    fn prepare(target: &Path, form: Form) -> Result<Self, Cause> {
        match fs::symlink_metadata(target) {
            Ok(_) => return Err(Cause::Exists),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Cause::io(target, error)),
        }
        let draft = Self { target: target.to_owned(), form, scratch: Scratch::make(&parent(target))? };
        make_directory(&draft.directory())?;
        make_directory(&draft.images())?;
        Ok(draft)
    }

    /// Where its files are put, under the names that they are to have.
    pub fn directory(&self) -> PathBuf {
        self.scratch.path().join("checkpoint")
    }

    /// Where CRIU puts its images.
    pub fn images(&self) -> PathBuf {
        self.directory().join(IMAGES)
    }

    /// A directory for what belongs to it and is not in it. It is made, and goes with the draft.
    ///
    /// # Errors
    /// What mkdir(2) gives.
    pub fn beside(&self) -> Result<PathBuf, CheckpointError> {
        let path = self.scratch.path().join("beside");
        make_directory(&path).writing(&self.target)?;
        Ok(path)
    }

    /// Where CRIU puts the images of the `number`th copy of memory beforehand, from 1. It is made.
    ///
    /// # Errors
    /// What mkdir(2) gives.
    pub fn round(&self, number: u32) -> Result<PathBuf, CheckpointError> {
        let path = self.directory().join(round(number));
        make_directory(&path).writing(&self.target)?;
        Ok(path)
    }

    /// Writes the listing of the machine's tree; the sum that is given is the manifest's `tree.listing`.
    ///
    /// # Errors
    /// What writing gives.
    pub fn listing(&self, listing: &Listing) -> Result<Sum, CheckpointError> {
        let path = self.directory().join(LISTING);
        create(&path).and_then(|file| listing.write_compressed(file).at(&path)).writing(&self.target)
    }

    /// Completes it: `files`, `memory` and `rounds` of the manifest are what is there, and the checkpoint gets its name. Gives its
    /// size on disk.
    ///
    /// # Errors
    /// What writing gives; [`Cause::Name`] and [`Cause::NotFile`] for what cannot belong to a checkpoint; [`Cause::Stopped`].
    pub fn complete(self, manifest: &mut Manifest, watch: &mut dyn Watch) -> Result<u64, CheckpointError> {
        self.finish(manifest, watch).writing(&self.target)
    }

    /// Has `files`, `memory` and `rounds` of the manifest be what is there, for who sends it instead of keeping it.
    ///
    /// # Errors
    /// As [`Draft::complete`].
    pub fn seal(&self, manifest: &mut Manifest, watch: &mut dyn Watch) -> Result<(), CheckpointError> {
        (manifest.files, manifest.rounds) = survey(&self.directory(), watch).writing(&self.target)?;
        manifest.memory = manifest.pages();
        Ok(())
    }

    /// It came from elsewhere, and every byte of it was looked at on the way: as one that was unpacked.
    ///
    /// # Errors
    /// [`Cause::Missing`] for a file of the manifest that is not there.
    pub fn received(self, manifest: &Manifest) -> Result<Unpacked, CheckpointError> {
        let target = self.target.clone();
        self.into_unpacked(manifest).writing(&target)
    }

    fn into_unpacked(self, manifest: &Manifest) -> Result<Unpacked, Cause> {
        let directory = self.directory();
        for member in &manifest.files {
            open(&directory, &member.name)?;
        }
        link_rounds(&directory, manifest.rounds)?;
        Ok(Unpacked { directory, _scratch: Some(self.scratch) })
    }

    /// The files that are in one of its directories by now.
    ///
    /// # Errors
    /// As [`Draft::complete`].
    pub fn members(&self, directory: &str, watch: &mut dyn Watch) -> Result<Vec<Member>, CheckpointError> {
        let (mut members, _) = survey(&self.directory(), watch).writing(&self.target)?;
        members.retain(|member| member.name.as_str().starts_with(&format!("{directory}/")));
        Ok(members)
    }

    fn finish(&self, manifest: &mut Manifest, watch: &mut dyn Watch) -> Result<u64, Cause> {
        let directory = self.directory();
        (manifest.files, manifest.rounds) = survey(&directory, watch)?;
        manifest.memory = manifest.pages();
        let text = manifest.encode().at(&directory.join(MANIFEST))?;
        let (whole, size) = match self.form {
            Form::Directory => {
                write_new(&directory.join(MANIFEST), text.as_bytes())?;
                synchronize(&directory, manifest)?;
                (directory, manifest.size() + text.len() as u64)
            }
            Form::File(compression) => {
                let packed = self.scratch.path().join("file");
                file::pack(&packed, compression, (&directory, manifest, &text), watch)?;
                let size = fs::metadata(&packed).at(&packed)?.len();
                (packed, size)
            }
        };
        watch.check().map_err(Cause::Stopped)?;
        place(&whole, &self.target)?;
        let parent = parent(&self.target);
        synchronize_one(&parent)?;
        Ok(size)
    }
}

fn make_directory(path: &Path) -> Result<(), Cause> {
    DirBuilder::new().mode(0o700).create(path).at(path)
}

/// A new file for its owner alone.
pub(super) fn create(path: &Path) -> Result<File, Cause> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).at(path)
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), Cause> {
    create(path)?.write_all(content).at(path)
}

/// Every file of a checkpoint's directory with its sum, sorted, and how many rounds there are.
fn survey(directory: &Path, watch: &mut dyn Watch) -> Result<(Vec<Member>, u32), Cause> {
    let mut names = Vec::new();
    let mut rounds = 0;
    for name in entries(directory)? {
        let path = directory.join(&name);
        let kind = fs::symlink_metadata(&path).at(&path)?.file_type();
        if !kind.is_dir() {
            names.push(name);
            continue;
        }
        if !is_directory(&name) {
            return Err(Cause::NotFile(name));
        }
        rounds += u32::from(name != IMAGES);
        let files = entries(&path)?.into_iter().filter(|file| file != PARENT);
        names.extend(files.map(|file| format!("{name}/{file}")));
    }
    names.sort();
    let members = names.into_iter().map(|name| {
        let name: MemberName = name.parse().map_err(|_| Cause::Name(name))?;
        measure(directory, name, watch)
    });
    Ok((members.collect::<Result<_, _>>()?, rounds))
}

/// The names in a directory.
pub(super) fn entries(directory: &Path) -> Result<Vec<String>, Cause> {
    let names = fs::read_dir(directory).at(directory)?.map(|entry| {
        let name = entry.at(directory)?.file_name();
        name.into_string().map_err(|name| Cause::Name(name.to_string_lossy().into_owned()))
    });
    names.collect()
}

/// A member's file, and nothing that a link leads to.
pub(super) fn open(directory: &Path, name: &MemberName) -> Result<(File, u64), Cause> {
    let path = directory.join(name.as_str());
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(error) => {
            return Err(match error.raw_os_error() {
                Some(libc::ENOENT) => Cause::Missing(name.to_string()),
                Some(libc::ELOOP | libc::ENXIO | libc::ENOTDIR) => Cause::NotFile(name.to_string()),
                _ => Cause::io(&path, error),
            });
        }
    };
    let metadata = file.metadata().at(&path)?;
    if !metadata.is_file() {
        return Err(Cause::NotFile(name.to_string()));
    }
    Ok((file, metadata.len()))
}

fn measure(directory: &Path, name: MemberName, watch: &mut dyn Watch) -> Result<Member, Cause> {
    let (file, _) = open(directory, &name)?;
    let path = directory.join(name.as_str());
    file.set_permissions(Permissions::from_mode(0o600)).at(&path)?;
    let mut content = Summing::new(file);
    copy(&mut content, &mut io::sink(), watch)?.at(&path)?;
    let (sha256, size, _) = content.finish();
    Ok(Member { name, size, sha256 })
}

/// Copies to the end. What the reader or the writer said is the inner error: the caller knows what they are.
pub(super) fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    watch: &mut dyn Watch,
) -> Result<io::Result<()>, Cause> {
    let mut piece = vec![0; PIECE];
    loop {
        watch.check().map_err(Cause::Stopped)?;
        let count = match from.read(&mut piece) {
            Ok(0) => return Ok(Ok(())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = to.write_all(&piece[..count]) {
            return Ok(Err(error));
        }
        watch.bytes(count as u64);
    }
}

/// Everything on the disk before the name is: whoever finds the one after a crash finds the other.
///
/// By several threads, which are gone when this returns: fsync(2) of each of a hundred images in turn waits for the file
/// system's journal a hundred times, while those that wait together are served by one commit (200 ms as against 30 ms were
/// seen). One syncfs(2) would wait for what everybody else has written as well.
fn synchronize(directory: &Path, manifest: &Manifest) -> Result<(), Cause> {
    let names = manifest.files.iter().map(|file| file.name.as_str()).chain([MANIFEST]);
    let paths: Vec<_> = names.map(|name| directory.join(name)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            synchronize_one(path)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        // One that cannot be had is no matter: this thread is another.
        let others: Vec<_> = (1..WAITING).filter_map(spawn).collect();
        let own = work();
        let others =
            others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        others.fold(own, Result::and)
    })?;
    let rounds = (1..=manifest.rounds).map(|number| directory.join(round(number)));
    rounds.chain([directory.join(IMAGES), directory.to_owned()]).try_for_each(|path| synchronize_one(&path))
}

fn synchronize_one(path: &Path) -> Result<(), Cause> {
    File::open(path).and_then(|file| file.sync_all()).at(path)
}

fn place(whole: &Path, target: &Path) -> Result<(), Cause> {
    match renameat_with(CWD, whole, CWD, target, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => Err(Cause::Exists),
        // Not every file system can; then somebody may be quicker by a hair.
        Err(Errno::INVAL | Errno::NOSYS) if !target.exists() => fs::rename(whole, target).at(target),
        renamed => renamed.at(target),
    }
}
