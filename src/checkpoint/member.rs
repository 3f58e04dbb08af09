//! The files of a checkpoint: their names, sizes and sums.
//!
//! A name is relative and is either one of a few known ones or `images/NAME`, `round-N/NAME`: nothing in a file that somebody
//! made can lead out of the directory that it is unpacked into.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The manifest, which is itself no member.
pub const MANIFEST: &str = "checkpoint.json";
/// The directory of CRIU's images.
pub const IMAGES: &str = "images";
/// The listing of the tree at the freeze.
pub const LISTING: &str = "tree.listing.zst";
/// The tree itself.
pub const TREE: &str = "tree.tar";
/// The tree itself, compressed.
pub const TREE_COMPRESSED: &str = "tree.tar.zst";

/// So long may a name be: it fits into a tar header as it is (man 5 tar).
const LONGEST: usize = 100;
/// More rounds of copying memory beforehand nobody makes.
const MOST_ROUNDS: u32 = 99;

/// The directory of CRIU's images of the `round`th copy of memory that went before, from 1.
pub fn round(round: u32) -> String {
    format!("round-{round}")
}

/// The name of a member: its path in the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberName(String);

/// A text that no member can have for its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameError(pub String);

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no name of a checkpoint's file", self.0.escape_default())
    }
}

impl std::error::Error for NameError {}

impl FromStr for MemberName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = text.len() <= LONGEST
            && match text.split_once('/') {
                Some((directory, name)) => is_directory(directory) && is_plain(name),
                None => [LISTING, TREE, TREE_COMPRESSED].contains(&text),
            };
        if valid { Ok(Self(text.to_owned())) } else { Err(NameError(text.to_owned())) }
    }
}

/// Whether it is a directory that a checkpoint has.
pub(super) fn is_directory(name: &str) -> bool {
    name == IMAGES || (1..=MOST_ROUNDS).any(|number| round(number) == name)
}

fn is_plain(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b'\\';
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(allowed)
}

impl MemberName {
    /// The path in the checkpoint.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MemberName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<MemberName> for String {
    fn from(name: MemberName) -> Self {
        name.0
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file of a checkpoint, as the manifest has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its path.
    pub name: MemberName,
    /// Its size, bytes.
    pub size: u64,
    /// The sum of its content.
    pub sha256: Sum,
}

/// A SHA-256 sum; as text 64 lower-case hexadecimal digits, as sha256sum(1) prints it.
///
/// SHA-256 and nothing faster: it is no cost (20 MB take 15 ms, or 80 ms on a CPU without instructions for it), and an
/// operator can check it without osier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sum([u8; 32]);

/// A text that is no sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SumError;

impl fmt::Display for SumError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sum is 64 lower-case hexadecimal digits")
    }
}

impl std::error::Error for SumError {}

impl Sum {
    /// That of no sum in particular, which stands where the true one is not known yet.
    pub const ZERO: Self = Self([0; 32]);

    /// The sum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Its 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Sum {
    type Err = SumError;

    fn from_str(text: &str) -> Result<Self, SumError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(SumError),
        };
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return Err(SumError);
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(digits[0])? << 4 | digit(digits[1])?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Sum {
    type Error = SumError;

    fn try_from(text: String) -> Result<Self, SumError> {
        text.parse()
    }
}

impl From<Sum> for String {
    fn from(sum: Sum) -> Self {
        sum.to_string()
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sum({self})")
    }
}

/// Sums up what is read or written through it.
pub struct Summing<S> {
    stream: S,
    state: Sha256,
    count: u64,
}

impl<S> Summing<S> {
    /// Around `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, state: Sha256::new(), count: 0 }
    }

    /// The sum and the number of bytes so far, and the stream.
    pub fn finish(self) -> (Sum, u64, S) {
        (Sum(self.state.finalize().into()), self.count, self.stream)
    }

    fn add(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.count += bytes.len() as u64;
    }
}

impl<R: Read> Read for Summing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(into)?;
        self.add(&into[..count]);
        Ok(count)
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.stream.write(bytes)?;
        self.add(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for name in ["images/core-1.img", "images/tmpfs-dev-73.tar.gz.img", "round-1/pages-1.img", "tree.tar"]
        {
            assert_eq!(name.parse::<MemberName>().unwrap().as_str(), name);
        }
        let long = format!("images/{}", "x".repeat(94));
        for name in [
            "",
            "/etc/passwd",
            "images",
            "images/",
            "images//x",
            "images/.",
            "images/..",
            "images/../x",
            "images/a/b",
            "images/.hidden",
            "../images/x",
            "./images/x",
            "checkpoint.json",
            "images/a b",
            "images/\u{1b}[2J",
            "images/\u{e9}",
            "images/a\\b",
            "round-0/x",
            "round-01/x",
            "round-100/x",
            "round-1",
            "tree.tar/x",
            &long,
        ] {
            assert_eq!(name.parse::<MemberName>(), Err(NameError(name.to_owned())), "{name:?}");
        }
    }

    #[test]
    fn a_sum_is_sha256sums() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sum::of(b"abc").to_string(), abc);
        assert_eq!(abc.parse(), Ok(Sum::of(b"abc")));
        for text in ["", &abc[1..], &abc.to_uppercase(), &format!("{abc}0"), &format!("g{}", &abc[1..])] {
            assert_eq!(text.parse::<Sum>(), Err(SumError), "{text}");
        }
        let mut summing = Summing::new(Vec::new());
        summing.write_all(b"a").unwrap();
        summing.write_all(b"bc").unwrap();
        let (sum, count, stream) = summing.finish();
        assert_eq!((sum, count, stream.as_slice()), (Sum::of(b"abc"), 3, &b"abc"[..]));
        let mut summing = Summing::new(&b"abc"[..]);
        io::copy(&mut summing, &mut io::sink()).unwrap();
        assert_eq!(summing.finish().0, Sum::of(b"abc"));
    }
}
