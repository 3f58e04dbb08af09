//! The escapes that a user types at a machine's console: `^]` three times, or twice and a letter, within one second.
//!
//! Pure: bytes and their time in, what to pass on and what is asked for out. A `^]` is passed on as it comes, since
//! nobody knows yet what follows; the byte that completes an escape is swallowed.

use std::time::{Duration, Instant};

/// What an escape asks the supervisor for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `^]^]^]`: end the machine at once.
    Stop,
    /// `^]^]p`: power it off.
    PowerOff,
    /// `^]^]r`: reboot it.
    Reboot,
    /// `^]^]d`: leave it running and give the terminal back.
    Detach,
}

/// `^]`, GS.
const KEY: u8 = 0x1d;
/// From the first `^]` of an escape to the byte that completes it.
const WITHIN: Duration = Duration::from_secs(1);

/// The escapes' state between reads.
#[derive(Debug, Default)]
pub struct Escapes {
    /// When the last `^]` and the one before it came, with nothing else between and since.
    last: Option<Instant>,
    before: Option<Instant>,
}

/// What one [`Escapes::scan`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Scan {
    /// So many bytes from the start are to be passed on.
    pub pass: usize,
    /// So many bytes are dealt with; one more than `pass` when an escape was completed.
    pub taken: usize,
    /// The escape that was completed.
    pub request: Option<Request>,
}

impl Escapes {
    /// Looks at `bytes`, which came at `now`, up to the first escape that they complete.
    pub fn scan(&mut self, bytes: &[u8], now: Instant) -> Scan {
        for (at, &byte) in bytes.iter().enumerate() {
            if let Some(request) = self.step(byte, now) {
                return Scan { pass: at, taken: at + 1, request: Some(request) };
            }
        }
        Scan { pass: bytes.len(), taken: bytes.len(), request: None }
    }

    fn step(&mut self, byte: u8, now: Instant) -> Option<Request> {
        let armed = self.before.is_some_and(|first| now.saturating_duration_since(first) <= WITHIN);
        let request = match byte {
            KEY if armed => Request::Stop,
            b'p' if armed => Request::PowerOff,
            b'r' if armed => Request::Reboot,
            b'd' if armed => Request::Detach,
            KEY => {
                self.before = self.last.replace(now);
                return None;
            }
            _ => {
                *self = Self::default();
                return None;
            }
        };
        *self = Self::default();
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds chunks with their times in milliseconds; what was passed on and what was asked for.
    fn feed(chunks: &[(u64, &[u8])]) -> (Vec<u8>, Vec<Request>) {
        let start = Instant::now();
        let mut escapes = Escapes::default();
        let (mut passed, mut requests) = (Vec::new(), Vec::new());
        for &(at, chunk) in chunks {
            let mut rest = chunk;
            while !rest.is_empty() {
                let scan = escapes.scan(rest, start + Duration::from_millis(at));
                passed.extend_from_slice(&rest[..scan.pass]);
                requests.extend(scan.request);
                rest = &rest[scan.taken..];
            }
        }
        (passed, requests)
    }

    #[test]
    fn each_escape_in_one_read_and_byte_by_byte() {
        for (last, request) in [
            (KEY, Request::Stop),
            (b'p', Request::PowerOff),
            (b'r', Request::Reboot),
            (b'd', Request::Detach),
        ] {
            let whole = [b'a', KEY, KEY, last, b'z'];
            let expected = (vec![b'a', KEY, KEY, b'z'], vec![request]);
            assert_eq!(feed(&[(0, &whole)]), expected);
            let single: Vec<(u64, &[u8])> = whole.chunks(1).map(|byte| (0, byte)).collect();
            assert_eq!(feed(&single), expected);
            for split in 1..whole.len() {
                assert_eq!(
                    feed(&[(0, &whole[..split]), (900, &whole[split..])]),
                    expected,
                    "split at {split}"
                );
            }
        }
    }

    #[test]
    fn every_byte_value_but_the_four_passes() {
        for byte in 0..=255u8 {
            let asked = matches!(byte, KEY | b'p' | b'r' | b'd');
            let (passed, requests) = feed(&[(0, &[KEY, KEY, byte])]);
            assert_eq!(requests.len(), usize::from(asked), "{byte:#x}");
            assert_eq!(passed.len(), 3 - usize::from(asked), "{byte:#x}");
        }
    }

    #[test]
    fn a_letter_needs_two_keys_before_it() {
        assert_eq!(feed(&[(0, b"\x1dp")]).1, []);
        assert_eq!(feed(&[(0, b"pprd")]).1, []);
        assert_eq!(feed(&[(0, b"\x1dx\x1dp")]).1, []);
        assert_eq!(feed(&[(0, b"\x1d\x1dxp")]).1, []);
    }

    #[test]
    fn another_byte_starts_over() {
        assert_eq!(feed(&[(0, b"\x1d\x1dx\x1d")]).1, []);
        assert_eq!(feed(&[(0, b"\x1d\x1dx\x1d\x1d\x1d")]).1, [Request::Stop]);
    }

    #[test]
    fn one_second_from_the_first_key() {
        let key: &[u8] = &[KEY];
        assert_eq!(feed(&[(0, key), (500, key), (1000, key)]).1, [Request::Stop]);
        assert_eq!(feed(&[(0, key), (500, key), (1001, key)]).1, []);
        assert_eq!(feed(&[(0, key), (1000, key), (1001, b"p")]).1, []);
        assert_eq!(feed(&[(0, key), (1000, key), (1000, b"p")]).1, [Request::PowerOff]);
    }

    #[test]
    fn the_second_slides_along_slow_keys() {
        let key: &[u8] = &[KEY];
        assert_eq!(feed(&[(0, key), (900, key), (1500, key), (1800, key)]).1, [Request::Stop]);
        assert_eq!(feed(&[(0, key), (900, key), (1800, key), (2700, key)]).1, []);
    }

    #[test]
    fn an_escape_leaves_nothing_armed() {
        assert_eq!(feed(&[(0, b"\x1d\x1d\x1d\x1d")]).1, [Request::Stop]);
        assert_eq!(feed(&[(0, b"\x1d\x1dpd")]), (b"\x1d\x1dd".to_vec(), vec![Request::PowerOff]));
        assert_eq!(feed(&[(0, b"\x1d\x1dp\x1d\x1dr")]).1, [Request::PowerOff, Request::Reboot]);
    }
}
