//! Compression: by the name of a file when it is written, by its first bytes when it is read.

use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::{ArchiveError, BUFFER};

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// First bytes, and what they say; the last two are read by others alone.
const MAGIC: [(&[u8], Result<Compression, &'static str>); 4] = [
    (&[0x1f, 0x8b], Ok(Compression::Gzip)),
    (&[0x28, 0xb5, 0x2f, 0xfd], Ok(Compression::Zstd)),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], Err("xz")),
    (b"BZh", Err("bzip2")),
];

impl Compression {
    /// What the end of a file's name asks for; `None` for an ending that no archive has.
    pub fn from_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        match () {
            () if ends(&[".tar"]) => Some(Self::None),
            () if ends(&[".tar.gz", ".tgz"]) => Some(Self::Gzip),
            () if ends(&[".tar.zst", ".tzst"]) => Some(Self::Zstd),
            () => None,
        }
    }
}

/// Compresses what is written to it.
pub enum Encoder<W: Write> {
    /// Nothing is done.
    None(W),
    /// In Rust.
    Gzip(GzEncoder<W>),
    /// With a checksum over the content.
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Begins to write to `out`.
    ///
    /// # Errors
    /// What the compressor gives when it has no memory.
    pub fn open(compression: Compression, out: W) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(out),
            Compression::Gzip => Self::Gzip(GzEncoder::new(out, flate2::Compression::default())),
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Writes what is left, and the end; without it what was written is not whole, and will be seen not to be.
    ///
    /// # Errors
    /// What writing gives.
    pub fn close(self) -> io::Result<W> {
        match self {
            Self::None(out) => Ok(out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(out) => out.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(out) => out.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// Decompresses what is read from it.
pub enum Decoder<R: Read> {
    /// Nothing is done.
    None(Begun<R>),
    /// In Rust.
    Gzip(Box<MultiGzDecoder<Begun<R>>>),
    /// With its checksum verified.
    Zstd(Box<zstd::Decoder<'static, BufReader<Begun<R>>>>),
}

/// What was read to see what it is, and then the rest.
pub type Begun<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes and begins to read.
    ///
    /// # Errors
    /// [`ArchiveError::Malformed`] for a compression that osier cannot read; what reading gives.
    pub fn open(mut from: R) -> Result<Self, ArchiveError> {
        let mut first = Vec::new();
        let read = from.by_ref().take(6).read_to_end(&mut first);
        read.map_err(ArchiveError::Stream)?;
        let known = MAGIC.iter().find(|(magic, _)| first.starts_with(magic)).map(|(_, means)| *means);
        let begun = io::Cursor::new(first).chain(from);
        match known {
            None | Some(Ok(Compression::None)) => Ok(Self::None(begun)),
            Some(Ok(Compression::Gzip)) => Ok(Self::Gzip(Box::new(MultiGzDecoder::new(begun)))),
            Some(Ok(Compression::Zstd)) => {
                let decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(BUFFER, begun));
                Ok(Self::Zstd(Box::new(decoder.map_err(ArchiveError::Stream)?)))
            }
            Some(Err(program)) => Err(ArchiveError::Compressed(program)),
        }
    }

    /// Reads to the end, so that what is behind the archive's last block is checked as well, and no writer at the other
    /// end of a pipe is cut off.
    ///
    /// # Errors
    /// What reading gives.
    pub fn close(mut self) -> Result<(), ArchiveError> {
        io::copy(&mut self, &mut io::sink()).map_err(ArchiveError::Stream).map(drop)
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(from) => from.read(into),
            Self::Gzip(decoder) => decoder.read(into),
            Self::Zstd(decoder) => decoder.read(into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compressed_is_read_back_and_half_of_it_is_not() {
        let text: Vec<u8> = (0..1_000_000u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut encoder = Encoder::open(compression, Vec::new()).unwrap();
            encoder.write_all(&text).unwrap();
            let packed = encoder.close().unwrap();
            assert_eq!(packed.len() < text.len(), compression != Compression::None);
            let mut read = Vec::new();
            Decoder::open(packed.as_slice()).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == text, "{compression:?}");
            if compression != Compression::None {
                let mut half = Decoder::open(&packed[..packed.len() / 2]).unwrap();
                assert!(half.read_to_end(&mut read).is_err(), "{compression:?}");
            }
        }
    }

    #[test]
    fn a_name_says_the_compression() {
        for (name, means) in [
            ("a.tar", Some(Compression::None)),
            ("/x.tar/A.TAR.ZST", Some(Compression::Zstd)),
            ("a.tgz", Some(Compression::Gzip)),
            ("a.tar.xz", None),
            ("tar", None),
            ("a", None),
        ] {
            assert_eq!(Compression::from_name(Path::new(name)), means, "{name}");
        }
        let xz = Decoder::open([0xfd, b'7', b'z', b'X', b'Z', 0, 0].as_slice()).map(drop);
        assert!(xz.unwrap_err().to_string().contains("xz"));
    }
}
