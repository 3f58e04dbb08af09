//! The members of an archive, one after the other, with what their extended headers say.

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::sparse::{self, Region};
use super::{ArchiveError, BLOCK, attributes, pax};

/// The longest extended header, in bytes: some hundred of the largest attributes there are.
const LONGEST_HEADER: u64 = 8 << 20;

/// How the names of notes begin ([`super::Packing::notes`]).
const NOTE: &[u8] = b"OSIER.";

/// What a member is, as its headers say it: nothing is checked but that it can be said.
pub(super) struct Member {
    pub(super) kind: EntryType,
    pub(super) path: OsString,
    /// What a symbolic link holds, and which other member a hard link is.
    pub(super) link: OsString,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// In nanoseconds since 1970.
    pub(super) mtime: i128,
    /// Major and minor.
    pub(super) device: (u32, u32),
    /// The file's own size, in bytes.
    pub(super) size: u64,
    /// Where in the file the content that follows belongs.
    pub(super) regions: Vec<Region>,
    pub(super) attributes: Vec<(CString, Vec<u8>)>,
}

/// What was said before a member about it.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    extended: Vec<u8>,
}

/// An archive that is being read.
pub(super) struct Members<R> {
    from: R,
    /// Content of the current member that was not read yet, and what fills up its last block, in bytes.
    left: (u64, u64),
    /// What was said of the whole archive.
    pub(super) notes: Vec<(String, Vec<u8>)>,
}

impl<R: Read> Members<R> {
    pub(super) fn open(from: R) -> Self {
        Self { from, left: (0, 0), notes: Vec::new() }
    }

    /// The next member; `None` at the end, which is there to be read: two blocks of zeros.
    pub(super) fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut said = Said::default();
        loop {
            self.skip()?;
            let mut header = Header::new_old();
            *header.as_mut_bytes() = self.block()?;
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                self.block()?;
                return Ok(None);
            }
            verify(&header)?;
            let size = header.entry_size().map_err(broken)?;
            match header.entry_type() {
                EntryType::XHeader => said.extended = self.text(size)?,
                EntryType::XGlobalHeader => {
                    let text = self.text(size)?;
                    self.note(&text)?;
                }
                EntryType::GNULongName => said.path = Some(until_zero(self.text(size)?)),
                EntryType::GNULongLink => said.link = Some(until_zero(self.text(size)?)),
                _ => return self.member(&header, size, said).map(Some),
            }
        }
    }

    /// Reads some of the current member's content; nothing when there is no more.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<usize, ArchiveError> {
        let most = into.len().min(usize::try_from(self.left.0).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        loop {
            match self.from.read(&mut into[..most]) {
                Ok(0) => return Err(ArchiveError::Stream(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    self.left.0 -= count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Stream(error)),
            }
        }
    }

    fn block(&mut self) -> Result<[u8; BLOCK as usize], ArchiveError> {
        let mut block = [0; BLOCK as usize];
        self.from.read_exact(&mut block).map_err(ArchiveError::Stream)?;
        Ok(block)
    }

    fn expect(&mut self, size: u64) -> Result<(), ArchiveError> {
        let whole =
            size.checked_next_multiple_of(BLOCK).ok_or_else(|| broken(io::ErrorKind::InvalidData.into()))?;
        self.left = (size, whole - size);
        Ok(())
    }

    fn skip(&mut self) -> Result<(), ArchiveError> {
        let count = self.left.0 + self.left.1;
        self.left = (0, 0);
        match io::copy(&mut self.from.by_ref().take(count), &mut io::sink()) {
            Ok(copied) if copied < count => Err(ArchiveError::Stream(io::ErrorKind::UnexpectedEof.into())),
            copied => copied.map(drop).map_err(ArchiveError::Stream),
        }
    }

    /// The content of a member that is about other members.
    fn text(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > LONGEST_HEADER {
            return Err(ArchiveError::malformed("an extended header in it is too long"));
        }
        self.expect(size)?;
        let mut text = vec![0; usize::try_from(size).unwrap_or_default()];
        self.from.read_exact(&mut text).map_err(ArchiveError::Stream)?;
        self.left.0 = 0;
        Ok(text)
    }

    fn note(&mut self, text: &[u8]) -> Result<(), ArchiveError> {
        for (key, value) in pax::parse(text)?.into_iter().filter(|(key, _)| key.starts_with(NOTE)) {
            self.notes.push((String::from_utf8_lossy(key).into_owned(), value.to_owned()));
        }
        Ok(())
    }

    fn member(&mut self, header: &Header, stored: u64, said: Said) -> Result<Member, ArchiveError> {
        let old = |bytes: Option<Vec<u8>>, fallback: &[u8]| {
            OsString::from_vec(bytes.unwrap_or(fallback.to_owned()))
        };
        let mut member = Member {
            kind: header.entry_type(),
            path: old(said.path, &header.path_bytes()),
            link: old(said.link, &header.link_name_bytes().unwrap_or_default()),
            mode: header.mode().map_err(broken)? & 0o7777,
            uid: narrow(header.uid().map_err(broken)?)?,
            gid: narrow(header.gid().map_err(broken)?)?,
            mtime: i128::from(header.mtime().unwrap_or_default()) * 1_000_000_000,
            device: device(header)?,
            size: stored,
            regions: Vec::new(),
            attributes: Vec::new(),
        };
        let sparse = member.apply(&said.extended)?;
        let stored = member.size;
        member.size = sparse.size.unwrap_or(stored);
        match (sparse.version, member.kind) {
            ((Some(1), Some(0)), _) => {
                self.expect(stored)?;
                let mut map = 0;
                member.regions = sparse::read(|| {
                    map += BLOCK;
                    self.block()
                })?;
                let content = stored.checked_sub(map);
                let content =
                    content.ok_or_else(|| ArchiveError::malformed("a sparse file in it is not whole"))?;
                sparse::check(&member.regions, member.size, content)?;
                self.left.0 = content;
            }
            ((None, None), EntryType::GNUSparse) => {
                member.regions = self.old_sparse(header)?;
                member.size = header.as_gnu().ok_or_else(no_gnu)?.real_size().map_err(broken)?;
                sparse::check(&member.regions, member.size, stored)?;
                member.kind = EntryType::Regular;
                self.expect(stored)?;
            }
            ((None, None), _) if sparse.size.is_none() => {
                member.regions = vec![(0, stored)];
                self.expect(stored)?;
            }
            _ => {
                return Err(ArchiveError::malformed(
                    "a sparse file in it is of a format that osier does not know",
                ));
            }
        }
        Ok(member)
    }

    /// The map of the sparse files that GNU tar writes outside of POSIX.1-2001.
    fn old_sparse(&mut self, header: &Header) -> Result<Vec<Region>, ArchiveError> {
        let gnu = header.as_gnu().ok_or_else(no_gnu)?;
        let mut regions = Vec::new();
        add(&mut regions, &gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut next = GnuExtSparseHeader::new();
            *next.as_mut_bytes() = self.block()?;
            add(&mut regions, next.sparse())?;
            more = next.is_extended();
        }
        Ok(regions)
    }
}

/// What the extended header says about holes.
#[derive(Default)]
struct SparseFacts {
    version: (Option<u64>, Option<u64>),
    size: Option<u64>,
}

impl Member {
    fn apply(&mut self, extended: &[u8]) -> Result<SparseFacts, ArchiveError> {
        let mut sparse = SparseFacts::default();
        for (key, value) in pax::parse(extended)? {
            match key {
                b"path" if sparse.size.is_none() => self.path = OsStr::from_bytes(value).to_owned(),
                b"GNU.sparse.name" => self.path = OsStr::from_bytes(value).to_owned(),
                b"linkpath" => self.link = OsStr::from_bytes(value).to_owned(),
                b"uid" => self.uid = narrow(number(value)?)?,
                b"gid" => self.gid = narrow(number(value)?)?,
                b"size" => self.size = number(value)?,
                b"mtime" => self.mtime = time(value)?,
                b"GNU.sparse.major" => sparse.version.0 = Some(number(value)?),
                b"GNU.sparse.minor" => sparse.version.1 = Some(number(value)?),
                b"GNU.sparse.realsize" | b"GNU.sparse.size" => sparse.size = Some(number(value)?),
                key => self.attribute(key, value)?,
            }
        }
        Ok(sparse)
    }

    fn attribute(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        let Some(name) = key.strip_prefix(b"SCHILY.xattr.").filter(|name| attributes::is_kept(name)) else {
            return Ok(());
        };
        let name = CString::new(name).map_err(|error| broken(error.into()))?;
        self.attributes.push((name, value.to_owned()));
        Ok(())
    }
}

fn verify(header: &Header) -> Result<(), ArchiveError> {
    // The checksum counts its own field as spaces.
    let outside = header.as_bytes().iter().enumerate().filter(|(at, _)| !(148..156).contains(at));
    let sum = outside.map(|(_, byte)| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
    match header.cksum() {
        Ok(said) if said == sum => Ok(()),
        _ => Err(ArchiveError::malformed("it is not a tar archive, or it is damaged")),
    }
}

fn broken(_: io::Error) -> ArchiveError {
    ArchiveError::malformed("a header in it is broken")
}

fn no_gnu() -> ArchiveError {
    broken(io::ErrorKind::InvalidData.into())
}

fn until_zero(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    text.truncate(end);
    text
}

fn narrow(id: u64) -> Result<u32, ArchiveError> {
    // The last one means "leave it" to chown(2).
    let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| ArchiveError::malformed("the owner of a file in it has no number that there can be"))
}

fn number(value: &[u8]) -> Result<u64, ArchiveError> {
    let text = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    text.ok_or_else(no_gnu)
}

fn time(value: &[u8]) -> Result<i128, ArchiveError> {
    let text = std::str::from_utf8(value).map_err(|_| no_gnu())?;
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (seconds, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let seconds: u64 = seconds.parse().map_err(|_| no_gnu())?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(no_gnu());
    }
    let nanoseconds: i128 = format!("{fraction:0<9}")[..9].parse().map_err(|_| no_gnu())?;
    Ok(sign * (i128::from(seconds) * 1_000_000_000 + nanoseconds))
}

fn device(header: &Header) -> Result<(u32, u32), ArchiveError> {
    if !matches!(header.entry_type(), EntryType::Char | EntryType::Block) {
        return Ok((0, 0));
    }
    let numbers = (header.device_major().map_err(broken)?, header.device_minor().map_err(broken)?);
    numbers.0.zip(numbers.1).ok_or_else(no_gnu)
}

fn add(regions: &mut Vec<Region>, more: &[GnuSparseHeader]) -> Result<(), ArchiveError> {
    for region in more.iter().filter(|region| !region.is_empty()) {
        regions.push((region.offset().map_err(broken)?, region.length().map_err(broken)?));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_to_the_nanosecond_and_before_1970() {
        for (text, nanoseconds) in [
            ("0", Some(0)),
            ("1.5", Some(1_500_000_000)),
            ("-1.5", Some(-1_500_000_000)),
            ("1700000000.123456789", Some(1_700_000_000_123_456_789)),
            ("1.1234567891", Some(1_123_456_789)),
            ("", None),
            ("1.x", None),
            ("1e3", None),
            ("1.+5", None),
        ] {
            assert_eq!(time(text.as_bytes()).ok(), nanoseconds, "{text}");
        }
    }
}
