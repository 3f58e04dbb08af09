//! A file of CRIU's images: two magic numbers, then records, each a length and a protobuf message (criu.org, "Images").
//!
//! Messages are changed where they stand, by fields, so that what osier does not know of them stays as it is.

use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::parts::Parts;

/// `IMG_COMMON_MAGIC` (criu/include/magic.h): every image but the inventory begins with it.
const COMMON: u32 = 0x5456_4319;

/// What an image is of: its second magic number (criu/include/magic.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::criu) enum Kind {
    Cgroup = 0x5938_3330,
    Core = 0x5505_3847,
    Files = 0x5630_3138,
    Memory = 0x5749_2820,
    Mounts = 0x5556_3928,
    Pagemap = 0x5608_4025,
    Timens = 0x4311_4433,
}

/// An image file that has been read.
#[derive(Debug, Clone)]
pub(in crate::criu) struct Image {
    path: PathBuf,
    bytes: Vec<u8>,
    records: Vec<Range<usize>>,
}

/// A field of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::criu) struct Field {
    /// Its number in the .proto file.
    pub(in crate::criu) number: u64,
    /// How its value is written (protobuf.dev, "Encoding").
    pub(in crate::criu) wire: u64,
    /// Where its value stands: a number's bytes, or the content of a string or message.
    pub(in crate::criu) value: Range<usize>,
}

fn invalid(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("'{}' {what}", path.display()))
}

impl Image {
    /// Reads a file and finds its records.
    ///
    /// # Errors
    /// `InvalidData` for a file that is no such image, or cut.
    pub(in crate::criu) fn read(path: &Path, kind: Kind) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        let magic =
            |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
        let mut at = match (magic(0), magic(4)) {
            (Some(COMMON), Some(second)) if second == kind as u32 => 8,
            // What CRIU had nothing to write into.
            _ if bytes.is_empty() => 0,
            _ => return Err(invalid(path, "is no such image of CRIU's")),
        };
        let mut records = Vec::new();
        while at < bytes.len() {
            let length = magic(at).and_then(|length| usize::try_from(length).ok());
            let end = length.and_then(|length| length.checked_add(at + 4)).filter(|end| *end <= bytes.len());
            let end = end.ok_or_else(|| invalid(path, "is cut short"))?;
            records.push(at + 4..end);
            at = end;
        }
        Ok(Self { path: path.to_owned(), bytes, records })
    }

    /// Its records, each the place of a message.
    pub(in crate::criu) fn records(&self) -> Vec<Range<usize>> {
        self.records.clone()
    }

    /// The only record.
    ///
    /// # Errors
    /// `InvalidData` when there is none.
    pub(in crate::criu) fn record(&self) -> io::Result<&[u8]> {
        let first = self.records.first().ok_or_else(|| invalid(&self.path, "is empty"))?;
        Ok(&self.bytes[first.clone()])
    }

    /// A record's message, taken apart.
    ///
    /// # Errors
    /// `InvalidData` where there is no such record, or it is no message.
    pub(in crate::criu) fn take_apart(&self, record: usize) -> io::Result<Parts> {
        let place = self.records.get(record).ok_or_else(|| invalid(&self.path, "is empty"))?;
        Parts::parse(&self.bytes[place.clone()])
            .ok_or_else(|| invalid(&self.path, "has a record that is no message"))
    }

    /// Puts `message` in the place of a record's, however long that was. Places of fields that were found before are not theirs any
    /// more.
    ///
    /// # Errors
    /// `InvalidData` where there is no such record.
    pub(in crate::criu) fn set_record(&mut self, record: usize, message: &[u8]) -> io::Result<()> {
        let place = self.records.get(record).cloned().ok_or_else(|| invalid(&self.path, "is empty"))?;
        let length = u32::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.bytes.splice(place.start - 4..place.end, [&length.to_le_bytes(), message].concat());
        let moved = |at: usize| at + message.len() - place.len();
        self.records[record].end = moved(place.end);
        for later in &mut self.records[record + 1..] {
            *later = moved(later.start)..moved(later.end);
        }
        Ok(())
    }

    /// The fields of the message at `message`.
    ///
    /// # Errors
    /// `InvalidData` for what is no message.
    pub(in crate::criu) fn fields(&self, message: &Range<usize>) -> io::Result<Vec<Field>> {
        fields(&self.bytes[message.clone()])
            .map(|found| {
                let shift = |range: Range<usize>| range.start + message.start..range.end + message.start;
                found.into_iter().map(|field| Field { value: shift(field.value), ..field }).collect()
            })
            .ok_or_else(|| invalid(&self.path, "has a record that is no message"))
    }

    /// The fields of the message that is the field `number` of the message at `message`, if it has that.
    ///
    /// # Errors
    /// As [`Image::fields`].
    pub(in crate::criu) fn message(
        &self,
        message: &Range<usize>,
        number: u64,
    ) -> io::Result<Option<Vec<Field>>> {
        let field = self.fields(message)?.into_iter().find(|field| field.number == number);
        field.map(|field| self.fields(&field.value)).transpose()
    }

    /// The number that is the field `number` among `fields`.
    pub(in crate::criu) fn number(&self, fields: &[Field], number: u64) -> Option<u64> {
        let field = fields.iter().find(|field| field.number == number)?;
        varint(&self.bytes[field.value.clone()]).map(|(value, _)| value)
    }

    /// Puts another number in the place of a field's, with as many bytes: a shorter one is filled up, which readers of protobuf
    /// take. Says whether it was not too long for that.
    pub(in crate::criu) fn set_number(&mut self, field: &Field, mut value: u64) -> bool {
        let place = &mut self.bytes[field.value.clone()];
        let last = place.len() - 1;
        for (at, byte) in place.iter_mut().enumerate() {
            *byte = (value & 0x7f) as u8 | if at < last { 0x80 } else { 0 };
            value >>= 7;
        }
        value == 0
    }

    /// The text that is the field `number` among `fields`.
    pub(in crate::criu) fn text(&self, fields: &[Field], number: u64) -> Option<&str> {
        let field = fields.iter().find(|field| field.number == number)?;
        std::str::from_utf8(&self.bytes[field.value.clone()]).ok()
    }

    /// Puts a number into the field `number` of a record's message, as [`Image::set_record`].
    ///
    /// # Errors
    /// `InvalidData` where there is no such field.
    pub(in crate::criu) fn put_number(&mut self, record: usize, number: u64, value: u64) -> io::Result<()> {
        let mut parts = self.take_apart(record)?;
        if !parts.set_number(number, value) {
            return Err(invalid(&self.path, "has a record without a number"));
        }
        self.set_record(record, &parts.encode())
    }

    /// Writes the file anew, beside it first. A symbolic link gives way to a file: what it leads to is not touched.
    ///
    /// # Errors
    /// What writing gives.
    pub(in crate::criu) fn write(&self) -> io::Result<()> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = self.path.with_file_name(name);
        let written = fs::File::create(&new).and_then(|mut file| {
            file.write_all(&self.bytes)?;
            file.sync_data()
        });
        written.and_then(|()| fs::rename(&new, &self.path)).inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
    }
}

/// A number of the wire format and its length.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(at).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

/// The fields of a message (protobuf.dev, "Encoding").
pub(super) fn fields(message: &[u8]) -> Option<Vec<Field>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < message.len() {
        let (key, length) = varint(&message[at..])?;
        at += length;
        let (start, length) = match key & 7 {
            0 => (at, varint(&message[at..])?.1),
            1 => (at, 8),
            2 => {
                let (content, length) = varint(&message[at..])?;
                (at + length, usize::try_from(content).ok()?)
            }
            5 => (at, 4),
            _ => return None,
        };
        let end = start.checked_add(length).filter(|end| *end <= message.len())?;
        found.push(Field { number: key >> 3, wire: key & 7, value: start..end });
        at = end;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_changed_where_it_stands() {
        let directory = std::env::temp_dir().join(format!("osier-image-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let path = directory.join("files.img");
        // type: REG, id: 7, reg { id: 7, flags: 0x2a0000, pos: 0 }, and a field from the future.
        let reg = [0x08, 7, 0x10, 0x80, 0x80, 0xa8, 0x01, 0x18, 0];
        let mut record = vec![0x08, 1, 0x10, 7, 0x1a, reg.len() as u8];
        record.extend(reg);
        record.extend([0xf2, 0x07, 2, b'h', b'i']);
        let mut bytes = [COMMON.to_le_bytes(), (Kind::Files as u32).to_le_bytes()].concat();
        bytes.extend((record.len() as u32).to_le_bytes());
        bytes.extend(&record);
        fs::write(&path, &bytes).unwrap();

        let mut image = Image::read(&path, Kind::Files).unwrap();
        let [record] = &image.records()[..] else { panic!() };
        let reg = image.message(record, 3).unwrap().unwrap();
        assert_eq!(image.number(&reg, 2), Some(0x002a_0000));
        assert!(image.message(record, 12).unwrap().is_none());
        let flags = reg[1].clone();
        assert!(!image.set_number(&flags, 1 << 40));
        assert!(image.set_number(&flags, 0x0008_0000));
        image.write().unwrap();
        let changed = Image::read(&path, Kind::Files).unwrap();
        let reg = changed.message(&changed.records()[0], 3).unwrap().unwrap();
        assert_eq!(changed.number(&reg, 2), Some(0x0008_0000));
        let after = fs::read(&path).unwrap();
        assert_eq!(after.len(), bytes.len());
        assert_eq!(after.iter().zip(&bytes).filter(|(a, b)| a != b).count(), 2);

        for (cut, kind) in
            [(bytes.len() - 1, Kind::Files), (11, Kind::Files), (6, Kind::Files), (bytes.len(), Kind::Timens)]
        {
            fs::write(&path, &bytes[..cut]).unwrap();
            let error = Image::read(&path, kind).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{cut}: {error}");
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
