//! Machine IDs: 128 bits, as machine-id(5) has them.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

/// A machine ID; as text 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineId([u8; 16]);

/// A text that is neither 32 hexadecimal digits nor a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdError;

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an ID is 32 hexadecimal digits, or a UUID with dashes")
    }
}

impl std::error::Error for IdError {}

impl MachineId {
    /// From the 16 bytes, first byte first in the text.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether every bit is zero, which no machine has for an ID.
    pub fn is_null(&self) -> bool {
        self.0 == [0; 16]
    }

    /// The UUID form with dashes, as `container_uuid` and /proc/sys/kernel/random/boot_id have it.
    pub fn as_uuid(&self) -> String {
        let hex = self.to_string();
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// A new random ID with the bits of a version 4 UUID, which machine-id(5) asks for.
    ///
    /// # Errors
    /// What getrandom(2) gives.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        // At most 256 bytes come whole and are not cut short by a signal (man 2 getrandom).
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Self(bytes))
    }

    /// The ID in a machine-id(5) file; none when the file is missing, empty, `uninitialized` or all zeros.
    ///
    /// # Errors
    /// `InvalidData` when something else stands in it; what open(2) and read(2) give.
    pub fn read_from(path: &Path) -> io::Result<Option<Self>> {
        let text = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let text = std::str::from_utf8(&text).map_err(|_| invalid(IdError))?.trim_end();
        if text.is_empty() || text == "uninitialized" {
            return Ok(None);
        }
        let id: Self = text.parse().map_err(invalid)?;
        Ok(Some(id).filter(|id| !id.is_null()))
    }

    /// The host's own ID, /etc/machine-id.
    ///
    /// # Errors
    /// As [`MachineId::read_from`].
    pub fn host() -> io::Result<Option<Self>> {
        Self::read_from(Path::new("/etc/machine-id"))
    }
}

fn invalid(error: IdError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl FromStr for MachineId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let dashed = text.len() == 36;
        let mut digits = text.bytes().enumerate().filter_map(|(at, byte)| {
            if dashed && matches!(at, 8 | 13 | 18 | 23) && byte == b'-' { None } else { Some(byte) }
        });
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            let high = digits.next().and_then(nibble).ok_or(IdError)?;
            let low = digits.next().and_then(nibble).ok_or(IdError)?;
            *byte = high << 4 | low;
        }
        if digits.next().is_some() { Err(IdError) } else { Ok(Self(bytes)) }
    }
}

fn nibble(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

impl TryFrom<String> for MachineId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<MachineId> for String {
    fn from(id: MachineId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MachineId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn both_forms_are_read_and_both_are_written() {
        let id: MachineId = HEX.parse().unwrap();
        assert_eq!(id.to_string(), HEX);
        assert_eq!(id.as_uuid(), "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(id.as_uuid().to_uppercase().parse(), Ok(id));
        assert_eq!(id.bytes()[..3], [0x01, 0x23, 0x45]);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "0",
            &HEX[1..],
            &format!("{HEX}0"),
            &format!("{HEX}0000"),
            "0123456789abcdef0123456789abcdeg",
            "0123-4567-89abcdef-0123-456789abcdef",
            "01234567-89ab-cdef-0123-456789abcde",
            "01234567-89ab-cdef-0123-456789abcd\u{e9}f",
            " 123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(text.parse::<MachineId>(), Err(IdError), "{text:?}");
        }
    }

    #[test]
    fn random_ids_are_uuids_of_version_4_and_differ() {
        let (a, b) = (MachineId::random().unwrap(), MachineId::random().unwrap());
        assert_ne!(a, b);
        assert_eq!((a.bytes()[6] >> 4, a.bytes()[8] >> 6), (4, 2));
    }

    #[test]
    fn a_machine_id_file_is_read_by_its_rules() {
        let dir = std::env::temp_dir().join(format!("osier-ids-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let file = dir.join("machine-id");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            MachineId::read_from(&file)
        };
        assert_eq!(read(&format!("{HEX}\n")).unwrap(), HEX.parse().ok());
        assert_eq!(read(HEX).unwrap(), HEX.parse().ok());
        for none in ["", "\n", "uninitialized\n", "00000000000000000000000000000000\n"] {
            assert_eq!(read(none).unwrap(), None, "{none:?}");
        }
        assert_eq!(read("web\n").unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(MachineId::read_from(&dir.join("none")).unwrap(), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
