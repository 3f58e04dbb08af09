//! Extended headers: records of `LENGTH KEY=VALUE\n` that say what a header's fixed fields are too narrow for.
//!
//! A value may hold any byte, line feeds and zeros included, as those of extended attributes do: only its length ends it.

use super::ArchiveError;

/// Appends a record.
pub(super) fn write(into: &mut Vec<u8>, key: &str, value: &[u8]) {
    // A space, an equals sign and a line feed; and the length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + digits(length) != length {
        length = rest + digits(length);
    }
    into.extend_from_slice(format!("{length} {key}=").as_bytes());
    into.extend_from_slice(value);
    into.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// A record's key and its value.
pub(super) type Record<'a> = (&'a [u8], &'a [u8]);

/// All records of an extended header.
///
/// # Errors
/// [`ArchiveError::Malformed`] where the lengths do not fit.
pub(super) fn parse(mut text: &[u8]) -> Result<Vec<Record<'_>>, ArchiveError> {
    let mut records = Vec::new();
    while !text.is_empty() {
        let (record, rest) =
            split(text).ok_or_else(|| ArchiveError::malformed("an extended header in it is broken"))?;
        records.push(record);
        text = rest;
    }
    Ok(records)
}

fn split(text: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = text.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
    let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some(((&record[..equals], &record[equals + 1..]), &text[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for (value, start) in [(0, "5 k="), (4, "9 k="), (5, "11 k="), (93, "99 k="), (94, "101 k=")] {
            let (mut text, value) = (Vec::new(), vec![b'v'; value]);
            write(&mut text, "k", &value);
            assert!(text.starts_with(start.as_bytes()), "{}", String::from_utf8_lossy(&text));
            assert_eq!(parse(&text).unwrap(), [(b"k".as_slice(), value.as_slice())]);
        }
    }

    #[test]
    fn a_value_may_hold_any_byte() {
        let mut text = Vec::new();
        write(&mut text, "SCHILY.xattr.user.a", b"one\n12 b=two\n\0");
        write(&mut text, "path", b"");
        let records = parse(&text).unwrap();
        assert_eq!(records[0].1, b"one\n12 b=two\n\0");
        assert_eq!(records[1], (b"path".as_slice(), b"".as_slice()));
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        for text in
            ["5 a=", "0 a=b\n", "3 a=b\n", "99999999999999999999999 a=b\n", "x a=b\n", "6 ab\n\n", "7 a=b\n"]
        {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
