//! The clocks in the images: what the time namespace's clocks showed when it was saved, which is what they start from at restore.

use std::io;
use std::path::{Path, PathBuf};

use prost::Message;

use super::file::{Image, Kind};

const SECOND: i64 = 1_000_000_000;

/// What the clocks of the saved time namespace showed inside, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// CLOCK_MONOTONIC.
    pub monotonic: i64,
    /// CLOCK_BOOTTIME.
    pub boottime: i64,
}

/// `timens_entry` (images/timens.proto).
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(message, required, tag = "1")]
    monotonic: Time,
    #[prost(message, required, tag = "2")]
    boottime: Time,
}

/// `timespec`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Time {
    #[prost(uint64, required, tag = "1")]
    seconds: u64,
    #[prost(uint64, required, tag = "2")]
    nanoseconds: u64,
}

impl Time {
    fn of(nanoseconds: i64) -> Option<Self> {
        let seconds = u64::try_from(nanoseconds.div_euclid(SECOND)).ok()?;
        Some(Self { seconds, nanoseconds: nanoseconds.rem_euclid(SECOND).unsigned_abs() })
    }

    fn total(self) -> Option<i64> {
        i64::try_from(self.seconds)
            .ok()?
            .checked_mul(SECOND)?
            .checked_add(i64::try_from(self.nanoseconds).ok()?)
    }
}

impl Clocks {
    /// Reads them; `None` where the tasks were in no time namespace of their own.
    ///
    /// # Errors
    /// `InvalidData` for what is no such image.
    pub fn read(images: &Path) -> io::Result<Option<Self>> {
        let Some(path) = find(images)? else { return Ok(None) };
        let entry = Entry::decode(Image::read(&path, Kind::Timens)?.record()?)?;
        let (monotonic, boottime) = (entry.monotonic.total(), entry.boottime.total());
        let out_of_range = || io::Error::new(io::ErrorKind::InvalidData, "the saved clocks are out of range");
        Ok(Some(Self {
            monotonic: monotonic.ok_or_else(out_of_range)?,
            boottime: boottime.ok_or_else(out_of_range)?,
        }))
    }

    /// Writes others in their place: at restore the clocks start from these. A symbolic link gives way to a file.
    ///
    /// # Errors
    /// `NotFound` where there are none, `InvalidInput` for a clock below zero; what writing gives.
    pub fn write(self, images: &Path) -> io::Result<()> {
        let path = find(images)?.ok_or(io::ErrorKind::NotFound)?;
        let (Some(monotonic), Some(boottime)) = (Time::of(self.monotonic), Time::of(self.boottime)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut image = Image::read(&path, Kind::Timens)?;
        image.set_record(0, &Entry { monotonic, boottime }.encode_to_vec())?;
        image.write()
    }
}

/// `timens-ID.img`; machines have no other time namespace inside. `timens-0.img` is the empty one of trees without.
fn find(images: &Path) -> io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(images)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_one = name.starts_with("timens-") && name.ends_with(".img");
        if is_one && std::fs::metadata(entry.path())?.len() > 8 {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_read_and_written() {
        let directory = std::env::temp_dir().join(format!("osier-clocks-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        assert_eq!(Clocks::read(&directory).unwrap(), None);
        assert_eq!(
            Clocks { monotonic: 0, boottime: 0 }.write(&directory).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        // monotonic { 5 s, 7 ns }, boottime { 300 s, 0 ns }
        let original = directory.join("saved");
        let bytes = [
            0x19, 0x43, 0x56, 0x54, 0x33, 0x44, 0x11, 0x43, 13, 0, 0, 0, 0x0a, 4, 8, 5, 16, 7, 0x12, 5, 8,
            0xac, 2, 16, 0,
        ];
        std::fs::write(&original, bytes).unwrap();
        std::os::unix::fs::symlink(&original, directory.join("timens-11.img")).unwrap();
        let saved = Clocks { monotonic: 5 * SECOND + 7, boottime: 300 * SECOND };
        assert_eq!(Clocks::read(&directory).unwrap(), Some(saved));
        let other = Clocks { monotonic: 1, boottime: 400 * 86_400 * SECOND + 999_999_999 };
        other.write(&directory).unwrap();
        assert_eq!(Clocks::read(&directory).unwrap(), Some(other));
        assert_eq!(std::fs::read(&original).unwrap(), bytes);
        let below = Clocks { monotonic: -1, boottime: 0 };
        assert_eq!(below.write(&directory).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        std::fs::write(directory.join("timens-11.img"), b"something else").unwrap();
        assert_eq!(Clocks::read(&directory).unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
