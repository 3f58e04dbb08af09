//! A checkpoint as one file: a tar archive with the manifest first, compressed by zstd or not.
//!
//! Read is only what osier writes: regular files under names that the manifest knows, no extended headers, no links. All that
//! tar(1) can do beyond that is a way to be fooled.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use tar::{Archive, Builder, EntryType, Header};

use super::Watch;
use super::cause::{At, Cause};
use super::draft::{PIECE, copy, create, open};
use super::manifest::{LONGEST, Manifest};
use super::member::{MANIFEST, Member, Summing};

/// The first bytes of a file that zstd made (RFC 8878, 3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// What stands at the 257th byte of a tar archive (man 5 tar).
const USTAR: &[u8] = b"ustar";
/// The unit of a tar archive.
const BLOCK: u64 = 512;

/// Whether a file is compressed. Reading tells it by the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// It is not: pages of memory are where they were, and it is written as fast as the disk takes it.
    #[default]
    None,
    /// By zstd, with its lowest level: a machine waits for it.
    Zstd,
}

/// Writes the file `path` from a checkpoint's directory, its manifest and that's text.
pub(super) fn pack(
    path: &Path,
    compression: Compression,
    whole: (&Path, &Manifest, &str),
    watch: &mut dyn Watch,
) -> Result<(), Cause> {
    let out = BufWriter::with_capacity(PIECE, create(path)?);
    let out = match compression {
        Compression::None => append(out, path, whole, watch)?,
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(out, 1).at(path)?;
            encoder.include_checksum(true).at(path)?;
            append(encoder, path, whole, watch)?.finish().at(path)?
        }
    };
    let file = out.into_inner().map_err(io::IntoInnerError::into_error).at(path)?;
    file.sync_all().at(path)
}

fn append<W: Write>(
    out: W,
    path: &Path,
    (directory, manifest, text): (&Path, &Manifest, &str),
    watch: &mut dyn Watch,
) -> Result<W, Cause> {
    let mut builder = Builder::new(out);
    let header = |name: &str, size: u64| -> io::Result<Header> {
        let mut header = Header::new_gnu();
        header.set_path(name)?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(manifest.created_usec / 1_000_000);
        header.set_size(size);
        header.set_cksum();
        Ok(header)
    };
    let first = header(MANIFEST, text.len() as u64).at(path)?;
    builder.append(&first, text.as_bytes()).at(path)?;
    for member in &manifest.files {
        let (file, _) = open(directory, &member.name)?;
        let mut content = Summing::new(Watched { stream: file, watch, stopped: None });
        let header = header(member.name.as_str(), member.size).at(path)?;
        let appended = builder.append(&header, &mut content);
        let (sum, size, watched) = content.finish();
        if let Some(why) = watched.stopped {
            return Err(Cause::Stopped(why));
        }
        appended.at(path)?;
        if (sum, size) != (member.sha256, member.size) {
            return Err(Cause::Altered(member.name.to_string()));
        }
    }
    builder.into_inner().at(path)
}

/// A reader that its watch can stop.
struct Watched<'a, R> {
    stream: R,
    watch: &'a mut dyn Watch,
    stopped: Option<String>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Err(why) = self.watch.check() {
            self.stopped = Some(why);
            return Err(io::ErrorKind::Other.into());
        }
        let count = self.stream.read(into)?;
        self.watch.bytes(count as u64);
        Ok(count)
    }
}

/// What is done with a file's content.
pub(super) trait Sink {
    /// The manifest, before any member.
    fn manifest(&mut self, manifest: Manifest) -> Result<Next, Cause>;
    /// A member whose name and size are right, and its content; the sum is looked at by the caller.
    fn member(&mut self, member: &Member, content: &mut dyn Read) -> Result<io::Result<()>, Cause>;
}

/// Whether to go on after the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Through all members.
    Members,
    /// No.
    Enough,
}

/// Reads a checkpoint's file from its beginning and gives its parts to `sink`. When it comes to its end without an error,
/// every byte is what was written.
pub(super) fn read(file: &File, path: &Path, sink: &mut dyn Sink) -> Result<(), Cause> {
    let mut file = file;
    file.rewind().at(path)?;
    let size = file.metadata().at(path)?.len();
    let mut start = Vec::new();
    file.take(BLOCK).read_to_end(&mut start).at(path)?;
    file.rewind().at(path)?;
    let stream = BufReader::with_capacity(PIECE, file);
    let mut parse = |stream: &mut dyn Read| Stream::new(stream, path, size).parse(sink);
    if start.starts_with(&ZSTD) {
        parse(&mut zstd::Decoder::with_buffer(stream).at(path)?)
    } else if start.get(257..262) == Some(USTAR) {
        parse(&mut { stream })
    } else if size < BLOCK {
        Err(Cause::Cut(size))
    } else {
        Err(Cause::Foreign("it is neither a tar archive nor one that zstd compressed".to_owned()))
    }
}

/// An archive being read.
struct Stream<'a> {
    stream: &'a mut dyn Read,
    path: &'a Path,
    /// Of the file on disk, bytes.
    size: u64,
    state: State,
}

/// How far the archive has been read.
#[derive(Default)]
struct State {
    count: Cell<u64>,
    ended: Cell<bool>,
}

/// Reads for the archive and keeps its state.
struct Counted<'a, 'b> {
    stream: &'b mut &'a mut dyn Read,
    state: &'b State,
}

impl Read for Counted<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(into)?;
        self.state.count.set(self.state.count.get() + count as u64);
        self.state.ended.set(count == 0 && !into.is_empty());
        Ok(count)
    }
}

/// What a reading error means.
fn meaning(error: io::Error, state: &State, path: &Path, size: u64) -> Cause {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Cause::Cut(size),
        _ if state.ended.get() => Cause::Cut(size),
        _ if error.raw_os_error().is_some() => Cause::io(path, error),
        _ => Cause::Garbled(error.to_string()),
    }
}

impl<'a> Stream<'a> {
    fn new(stream: &'a mut dyn Read, path: &'a Path, size: u64) -> Self {
        Self { stream, path, size, state: State::default() }
    }

    fn parse(mut self, sink: &mut dyn Sink) -> Result<(), Cause> {
        let (state, path, size) = (&self.state, self.path, self.size);
        let fail = |error| meaning(error, state, path, size);
        let mut archive = Archive::new(Counted { stream: &mut self.stream, state });
        let mut contents: Option<Contents> = None;
        let mut end = 0;
        // Raw: what an extended header says of the next member is a member here, and refused.
        for entry in archive.entries().map_err(fail)?.raw(true) {
            let mut entry = entry.map_err(fail)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let length = entry.header().entry_size().map_err(fail)?;
            end += BLOCK + length.div_ceil(BLOCK).saturating_mul(BLOCK);
            let kind = entry.header().entry_type();
            let Some(contents) = &mut contents else {
                let manifest = first(&name, (kind, length), &mut entry, &fail)?;
                contents = Some(Contents::of(&manifest));
                match sink.manifest(manifest)? {
                    Next::Enough => return Ok(()),
                    Next::Members => continue,
                }
            };
            if kind != EntryType::Regular {
                return Err(Cause::NotFile(name));
            }
            let member = contents.take(&name, length)?;
            let mut content = Summing::new(&mut entry);
            sink.member(&member, &mut content)?.map_err(fail)?;
            let (sum, count, _) = content.finish();
            match count == length {
                false => return Err(Cause::Cut(size)),
                true if sum != member.sha256 => return Err(Cause::Altered(name)),
                true => {}
            }
        }
        let contents = contents.ok_or(Cause::Cut(size))?;
        self.finish(end)?;
        contents.finish()
    }

    /// After the last member come two blocks of zeros, and more of them as far as tar(1) likes, and then nothing.
    fn finish(&mut self, end: u64) -> Result<(), Cause> {
        let mut piece = vec![0; PIECE];
        loop {
            let read = Counted { stream: &mut self.stream, state: &self.state }.read(&mut piece);
            match read.map_err(|error| meaning(error, &self.state, self.path, self.size))? {
                0 if self.state.count.get() < end + 2 * BLOCK => return Err(Cause::Cut(self.size)),
                0 => return Ok(()),
                count if piece[..count].iter().any(|byte| *byte != 0) => return Err(Cause::Trailing),
                _ => {}
            }
        }
    }
}

/// The manifest, which is the first member.
fn first(
    name: &str,
    (kind, length): (EntryType, u64),
    entry: &mut impl Read,
    fail: &impl Fn(io::Error) -> Cause,
) -> Result<Manifest, Cause> {
    if name != MANIFEST || kind != EntryType::Regular {
        return Err(Cause::Foreign("it does not begin with checkpoint.json".to_owned()));
    }
    if length > LONGEST {
        return Err(Cause::Foreign("its checkpoint.json is too long".to_owned()));
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text).map_err(fail)?;
    if text.len() as u64 != length {
        return Err(fail(io::ErrorKind::UnexpectedEof.into()));
    }
    Manifest::decode(&text)
}

/// The members that are still to come, and those that were there.
struct Contents {
    wanted: Vec<(Member, Found)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Yes,
    NotYet,
}

impl Contents {
    fn of(manifest: &Manifest) -> Self {
        Self { wanted: manifest.files.iter().map(|member| (member.clone(), Found::NotYet)).collect() }
    }

    fn take(&mut self, name: &str, size: u64) -> Result<Member, Cause> {
        let known = self.wanted.iter_mut().find(|(member, _)| member.name.as_str() == name);
        let Some((member, found)) = known else { return Err(Cause::Unknown(name.to_owned())) };
        if std::mem::replace(found, Found::Yes) == Found::Yes {
            return Err(Cause::Twice(name.to_owned()));
        }
        if member.size != size {
            return Err(Cause::Size { name: name.to_owned(), found: size, wanted: member.size });
        }
        Ok(member.clone())
    }

    fn finish(&self) -> Result<(), Cause> {
        match self.wanted.iter().find(|(_, found)| *found == Found::NotYet) {
            Some((member, _)) => Err(Cause::Missing(member.name.to_string())),
            None => Ok(()),
        }
    }
}

/// For the reading of a member.
pub(super) fn drain(
    content: &mut dyn Read,
    to: &mut dyn Write,
    watch: &mut dyn Watch,
) -> Result<io::Result<()>, Cause> {
    let (mut content, mut to) = (content, to);
    copy(&mut content, &mut to, watch)
}
