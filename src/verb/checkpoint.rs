//! `osier checkpoint`: a machine saved with all that runs in it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::BinaryBytes;

use super::may::may;
use super::unknown;
use crate::checkpoint::listing::{Depth, Listing};
use crate::checkpoint::{self, Compression, DIRECTORY, Draft, Form, TREE, TREE_COMPRESSED, Watch};
use crate::cli::Checkpoint;
use crate::criu::{Criu, Memory};
use crate::duration;
use crate::error::{Context, Error, Kind, Result};
use crate::image::archive;
use crate::interrupt::Interrupt;
use crate::machine::record::Store;
use crate::machine::snapshot::{Candidate, Still};

/// Saves a machine. It ends, or goes on where that was asked for.
///
/// # Errors
/// When it is not there, cannot be saved, or there is no room; it goes on as if nothing had been.
pub fn execute(options: &Checkpoint, store: &Store) -> Result<()> {
    make(options, store, Tree::Itself)
}

/// What a machine is to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tree {
    /// The tree in which it ran.
    Itself,
    /// A copy of that.
    Copy,
}

/// As [`execute`], of a machine that is to go on from `tree`.
///
/// # Errors
/// As [`execute`].
pub(super) fn make(options: &Checkpoint, store: &Store, tree: Tree) -> Result<()> {
    let name = &options.name;
    let record = store.read(name).ok_or_else(|| unknown(store, name))?;
    may(&record, "checkpoint")?;
    let (target, form) = target(options)?;
    let interrupt = Interrupt::watch().context(|| "cannot catch signals")?;
    let candidate = Candidate::open(store, record).map(|candidate| match tree {
        // A tree that is taken along is made anew somewhere.
        Tree::Itself if !options.content.with_tree => candidate,
        Tree::Itself | Tree::Copy => candidate.from_a_copy(),
    });
    let saved = save(options, candidate, (&target, form), &interrupt);
    let (size, stood) = saved.map_err(|error| error.within(format!("cannot checkpoint '{name}'")))?;
    if options.tool.quiet {
        return Ok(());
    }
    let (size, stood) = (BinaryBytes(size), duration::taken(stood));
    super::print(&format!("'{name}' is saved in {}: {size}; it stood still for {stood}\n", target.display()))
}

fn save(
    options: &Checkpoint,
    candidate: Result<Candidate<'_>>,
    (target, form): (&Path, Form),
    interrupt: &Interrupt,
) -> Result<(u64, Duration)> {
    let candidate = candidate?.staying(options.leave_running);
    let criu = Criu::find(options.tool.criu.as_deref())?;
    for (visitor, pid) in candidate.check()?.visitors {
        crate::error::say(format_args!(
            "osier: '{visitor}' (PID {pid} inside) came in from outside and is not saved\n"
        ));
    }
    checkpoint::require(target, form, candidate.size()?)?;
    let draft = Draft::begin(target, form)?;
    let still = candidate.dump(&criu, &draft.images(), Memory::Whole, interrupt)?;
    let mut manifest = still.manifest(&criu)?;
    let mut watch = Progress(interrupt);
    let root = candidate.record().root.clone();
    let listing = Listing::read(&root, Depth::Quick, &mut watch).map_err(|error| {
        Error::new(Kind::Failed, format!("cannot read '{}'", root.display())).because(error)
    })?;
    manifest.tree.listing = Some(draft.listing(&listing)?);
    if options.content.with_tree {
        pack(&root, &draft.directory(), options.content.compress, interrupt)?;
    }
    if options.leave_running {
        still.check()?;
        let stood = still.stood();
        still.release()?;
        return Ok((draft.complete(&mut manifest, &mut watch)?, stood));
    }
    let size = draft.complete(&mut manifest, &mut Standing { still: &still, watch })?;
    let stood = still.stood();
    still.end()?;
    Ok((size, stood))
}

/// The tree itself, as it stands still.
fn pack(root: &Path, into: &Path, compressed: bool, interrupt: &Interrupt) -> Result<()> {
    let (name, compression) = match compressed {
        true => (TREE_COMPRESSED, archive::Compression::Zstd),
        false => (TREE, archive::Compression::None),
    };
    let path = into.join(name);
    let file = File::create_new(&path).context(|| format!("cannot make '{}'", path.display()))?;
    let packed = archive::Encoder::open(compression, file).map_err(archive::ArchiveError::Stream).and_then(
        |mut out| {
            let mut watch = |_| interrupt.check();
            archive::pack(root, &mut out, archive::Packing { only: None, notes: &[], watch: &mut watch })?;
            out.close().map_err(archive::ArchiveError::Stream)
        },
    );
    packed.map(drop).map_err(|error| {
        Error::new(Kind::Failed, format!("cannot take '{}' along", root.display())).because(error)
    })
}

/// Where it is to be, whose directory is there.
fn target(options: &Checkpoint) -> Result<(PathBuf, Form)> {
    let target = match &options.to {
        Some(target) => target.clone(),
        None => directory()?.join(&options.name),
    };
    let form = match Form::of(&target) {
        Form::File(_) if options.content.compress => Form::File(Compression::Zstd),
        Form::Directory if options.content.compress => {
            return Err(Error::usage("--compress")
                .because("a checkpoint that is a directory is not compressed")
                .hint(format!("--to={}.osier makes it a file", target.display())));
        }
        form => form,
    };
    match fs::symlink_metadata(&target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((target, form)),
        _ => Err(Error::new(Kind::InUse, format!("cannot make '{}'", target.display()))
            .because("there is something of that name")
            .hint("--to names another place")),
    }
}

/// [`DIRECTORY`], made where it is not there: root's alone, for a machine's memory has its secrets in it.
///
/// # Errors
/// What mkdir(2) gives.
pub(super) fn directory() -> Result<PathBuf> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(DIRECTORY);
    made.context(|| format!("cannot make {DIRECTORY}"))?;
    Ok(DIRECTORY.into())
}

/// Breaks off when a signal has come.
pub(super) struct Progress<'a>(pub(super) &'a Interrupt);

impl Watch for Progress<'_> {
    fn bytes(&mut self, _: u64) {}

    fn check(&mut self) -> std::result::Result<(), String> {
        self.0.check().map_err(|_| "it was interrupted".to_owned())
    }
}

/// Breaks off as well when the machine does not stand still any more: what is being written is of the past then. Asked for the last
/// time before it gets its name.
struct Standing<'a> {
    still: &'a Still<'a>,
    watch: Progress<'a>,
}

impl Watch for Standing<'_> {
    fn bytes(&mut self, count: u64) {
        self.watch.bytes(count);
    }

    fn check(&mut self) -> std::result::Result<(), String> {
        self.watch.check()?;
        self.still.check().map_err(|error| error.to_string())
    }
}
