//! A listing as text: mtree(5), as far as that has words for it.
//!
//! ```text
//! #mtree
//! # osier listing 1
//! . type=dir mode=0755 uid=0 gid=0 time=1764038400.000000000
//! ./bin type=link mode=0777 uid=0 gid=0 time=1764038400.000000000 link=usr/bin
//! ```
//!
//! `xattrs=` and `first=` are osier's own words; other programs pass over them.

use std::fmt::Write as _;
use std::io::{self, BufRead, Read, Write};

use super::{Entry, Kind, Listing, ListingError, order};
use crate::checkpoint::member::{Sum, Summing};

const HEADING: &str = "#mtree\n# osier listing 1\n";
/// No line is longer: two paths and a link's target, each byte of them escaped, and a few numbers.
const LONGEST: u64 = 64 << 10;
/// No text is longer, bytes: five million objects, at about a hundred each. It is kept in memory, and compressed it is next to nothing: who
/// sends it is not to have any length of it unpacked.
const MOST: u64 = 512 << 20;

/// Bytes as text in one word: what is no visible ASCII, `\` and `#` as `\` and three octal digits.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#') {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "\\{byte:03o}");
        }
    }
    text
}

/// The bytes that [`escape`] made `text` of; `None` where it made none.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.as_bytes();
    while let Some((first, rest)) = left.split_first() {
        if *first != b'\\' {
            bytes.push(*first);
            left = rest;
            continue;
        }
        let (digits, rest) = rest.split_at_checked(3)?;
        let value = digits.iter().try_fold(0_u32, |value, digit| match digit {
            b'0'..=b'7' => Some(value * 8 + u32::from(digit - b'0')),
            _ => None,
        });
        bytes.push(u8::try_from(value?).ok()?);
        left = rest;
    }
    Some(bytes)
}

/// A path below the root as mtree has it.
fn dotted(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { format!("./{}", escape(path)) }
}

fn undotted(text: &str) -> Option<Vec<u8>> {
    if text == "." {
        return Some(Vec::new());
    }
    let path = unescape(text.strip_prefix("./")?)?;
    let named = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
    path.split(|byte| *byte == b'/').all(named).then_some(path)
}

impl Listing {
    /// Writes it, and gives the sum of what was written: of two listings the same one only if they are the same.
    ///
    /// # Errors
    /// What `out` gives.
    pub fn write(&self, out: impl Write) -> io::Result<Sum> {
        let mut out = Summing::new(io::BufWriter::with_capacity(64 << 10, out));
        out.write_all(HEADING.as_bytes())?;
        let mut line = String::new();
        for entry in &self.entries {
            line.clear();
            entry.encode(&mut line);
            out.write_all(line.as_bytes())?;
        }
        out.flush()?;
        Ok(out.finish().0)
    }

    /// Writes it compressed by zstd, as a checkpoint has it; the sum is that of the text.
    ///
    /// # Errors
    /// What `out` gives; `FileTooLarge` for one that [`Listing::parse_compressed`] would not read.
    pub fn write_compressed(&self, out: impl Write) -> io::Result<Sum> {
        self.write_within(MOST, out)
    }

    pub(super) fn write_within(&self, most: u64, out: impl Write) -> io::Result<Sum> {
        let mut encoder = zstd::Encoder::new(out, 1)?;
        encoder.include_checksum(true)?;
        let sum = self.write(Limited { to: &mut encoder, left: most })?;
        encoder.finish()?.flush()?;
        Ok(sum)
    }

    /// The sum of its text.
    pub fn sum(&self) -> Sum {
        // A sink takes everything.
        self.write(io::sink()).unwrap_or(Sum::ZERO)
    }

    /// Reads what [`Listing::write_compressed`] wrote.
    ///
    /// # Errors
    /// As [`Listing::parse`]; [`ListingError::TooLong`].
    pub fn parse_compressed(from: impl Read) -> Result<Self, ListingError> {
        Self::parse_within(MOST, from)
    }

    pub(super) fn parse_within(most: u64, from: impl Read) -> Result<Self, ListingError> {
        let decoder = zstd::Decoder::new(from).map_err(|error| ListingError::Io("".into(), error))?;
        // One byte more is too much.
        let mut limited = io::BufReader::new(decoder).take(most + 1);
        let parsed = Self::parse(&mut limited);
        if limited.limit() == 0 { Err(ListingError::TooLong(most)) } else { parsed }
    }

    /// Reads what [`Listing::write`] wrote.
    ///
    /// # Errors
    /// [`ListingError::Line`] for what was not written so, an unsorted line included.
    pub fn parse(mut from: impl BufRead) -> Result<Self, ListingError> {
        let mut entries: Vec<Entry> = Vec::new();
        let (mut line, mut number) = (String::new(), 0);
        loop {
            line.clear();
            number += 1;
            let read = from.by_ref().take(LONGEST).read_line(&mut line);
            if read.map_err(|error| ListingError::Io("".into(), error))? == 0 {
                break;
            }
            let wrong = ListingError::Line(number);
            if let Some(heading) = HEADING.split_inclusive('\n').nth(number - 1) {
                if line != heading {
                    return Err(wrong);
                }
                continue;
            }
            let entry = line.strip_suffix('\n').and_then(Entry::decode);
            let sorted =
                |entry: &Entry| entries.last().is_none_or(|last| order(&last.path, &entry.path).is_lt());
            entries.push(entry.filter(sorted).ok_or(wrong)?);
        }
        if number < 3 { Err(ListingError::Line(number)) } else { Ok(Self { entries }) }
    }
}

/// What is to be no longer than so much.
struct Limited<W> {
    to: W,
    left: u64,
}

impl<W: Write> Write for Limited<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.left = self.left.checked_sub(written as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl Entry {
    fn encode(&self, line: &mut String) {
        let kind = match &self.kind {
            Kind::File { .. } => "file",
            Kind::Directory => "dir",
            Kind::Link(_) => "link",
            Kind::Character(..) => "char",
            Kind::Block(..) => "block",
            Kind::Fifo => "fifo",
        };
        let Self { mode, uid, gid, modified: (seconds, nanoseconds), .. } = self;
        let _ = write!(
            line,
            "{} type={kind} mode={mode:04o} uid={uid} gid={gid} time={seconds}.{nanoseconds:09}",
            dotted(&self.path)
        );
        let _ = match &self.kind {
            Kind::File { size, content: None } => write!(line, " size={size}"),
            Kind::File { size, content: Some(sum) } => write!(line, " size={size} sha256digest={sum}"),
            Kind::Link(target) => write!(line, " link={}", escape(target)),
            Kind::Character(major, minor) | Kind::Block(major, minor) => {
                write!(line, " device=linux,{major},{minor}")
            }
            Kind::Directory | Kind::Fifo => Ok(()),
        };
        if let Some(hash) = &self.attributes {
            line.push_str(" xattrs=");
            hash.iter().for_each(|byte| line.push_str(&format!("{byte:02x}")));
        }
        if let Some(first) = &self.first {
            let _ = write!(line, " first={}", dotted(first));
        }
        line.push('\n');
    }

    fn decode(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let path = undotted(words.next()?)?;
        let pairs: Vec<(&str, &str)> = words.map(|word| word.split_once('=')).collect::<Option<_>>()?;
        let find = |key: &str| pairs.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
        let device = || {
            let mut parts = find("device")?.strip_prefix("linux,")?.split(',').map(|part| part.parse().ok());
            Some((parts.next()??, parts.next()??))
        };
        let kind = match find("type")? {
            "file" => {
                let content = find("sha256digest").map(|sum| sum.parse().ok());
                Kind::File { size: find("size")?.parse().ok()?, content: sound(content)? }
            }
            "dir" => Kind::Directory,
            "link" => Kind::Link(unescape(find("link")?)?),
            "char" => device().map(|(major, minor)| Kind::Character(major, minor))?,
            "block" => device().map(|(major, minor)| Kind::Block(major, minor))?,
            "fifo" => Kind::Fifo,
            _ => return None,
        };
        let (seconds, nanoseconds) = find("time")?.split_once('.')?;
        let nanoseconds: u32 = nanoseconds.parse().ok().filter(|value| *value < 1_000_000_000)?;
        Some(Self {
            path,
            kind,
            mode: u32::from_str_radix(find("mode")?, 8).ok()?,
            uid: find("uid")?.parse().ok()?,
            gid: find("gid")?.parse().ok()?,
            modified: (seconds.parse().ok()?, nanoseconds),
            attributes: sound(find("xattrs").map(hash))?,
            first: sound(find("first").map(undotted))?,
        })
    }
}

/// What may be missing, but not be wrong.
fn sound<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(value) => value.map(Some),
    }
}

fn hash(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}
