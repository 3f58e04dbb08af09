//! The content of a file: shared where the file system can (reflink), copied in the kernel where it can, holes left out.

use std::os::fd::OwnedFd;

use rustix::fs::{SeekFrom, copy_file_range, fstat, ftruncate, ioctl_ficlone, seek};
use rustix::io::{Errno, read, retry_on_intr, write};

use super::{Cause, Watch};

/// So much is copied between two looks at whether to go on, in bytes: a hundredth of a second on a quick disk.
const PIECE: usize = 16 << 20;
/// The size of a buffer, in bytes; what cp(1) found best.
const BUFFER: usize = 256 << 10;

/// Copies all that is in `from` to the empty file `to`.
///
/// # Errors
/// What the kernel says, `ENOSPC` above all; [`Cause::Stopped`].
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd, size: u64, watch: &mut dyn Watch) -> Result<(), Cause> {
    if size > 0 && ioctl_ficlone(to, from).is_ok() {
        watch.bytes(size);
        return Ok(());
    }
    let mut end = 0;
    loop {
        // Before the look for data: of a file that grows, what is new is no hole then.
        let size = u64::try_from(fstat(from)?.st_size).unwrap_or_default();
        let start = match seek(from, SeekFrom::Data(end)) {
            Ok(start) => start,
            // Nothing but a hole is left, or nothing at all.
            Err(Errno::NXIO) if size > end => {
                watch.bytes(size - end);
                return Ok(ftruncate(to, size)?);
            }
            Err(Errno::NXIO) => return Ok(()),
            // No file of a file system's that knows holes, such as one in /proc: its size says nothing either.
            Err(Errno::INVAL | Errno::SPIPE | Errno::NOTSUP) if end == 0 => {
                return pump(from, to, u64::MAX, watch).map(drop);
            }
            Err(error) => return Err(error.into()),
        };
        watch.bytes(start - end);
        end = seek(from, SeekFrom::Hole(start))?;
        if copy_range(from, to, start..end, watch)? < end {
            return Ok(());
        }
    }
}

/// Copies a range that holds data, and gives the position where the file turned out to end, if it has shrunk.
fn copy_range(
    from: &OwnedFd,
    to: &OwnedFd,
    range: std::ops::Range<u64>,
    watch: &mut dyn Watch,
) -> Result<u64, Cause> {
    let (mut reading, mut writing) = (range.start, range.start);
    while reading < range.end {
        watch.check().map_err(Cause::Stopped)?;
        let piece = usize::try_from(range.end - reading).unwrap_or(PIECE).min(PIECE);
        match copy_file_range(from, Some(&mut reading), to, Some(&mut writing), piece) {
            Err(Errno::INTR) => {}
            // Between two kinds of file system, in old kernels between any two; and some say that there is nothing.
            Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::NOTSUP | Errno::NOSYS | Errno::PERM) => {
                seek(from, SeekFrom::Start(reading))?;
                seek(to, SeekFrom::Start(reading))?;
                return Ok(reading + pump(from, to, range.end - reading, watch)?);
            }
            Ok(count) => watch.bytes(count as u64),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(reading)
}

/// Copies at most `limit` bytes from where `from` is to where `to` is, through a buffer; gives how many it were.
fn pump(from: &OwnedFd, to: &OwnedFd, limit: u64, watch: &mut dyn Watch) -> Result<u64, Cause> {
    let mut buffer = vec![0; BUFFER];
    let mut copied = 0;
    while copied < limit {
        watch.check().map_err(Cause::Stopped)?;
        let most = usize::try_from(limit - copied).unwrap_or(BUFFER).min(BUFFER);
        let count = retry_on_intr(|| read(from, &mut buffer[..most]))?;
        if count == 0 {
            break;
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let written = retry_on_intr(|| write(to, rest))?;
            rest = &rest[written..];
        }
        copied += count as u64;
        watch.bytes(count as u64);
    }
    Ok(copied)
}
