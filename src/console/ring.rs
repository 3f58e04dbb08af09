//! The last that a console has written: what a terminal that is attached later is shown.

use std::collections::VecDeque;

/// So much is kept: some screens of text, and what a full-screen program last painted.
const KEPT: usize = 64 * 1024;

/// The last [`KEPT`] bytes; takes memory as they come.
#[derive(Debug, Default)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
}

impl Ring {
    /// Adds what was written.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(KEPT)..];
        let over = (self.bytes.len() + new.len()).saturating_sub(KEPT);
        self.bytes.drain(..over);
        self.bytes.extend(new);
    }

    /// What is kept, in order, in two parts.
    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes.as_slices()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_and_no_more() {
        let mut ring = Ring::default();
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        for (at, piece) in bytes.chunks(4093).enumerate() {
            ring.push(piece);
            let (one, other) = ring.parts();
            let end = (at * 4093 + piece.len()).min(bytes.len());
            assert_eq!([one, other].concat(), bytes[end.saturating_sub(KEPT)..end]);
        }
        ring.push(&bytes);
        let (one, other) = ring.parts();
        assert_eq!([one, other].concat(), bytes[bytes.len() - KEPT..]);
        assert!(ring.bytes.capacity() <= 2 * KEPT);
    }
}
