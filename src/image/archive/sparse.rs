//! Where a file has content and where holes: found in a file, written as GNU tar's sparse format 1.0 and read from it.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::{ArchiveError, BLOCK};

/// The most regions that one file may have: a map of more would take the memory of the host.
const MOST_REGIONS: u64 = 4 << 20;

/// Where content is: its start and its length, in bytes; in order, and none touches the next.
pub(super) type Region = (u64, u64);

/// The regions of an open file of `size` bytes; `None` when it has no holes, or its file system does not tell.
pub(super) fn find(file: impl AsFd, size: u64) -> io::Result<Option<Vec<Region>>> {
    let file = file.as_fd();
    let (mut regions, mut end) = (Vec::new(), 0);
    while end < size {
        let start = match seek(file, SeekFrom::Data(end)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        end = seek(file, SeekFrom::Hole(start))?.min(size);
        if start >= end {
            break;
        }
        regions.push((start, end - start));
    }
    Ok((regions != [(0, size)]).then_some(regions))
}

/// The map that precedes the content, filled up to a whole block.
pub(super) fn write(regions: &[Region], size: u64) -> Vec<u8> {
    // A last region of no bytes says where a hole at the end ends.
    let end = regions.last().is_none_or(|(start, length)| start + length < size).then_some((size, 0));
    let regions = || regions.iter().copied().chain(end);
    let mut text = format!("{}\n", regions().count());
    for (start, length) in regions() {
        text.push_str(&format!("{start}\n{length}\n"));
    }
    let mut text = text.into_bytes();
    text.resize(text.len().next_multiple_of(BLOCK as usize), 0);
    text
}

/// Reads a map; `next` gives one block at a time.
///
/// # Errors
/// [`ArchiveError::Malformed`] when it is no map, and what `next` gives.
pub(super) fn read(
    mut next: impl FnMut() -> Result<[u8; BLOCK as usize], ArchiveError>,
) -> Result<Vec<Region>, ArchiveError> {
    let broken = || ArchiveError::malformed("the map of a sparse file in it is broken");
    let (mut block, mut at) = (next()?, 0);
    let mut number = || {
        let mut value: u64 = 0;
        for digits in 0..20 {
            if at == block.len() {
                (block, at) = (next()?, 0);
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'\n' if digits > 0 => return Ok(value),
                b'0'..=b'9' => {
                    let more =
                        value.checked_mul(10).and_then(|value| value.checked_add(u64::from(byte - b'0')));
                    value = more.ok_or_else(broken)?;
                }
                _ => return Err(broken()),
            }
        }
        Err(broken())
    };
    let count = number()?;
    if count > MOST_REGIONS {
        return Err(broken());
    }
    (0..count).map(|_| Ok((number()?, number()?))).collect()
}

/// Holds the regions of a file of `size` bytes, of which `stored` are in the archive, to what [`Region`] says.
///
/// # Errors
/// [`ArchiveError::Malformed`].
pub(super) fn check(regions: &[Region], size: u64, stored: u64) -> Result<(), ArchiveError> {
    let (mut end, mut sum) = (0, 0);
    for (start, length) in regions {
        let next = start.checked_add(*length).filter(|next| *start >= end && *next <= size);
        end = next.ok_or_else(|| ArchiveError::malformed("the map of a sparse file in it is broken"))?;
        sum += length;
    }
    if sum == stored { Ok(()) } else { Err(ArchiveError::malformed("a sparse file in it is not whole")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_as_it_was_written() {
        let many: Vec<Region> = (0..2000).map(|at| (at * 8192, 4096)).collect();
        for (regions, size) in
            [(vec![], 1 << 40), (vec![(0, 5)], 10), (vec![(5, 5)], 10), (many, 2000 * 8192)]
        {
            let text = write(&regions, size);
            assert_eq!(text.len() % 512, 0);
            let mut blocks = text.chunks(512).map(|block| block.try_into().unwrap());
            let mut read = read(|| blocks.next().ok_or(ArchiveError::Interrupted)).unwrap();
            assert!(blocks.next().is_none());
            check(&read, size, regions.iter().map(|(_, length)| length).sum()).unwrap();
            if read.last().is_some_and(|(_, length)| *length == 0) {
                read.pop();
            }
            assert_eq!(read, regions);
        }
    }

    #[test]
    fn a_map_that_lies_is_refused() {
        let read_text = |text: &str| {
            let mut block = [0; 512];
            block[..text.len()].copy_from_slice(text.as_bytes());
            read(|| Ok(block))
        };
        for text in ["", "\n", "x\n", "99999999999\n", "1\n99999999999999999999999\n1\n", "-1\n"] {
            assert!(read_text(text).is_err(), "{text:?}");
        }
        for regions in
            [vec![(5, 5), (0, 1)], vec![(0, 5), (4, 1)], vec![(8, 3)], vec![(u64::MAX, 1)], vec![(0, 5)]]
        {
            assert!(check(&regions, 10, 6).is_err(), "{regions:?}");
        }
    }
}
