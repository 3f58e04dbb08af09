//! The texts of mounts: `SRC[:DST[:OPTIONS]]` of --bind and `PATH[:OPTIONS]` of --tmpfs, as systemd-nspawn(1) has them.

/// Splits at colons that no backslash stands before; `\:` and `\\` are a colon and a backslash.
pub fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        let part = match char {
            ':' => {
                parts.push(String::new());
                continue;
            }
            '\\' => chars.next().unwrap_or('\\'),
            char => char,
        };
        if let Some(last) = parts.last_mut() {
            last.push(part);
        }
    }
    parts
}

/// The options of a tmpfs that osier knows: `mode=` in octal, `size=` in bytes, K, M, G or % of the memory, `nr_inodes=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TmpfsOptions {
    /// Permissions of its root directory.
    pub mode: Option<u32>,
    /// Its size.
    pub size: Option<Size>,
    /// Its number of inodes.
    pub inodes: Option<u64>,
}

/// A size in bytes, or relative to the host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// Percent of the memory.
    Percent(u64),
}

impl Size {
    /// In bytes on a host with this much memory.
    pub fn bytes(self, memory: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => memory / 100 * percent,
        }
    }
}

/// Parses the options of a tmpfs.
///
/// # Errors
/// The option that is not known, or whose value is not one.
pub fn parse_tmpfs_options(text: &str) -> Result<TmpfsOptions, String> {
    let mut options = TmpfsOptions::default();
    for option in text.split(',').filter(|option| !option.is_empty()) {
        let wrong = || format!("'{option}' is not one of mode=, size=, nr_inodes= with a value");
        let (key, value) = option.split_once('=').ok_or_else(wrong)?;
        match key {
            "mode" => {
                options.mode = Some(
                    u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(wrong)?,
                )
            }
            "size" => options.size = Some(parse_size(value).ok_or_else(wrong)?),
            "nr_inodes" => match parse_size(value) {
                Some(Size::Bytes(inodes)) => options.inodes = Some(inodes),
                _ => return Err(wrong()),
            },
            _ => return Err(wrong()),
        }
    }
    Ok(options)
}

fn parse_size(text: &str) -> Option<Size> {
    if let Some(percent) = text.strip_suffix('%') {
        return percent.parse().ok().filter(|percent| *percent <= 100).map(Size::Percent);
    }
    let (digits, shift) = match text.char_indices().last()? {
        (end, 'k' | 'K') => (&text[..end], 10),
        (end, 'm' | 'M') => (&text[..end], 20),
        (end, 'g' | 'G') => (&text[..end], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift).map(Size::Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_can_be_part_of_a_path() {
        assert_eq!(split("/a:/b:ro"), ["/a", "/b", "ro"]);
        assert_eq!(split(r"/a\:b:/c\\d"), ["/a:b", r"/c\d"]);
        assert_eq!(split(r"/a\"), [r"/a\"]);
    }

    #[test]
    fn tmpfs_options_are_checked() {
        let options = parse_tmpfs_options("mode=1777,size=10%,nr_inodes=4k").unwrap();
        assert_eq!(options.mode, Some(0o1777));
        assert_eq!(options.size.map(|size| size.bytes(1000)), Some(100));
        assert_eq!(options.inodes, Some(4096));
        assert_eq!(parse_tmpfs_options(""), Ok(TmpfsOptions::default()));
        for wrong in ["mode=9", "mode", "size=101%", "size=99999999999G", "huge=always", "nr_inodes=5%"] {
            assert!(parse_tmpfs_options(wrong).is_err(), "{wrong}");
        }
    }
}
