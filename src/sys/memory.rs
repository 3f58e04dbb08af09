//! Giving memory back.

use std::io;

/// `madvise(2)` with `MADV_DONTNEED` on the pages from `start` to `end`, which have to be a mapping of a file that is not
/// writable and holds nothing but the file's content: what is touched again is mapped again from the page cache.
///
/// # Errors
/// `EINVAL` for a range that is not of whole pages.
pub(super) fn forget_file_pages(start: usize, end: usize) -> io::Result<()> {
    let length = end.checked_sub(start).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: of a clean, read-only, private file mapping (the caller's check), dropping pages changes no content.
    let result = unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `malloc_trim(3)`: gives the heap's free pages back.
pub(super) fn trim_heap() {
    // SAFETY: takes an integer; the allocator locks itself.
    unsafe { libc::malloc_trim(0) };
}

/// Makes this process small for a long wait: the heap's free pages go back, and of programs and libraries only what is
/// used from now on is mapped (proc_pid_smaps(5)).
///
/// # Errors
/// What reading /proc/self/smaps gives.
pub fn slim() -> io::Result<()> {
    trim_heap();
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let mut mapping = None;
    for line in smaps.lines() {
        if let Some(range) = parse_mapping(line) {
            mapping = range;
        } else if line.starts_with("Anonymous:") && line.split_whitespace().nth(1) == Some("0") {
            // A page that was written to before the mapping became read-only (relocations) would be anonymous.
            if let Some((start, end)) = mapping {
                forget_file_pages(start, end)?;
            }
        }
    }
    Ok(())
}

/// For the first line of a mapping: its range if it is of a file, private and not writable, else none.
fn parse_mapping(line: &str) -> Option<Option<(usize, usize)>> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let range = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let permissions = fields.next()?;
    let path = fields.nth(3).unwrap_or_default();
    let of_file = path.starts_with('/') && permissions.starts_with('r') && permissions.ends_with('p');
    Some((of_file && !permissions.contains('w')).then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clean_mappings_of_files_are_forgotten() {
        let text = "7f12-7f34 r-xp 00001000 fe:00 1234   /usr/bin/osier";
        assert_eq!(parse_mapping(text), Some(Some((0x7f12, 0x7f34))));
        assert_eq!(parse_mapping("7f12-7f34 rw-p 00001000 fe:00 1234 /usr/bin/osier"), Some(None));
        assert_eq!(parse_mapping("7f12-7f34 r--p 00000000 00:00 0 [vvar]"), Some(None));
        assert_eq!(parse_mapping("Rss:    12 kB"), None);
    }

    #[test]
    fn a_slim_process_goes_on() {
        slim().unwrap();
        assert_eq!("still here".len(), 10);
    }
}
