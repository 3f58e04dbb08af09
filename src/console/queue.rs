//! A bounded queue of bytes between a reader and a writer of different speed.

use std::io;

/// So many bytes may be on their way in one direction: 64 KiB, what a pipe holds (man 7 pipe).
const ROOM: usize = 64 * 1024;
/// What one read of a pty master gives at most (N_TTY_BUF_SIZE, drivers/tty/n_tty.c).
const CRUMB: usize = 4096;

/// Bytes in order; [`Queue::room`] is the backpressure: who fills it asks first.
#[derive(Debug)]
pub(super) struct Queue {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; ROOM].into_boxed_slice(), start: 0, end: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// So many bytes still fit.
    pub(super) fn room(&self) -> usize {
        ROOM - (self.end - self.start)
    }

    pub(super) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Has `read` put bytes behind those that are there; its count is returned, [`Queue::last`] shows them.
    pub(super) fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        // Moving what is there costs less than reading in crumbs, but only when little is left behind it.
        if ROOM - self.end < CRUMB {
            self.close_gap();
        }
        let count = read(&mut self.bytes[self.end..])?;
        self.end += count;
        Ok(count)
    }

    /// The last `count` bytes that are in it.
    pub(super) fn last(&self, count: usize) -> &[u8] {
        &self.bytes[self.end.saturating_sub(count).max(self.start)..self.end]
    }

    /// Has `write` take bytes from the front; its count is returned.
    pub(super) fn take(&mut self, write: impl FnOnce(&[u8]) -> io::Result<usize>) -> io::Result<usize> {
        let count = write(&self.bytes[self.start..self.end])?;
        self.start += count;
        if self.is_empty() {
            self.clear();
        }
        Ok(count)
    }

    /// Appends `bytes`; the caller has asked for [`Queue::room`], what does not fit is returned.
    pub(super) fn push<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if bytes.len() > ROOM - self.end {
            self.close_gap();
        }
        let count = bytes.len().min(ROOM - self.end);
        self.bytes[self.end..self.end + count].copy_from_slice(&bytes[..count]);
        self.end += count;
        &bytes[count..]
    }

    fn close_gap(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order_through_uneven_reads_and_writes() {
        let mut queue = Queue::new();
        let (mut sent, mut seen) = (0u32, Vec::new());
        for round in 1..4000usize {
            let room = queue.room();
            queue
                .fill(|space| {
                    assert!(space.len() <= room && (room == 0) == space.is_empty());
                    let count = space.len().min(round % 97 + 1);
                    for byte in &mut space[..count] {
                        *byte = sent.to_le_bytes()[0] ^ sent.to_le_bytes()[1];
                        sent += 1;
                    }
                    Ok(count)
                })
                .unwrap();
            queue
                .take(|bytes| {
                    let count = bytes.len().min(round % 89);
                    seen.extend_from_slice(&bytes[..count]);
                    Ok(count)
                })
                .unwrap();
        }
        while !queue.is_empty() {
            queue
                .take(|bytes| {
                    seen.extend_from_slice(bytes);
                    Ok(bytes.len())
                })
                .unwrap();
        }
        let expected: Vec<u8> = (0..sent).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn is_bounded() {
        let mut queue = Queue::new();
        let bytes = vec![7; ROOM + 5];
        assert_eq!(queue.push(&bytes).len(), 5);
        assert_eq!(queue.room(), 0);
        queue.take(|_| Ok(3)).unwrap();
        assert_eq!((queue.room(), queue.push(b"abcd")), (3, &b"d"[..]));
    }
}
