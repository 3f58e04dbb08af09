//! Words and bytes over a pipe that may break: ssh's, or whatever else carries them.
//!
//! Each side begins with a [`GREETING`], so that what is no osier is known at its first word. Then come frames: a kind, a
//! length, a number, the content, and the sum of all that. So nothing cut off, altered, lost or doubled on the way is taken for
//! what was sent, whatever the carrier promises; a stream of bytes has an end that is said, and an end that is not said is an
//! error that tells after how many bytes it came.

mod patience;

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, reason};
use crate::interrupt::Interrupt;
use patience::{Impatience, Patient};

/// The first bytes in either direction.
pub const GREETING: &[u8; 16] = b"osier migration\n";
/// The longest word, bytes: a manifest is one.
const LONGEST_WORD: usize = 24 << 20;
/// So many bytes of a stream are in one frame at most.
const PIECE: usize = 256 << 10;
/// Kind, length and number.
const HEADER: usize = 16;
/// As much of the sum is sent.
const CHECK: usize = 16;

/// What is in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// JSON.
    Word = 1,
    /// Some bytes of a stream.
    Bytes = 2,
    /// Nothing: the stream's end.
    End = 3,
    /// Nothing: the other side is at work.
    Alive = 4,
}

/// Why the link does not say what was to be heard.
#[derive(Debug)]
pub enum LinkError {
    /// It ended after so many bytes.
    Ended(u64),
    /// It failed after so many bytes.
    Failed(u64, io::Error),
    /// Nothing came, or nothing was taken, for so long.
    Silent(Duration),
    /// It was told to stop by a signal.
    Interrupted,
    /// At the other end is something else: the first that it said.
    Foreign(String),
    /// What came after so many bytes is not what was sent.
    Garbled(u64),
    /// The other end said something that cannot come here.
    OutOfTurn,
    /// The other end says what failed there.
    There(Error),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(0) => f.write_str("the link ended before anything came"),
            Self::Ended(bytes) => write!(f, "the link ended after {bytes} bytes"),
            Self::Failed(bytes, error) => write!(f, "the link failed after {bytes} bytes: {}", reason(error)),
            Self::Silent(time) => write!(f, "the other end was silent for {} s", time.as_secs()),
            Self::Interrupted => f.write_str("it was interrupted"),
            Self::Foreign(text) => write!(f, "the other end is no osier: it said '{text}'"),
            Self::Garbled(bytes) => write!(f, "the link altered what was sent, after {bytes} bytes"),
            Self::OutOfTurn => f.write_str("the other end spoke out of turn"),
            Self::There(error) => error.fmt(f),
        }
    }
}

impl LinkError {
    /// As an error: what the other end said as it said it, the rest as `what` that could not be done.
    pub fn into_error(self, what: impl Into<String>) -> Error {
        let hint = match &self {
            Self::There(error) => return error.clone().within(what),
            Self::Ended(0) => "is osier installed there, and does the command for the link work by itself?",
            Self::Foreign(_) => {
                "what the remote shell runs at login has to print nothing, and osier to be there"
            }
            Self::Garbled(_) => "the link has to carry every byte as it is: no terminal, no conversion",
            Self::Ended(_) | Self::Failed(..) | Self::Silent(_) => "the link broke: try again",
            Self::OutOfTurn => "are both sides of the same version?",
            Self::Interrupted => return Error::new(Kind::Failed, what).because(self),
        };
        Error::new(Kind::Failed, what).because(&self).hint(hint)
    }
}

/// What may come instead of anything else.
#[derive(Debug, Serialize, Deserialize)]
enum Complaint {
    Failed(Error),
}

/// Both directions.
pub struct Link<'a> {
    from: Box<dyn Read + Send + 'a>,
    to: Box<dyn Write + Send + 'a>,
    heard: Direction,
    said: Direction,
    /// Why a stream broke that somebody else read or wrote.
    broken: Option<LinkError>,
}

impl fmt::Debug for Link<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("heard", &self.heard).field("said", &self.said).finish_non_exhaustive()
    }
}

/// How far one direction is.
#[derive(Debug, Default)]
struct Direction {
    bytes: u64,
    frames: u64,
}

impl<'a> Link<'a> {
    /// Over anything that reads and writes; who waits there, waits.
    pub fn new(from: impl Read + Send + 'a, to: impl Write + Send + 'a) -> Self {
        let (heard, said) = Default::default();
        Self { from: Box::new(from), to: Box::new(to), heard, said, broken: None }
    }

    /// Over descriptors, waiting for the other end no longer than `patience` at a time, nor when a signal came.
    pub fn over(from: OwnedFd, to: OwnedFd, patience: Duration, interrupt: Option<&'a Interrupt>) -> Self {
        let patient = |fd: OwnedFd| Patient { file: fd.into(), patience, interrupt };
        Self::new(patient(from), patient(to))
    }

    /// So many bytes have come and gone.
    pub fn bytes(&self) -> (u64, u64) {
        (self.heard.bytes, self.said.bytes)
    }

    /// Says that this side is at work, so that the other one does not take it for dead.
    ///
    /// # Errors
    /// As [`Link::say`].
    pub fn alive(&mut self) -> Result<(), LinkError> {
        self.send(Content::Alive, &[])?;
        self.flush()
    }

    /// Says a word.
    ///
    /// # Errors
    /// What the other end said last, where it ended over that; else that it did not take the word.
    pub(super) fn say(&mut self, word: &impl Serialize) -> Result<(), LinkError> {
        let text =
            serde_json::to_vec(word).map_err(|error| LinkError::Failed(self.said.bytes, error.into()))?;
        if text.len() > LONGEST_WORD {
            let error = io::Error::from(io::ErrorKind::FileTooLarge);
            return Err(LinkError::Failed(self.said.bytes, error));
        }
        self.send(Content::Word, &text)?;
        self.flush()
    }

    /// Says what failed here. Nothing can be said after it.
    pub(super) fn complain(mut self, error: &Error) {
        // Somebody who is gone needs not be told.
        let _ = self.say(&Complaint::Failed(error.clone()));
    }

    /// Waits for a word.
    ///
    /// # Errors
    /// [`LinkError::There`] when that was a complaint; every other one.
    pub(super) fn hear<T: DeserializeOwned>(&mut self) -> Result<T, LinkError> {
        match self.receive()? {
            (Content::Word, text) => match serde_json::from_slice(&text) {
                Ok(word) => Ok(word),
                Err(_) => Err(complaint(&text)),
            },
            _ => Err(LinkError::OutOfTurn),
        }
    }

    /// Sends a stream of bytes.
    pub(super) fn outgoing(&mut self) -> Outgoing<'_, 'a> {
        Outgoing { link: self, piece: Vec::with_capacity(PIECE) }
    }

    /// Receives a stream of bytes.
    pub(super) fn incoming(&mut self) -> Incoming<'_, 'a> {
        Incoming { link: self, piece: Vec::new(), at: 0, end: Reached::No }
    }

    /// Why a stream broke, for whoever only saw an [`io::Error`].
    pub(super) fn take_broken(&mut self) -> Option<LinkError> {
        self.broken.take()
    }

    fn send(&mut self, content: Content, bytes: &[u8]) -> Result<(), LinkError> {
        let mut frame = Vec::with_capacity(GREETING.len() + HEADER + bytes.len() + CHECK);
        if self.said.frames == 0 {
            frame.extend_from_slice(GREETING);
        }
        let header = header(content, bytes.len(), self.said.frames);
        frame.extend_from_slice(&header);
        frame.extend_from_slice(bytes);
        frame.extend_from_slice(&check(&header, bytes));
        self.said.frames += 1;
        let written = self.to.write_all(&frame);
        self.said.bytes += frame.len() as u64;
        written.map_err(|error| self.refused(error))
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        self.to.flush().map_err(|error| self.refused(error))
    }

    /// Why the other end takes nothing any more: what it said last is the reason, if it said anything.
    fn refused(&mut self, error: io::Error) -> LinkError {
        if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
            let ended = loop {
                match self.receive() {
                    Ok((Content::Word, text)) => {
                        if let LinkError::There(error) = complaint(&text) {
                            return LinkError::There(error);
                        }
                    }
                    Ok(_) => {}
                    Err(ended) => break ended,
                }
            };
            // It was never an osier.
            if matches!(ended, LinkError::Foreign(_) | LinkError::Ended(0)) {
                return ended;
            }
        }
        cause(error, self.said.bytes)
    }

    fn receive(&mut self) -> Result<(Content, Vec<u8>), LinkError> {
        if self.heard.frames == 0 {
            self.fill_greeting()?;
        }
        loop {
            let mut header = [0; HEADER];
            self.fill(&mut header)?;
            let garbled = LinkError::Garbled(self.heard.bytes);
            let Some((content, length)) = parse(&header, self.heard.frames) else { return Err(garbled) };
            let mut bytes = vec![0; length];
            self.fill(&mut bytes)?;
            let mut said = [0; CHECK];
            self.fill(&mut said)?;
            if said != check(&header, &bytes) {
                return Err(garbled);
            }
            self.heard.frames += 1;
            if content != Content::Alive {
                return Ok((content, bytes));
            }
        }
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), LinkError> {
        let mut left = into;
        while !left.is_empty() {
            match self.from.read(left) {
                Ok(0) => return Err(LinkError::Ended(self.heard.bytes)),
                Ok(count) => {
                    self.heard.bytes += count as u64;
                    left = left.get_mut(count..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cause(error, self.heard.bytes)),
            }
        }
        Ok(())
    }

    /// Byte by byte, so that what is none is said as far as it came.
    fn fill_greeting(&mut self) -> Result<(), LinkError> {
        let mut came = Vec::new();
        let mut byte = [0];
        for wanted in GREETING {
            match self.fill(&mut byte) {
                Err(LinkError::Ended(_)) if !came.is_empty() => {
                    return Err(LinkError::Foreign(printable(&came)));
                }
                filled => filled?,
            }
            came.push(byte[0]);
            if byte[0] != *wanted {
                while came.len() < 80 && byte != [b'\n'] && self.fill(&mut byte).is_ok() {
                    came.push(byte[0]);
                }
                return Err(LinkError::Foreign(printable(&came)));
            }
        }
        Ok(())
    }
}

/// For the terminal: it is not the other end's to write escape sequences there.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim().chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

fn header(content: Content, length: usize, number: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = content as u8;
    header[4..8].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    header[8..].copy_from_slice(&number.to_le_bytes());
    header
}

/// The kind and the length of the frame of that number.
fn parse(header: &[u8; HEADER], number: u64) -> Option<(Content, usize)> {
    let content = match header[0] {
        1 => Content::Word,
        2 => Content::Bytes,
        3 => Content::End,
        4 => Content::Alive,
        _ => return None,
    };
    let length = u32::from_le_bytes(*header[4..].first_chunk()?) as usize;
    let longest = match content {
        Content::Word => LONGEST_WORD,
        Content::Bytes => PIECE,
        Content::End | Content::Alive => 0,
    };
    let own = length <= longest && u64::from_le_bytes(*header.last_chunk()?) == number;
    own.then_some((content, length))
}

fn check(header: &[u8; HEADER], bytes: &[u8]) -> [u8; CHECK] {
    let mut state = Sha256::new();
    state.update(header);
    state.update(bytes);
    let sum: [u8; 32] = state.finalize().into();
    sum.first_chunk().copied().unwrap_or_default()
}

/// A complaint, or a word that cannot come here.
fn complaint(text: &[u8]) -> LinkError {
    match serde_json::from_slice(text) {
        Ok(Complaint::Failed(error)) => LinkError::There(error),
        Err(_) => LinkError::OutOfTurn,
    }
}

fn cause(error: io::Error, bytes: u64) -> LinkError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Impatience>()) {
        Some(Impatience::Silent(time)) => LinkError::Silent(*time),
        Some(Impatience::Interrupted) => LinkError::Interrupted,
        None => LinkError::Failed(bytes, error),
    }
}

/// A stream that is sent; its end is said by [`Outgoing::finish`] alone.
pub struct Outgoing<'b, 'a> {
    link: &'b mut Link<'a>,
    piece: Vec<u8>,
}

impl Outgoing<'_, '_> {
    /// Says that it was all.
    pub(super) fn finish(mut self) -> Result<(), LinkError> {
        self.send()?;
        self.link.send(Content::End, &[])?;
        self.link.flush()
    }

    fn send(&mut self) -> Result<(), LinkError> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let sent = self.link.send(Content::Bytes, &self.piece);
        self.piece.clear();
        sent
    }
}

impl Write for Outgoing<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send().map_err(|error| {
            let said = io::Error::other(error.to_string());
            self.link.broken = Some(error);
            said
        })
    }
}

/// Whether a stream's end has been said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Yes,
    No,
}

/// A stream that is received. It ends where its end was said; a link that breaks before is an error.
pub struct Incoming<'b, 'a> {
    link: &'b mut Link<'a>,
    piece: Vec<u8>,
    at: usize,
    end: Reached,
}

impl Incoming<'_, '_> {
    /// As [`Link::take_broken`].
    pub(super) fn take_broken(&mut self) -> Option<LinkError> {
        self.link.broken.take()
    }

    /// Reads past what is left of it.
    pub(super) fn finish(mut self) -> Result<(), LinkError> {
        while self.end == Reached::No {
            self.next()?;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<(), LinkError> {
        (self.at, self.piece) = (0, Vec::new());
        match self.link.receive()? {
            (Content::Bytes, bytes) => self.piece = bytes,
            (Content::End, _) => self.end = Reached::Yes,
            (Content::Word, text) => return Err(complaint(&text)),
            (Content::Alive, _) => {}
        }
        Ok(())
    }
}

impl Read for Incoming<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() && self.end == Reached::No {
            if let Err(error) = self.next() {
                let said = io::Error::other(error.to_string());
                self.link.broken = Some(error);
                return Err(said);
            }
        }
        let count = (&self.piece[self.at..]).read(into)?;
        self.at += count;
        Ok(count)
    }
}
