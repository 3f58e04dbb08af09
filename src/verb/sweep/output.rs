//! What a run has written: the end of it, since the end tells most, and how much is missing before.

use crate::console::log::Plain;

/// So much of each stream is kept; a sweep of many clocks is not to fill the host's memory.
const MOST: usize = 1 << 20;
/// So much of both in the order in which they came, for people.
const LAST: usize = 8 << 10;
/// So many lines of that are shown.
const LINES: usize = 20;

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    lost: usize,
}

/// What a run has written to its standard output and error.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Standard output.
    pub(super) out: Tail,
    /// Standard error.
    pub(super) err: Tail,
    both: Tail,
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

impl Output {
    /// Adds what came.
    pub(super) fn add(&mut self, stream: Stream, bytes: &[u8]) {
        match stream {
            Stream::Out => self.out.add(bytes, MOST),
            Stream::Err => self.err.add(bytes, MOST),
        }
        self.both.add(bytes, LAST);
    }

    /// The last lines of both; text that a terminal does not obey.
    pub(super) fn last_lines(&self) -> String {
        let text = Plain::default().of(&self.both.bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].iter().map(|line| format!("{line}\n")).collect()
    }
}

impl Tail {
    fn add(&mut self, bytes: &[u8], most: usize) {
        self.bytes.extend_from_slice(bytes);
        // Not each time: what is in front would be moved with every byte.
        if self.bytes.len() > 2 * most {
            self.cut(most);
        }
    }

    fn cut(&mut self, most: usize) {
        let over = self.bytes.len().saturating_sub(most);
        self.bytes.drain(..over);
        self.lost += over;
    }

    /// As text that XML can hold, and a first line for what is missing.
    pub(super) fn text(&self) -> String {
        let over = self.bytes.len().saturating_sub(MOST);
        let text = Plain::default().of(&self.bytes[over..]);
        // Two that are characters and none of XML's; the others Plain has taken out.
        let text = text.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}");
        match self.lost + over {
            0 => text,
            lost => format!("[{lost} bytes before this are not kept]\n{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_the_loss_is_said() {
        let mut output = Output::default();
        for number in 0..300_000 {
            output.add(Stream::Out, format!("{number:09}\n").as_bytes());
        }
        assert!(output.out.bytes.len() <= 2 * MOST && output.both.bytes.len() <= 2 * LAST);
        let text = output.out.text();
        assert!(text.ends_with("000299998\n000299999\n"));
        let (first, rest) = text.split_once('\n').unwrap();
        assert_eq!(rest.len(), MOST);
        assert_eq!(first, format!("[{} bytes before this are not kept]", 3_000_000 - MOST));
        assert_eq!(output.last_lines().lines().count(), LINES);
        assert!(output.last_lines().ends_with("000299999\n"));
    }

    #[test]
    fn what_is_no_text_is_taken_out() {
        let mut output = Output::default();
        output.add(Stream::Err, b"\x1b[31mred\x1b[m \0 \xff one\r\n");
        output.add(Stream::Out, "\u{ffff}two".as_bytes());
        assert_eq!(output.err.text(), "red  \u{fffd} one\n");
        assert_eq!(output.out.text(), "\u{fffd}two");
        assert!(output.last_lines().starts_with("red  \u{fffd} one\n"));
        assert_eq!(Output::default().last_lines(), "");
    }
}
