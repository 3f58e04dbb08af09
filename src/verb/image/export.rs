//! `osier image export`: an image as one file.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::carried::{Follower, Source, not_archived};
use crate::cli::ImageExport;
use crate::clock::state::State;
use crate::error::{Context, Error, Kind, Result};
use crate::image::archive::{ArchiveError, Compression, Encoder, Packed, Packing, pack};
use crate::interrupt::Interrupt;
use crate::transfer::printable;
use crate::verb::copy::raise_descriptors;

/// The note of an archive that says where the clocks are: what the file beside an image says.
pub(super) const CLOCKS: &str = "OSIER.clocks";

/// As much a pipe takes at once that has room at all, in bytes (PIPE_BUF, man 7 pipe).
const ATOMIC: usize = 4096;
/// How often who waits for another process looks whether it is to stop, in milliseconds.
const PACE: u16 = 100;

/// `osier image export`.
///
/// # Errors
/// Whatever keeps the archive from being made; nothing is left of it then.
pub(super) fn execute(options: &ImageExport) -> Result<()> {
    let what = format!("cannot export '{}'", options.image.display());
    export(options).map_err(|error| error.within(what))
}

fn export(options: &ImageExport) -> Result<()> {
    let ImageExport { image, file, along } = options;
    let compression = compression(file)?;
    let source = Source::take(image)?;
    let clocks = along.with_clocks.then(|| source.clocks()).transpose()?;
    let interrupt = Interrupt::watch().context(|| "cannot watch for signals")?;
    raise_descriptors();
    let out = Out::open(file, &interrupt)?;
    let mut follower = Follower::new(&interrupt, along.quiet);
    let packed = write(&source.path, clocks.as_ref(), (compression, &out), &mut follower);
    drop(follower);
    let packed = match packed {
        _ if interrupt.check().is_err() => return Err(not_archived(&ArchiveError::Interrupted)),
        packed => packed.map_err(|error| not_archived(&error))?,
    };
    out.close().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(file),
        _ => Error::io(format!("cannot make '{}'", printable(file)), &error),
    })?;
    if !packed.sockets.is_empty() && !along.quiet {
        let count = packed.sockets.len();
        let noun = if count == 1 { "socket was" } else { "sockets were" };
        crate::error::say(format_args!("osier: {count} {noun} left out: no archive can hold one\n"));
    }
    Ok(())
}

fn compression(file: &Path) -> Result<Compression> {
    if file == Path::new("-") {
        return Ok(Compression::None);
    }
    Compression::from_name(file).ok_or_else(|| {
        Error::usage(format!("cannot tell from '{}' what is to be made", printable(file)))
            .because("its name ends in none of .tar, .tar.zst, .tar.gz")
            .hint("for another compression: osier image export NAME - | xz > FILE")
    })
}

fn write(
    tree: &Path,
    clocks: Option<&State>,
    (compression, out): (Compression, &Out<'_>),
    follower: &mut Follower<'_>,
) -> std::result::Result<Packed, ArchiveError> {
    let clocks = clocks.map(State::to_bytes);
    let notes: Vec<_> = clocks.iter().map(|clocks| (CLOCKS, clocks.as_slice())).collect();
    let mut encoder = Encoder::open(compression, out).map_err(ArchiveError::Stream)?;
    let packing = Packing { only: None, notes: &notes, watch: &mut |count| follower.proceed(count) };
    let packed = pack(tree, &mut encoder, packing)?;
    encoder.close().map_err(ArchiveError::Stream)?;
    Ok(packed)
}

/// Where the archive goes.
enum Out<'a> {
    /// To whoever reads: a pipe, a device.
    Stream(File, &'a Interrupt),
    /// Into a file, which gets its name when it is whole.
    Growing { file: File, path: PathBuf, target: PathBuf },
}

impl<'a> Out<'a> {
    fn open(target: &Path, interrupt: &'a Interrupt) -> Result<Self> {
        if target == Path::new("-") {
            let stdout = io::stdout();
            if stdout.is_terminal() {
                return Err(Error::usage("cannot write an archive to a terminal")
                    .hint("give the name of a file, or let something read from it"));
            }
            let stdout = stdout.as_fd().try_clone_to_owned().context(|| "cannot use standard output")?;
            return Ok(Self::Stream(stdout.into(), interrupt));
        }
        match target.symlink_metadata() {
            Ok(_) => match fs::metadata(target).map(|metadata| metadata.file_type()) {
                Ok(kind) if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() => {
                    let opened = File::options().write(true).open(target);
                    let file = opened.context(|| format!("cannot open '{}'", printable(target)))?;
                    Ok(Self::Stream(file, interrupt))
                }
                _ => Err(exists(target)),
            },
            Err(_) => Self::grow(target),
        }
    }

    fn grow(target: &Path) -> Result<Self> {
        let mut hidden = OsString::from(".#");
        hidden.push(target.file_name().unwrap_or_default());
        hidden.push(format!(".osier-{}", std::process::id()));
        let path = target.with_file_name(hidden);
        let file = File::create_new(&path).context(|| format!("cannot make '{}'", printable(target)))?;
        Ok(Self::Growing { file, path, target: target.to_owned() })
    }

    /// All of it was written.
    fn close(mut self) -> io::Result<()> {
        let Self::Growing { file, path, target } = &mut self else { return Ok(()) };
        file.sync_all()?;
        match renameat_with(CWD, &*path, CWD, &*target, RenameFlags::NOREPLACE) {
            // Not every file system can.
            Err(Errno::INVAL | Errno::NOSYS) if target.symlink_metadata().is_err() => {
                fs::rename(&*path, &*target)?;
            }
            renamed => renamed?,
        }
        // There is nothing to remove any more.
        *path = PathBuf::new();
        Ok(())
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        if let Self::Growing { path, .. } = self
            && !path.as_os_str().is_empty()
        {
            let _ = fs::remove_file(path);
        }
    }
}

impl Write for &Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Out::Growing { file, .. } => (&*file).write(bytes),
            Out::Stream(file, interrupt) => {
                await_ready(file.as_fd(), PollFlags::POLLOUT, interrupt)?;
                (&*file).write(&bytes[..bytes.len().min(ATOMIC)])
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until something can be read or written, or the user wants an end: a signal alone does not break off a read(2) that
/// is begun again after it (man 7 signal, SA_RESTART).
///
/// # Errors
/// What poll(2) gives; `ErrorKind::Other` for the end.
pub(super) fn await_ready(fd: BorrowedFd<'_>, what: PollFlags, interrupt: &Interrupt) -> io::Result<()> {
    loop {
        interrupt.check().map_err(|_| io::Error::other("interrupted"))?;
        match poll(&mut [PollFd::new(fd, what)], PollTimeout::from(PACE)) {
            Ok(0) | Err(nix::Error::EINTR) => {}
            ready => return Ok(ready.map(drop)?),
        }
    }
}

fn exists(file: &Path) -> Error {
    Error::new(Kind::InUse, format!("'{}' exists already", printable(file)))
        .hint("remove it first, or give another name")
}
