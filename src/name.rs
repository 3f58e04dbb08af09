//! The name of a machine: a host name by machined's rule, so that one name serves machined, the scope, the cgroup, the
//! record's file and the host name inside.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A valid machine name: 1 to 64 ASCII letters, digits, `-` and `.`, as `hostname_is_valid()` of systemd has it.
///
/// No empty label, no hyphen at either end of a label, not `.host` (machined's name for the host itself).
/// It holds no `/`, no `..` and does not begin with a dot: it is safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineName(String);

/// Why a text is not a machine name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// Nothing is there, or (from a path) nothing of it may stand in a name.
    Empty,
    /// It has more than [`MachineName::MAX_LEN`] bytes.
    TooLong,
    /// This character may not stand in a name.
    BadChar(char),
    /// A dot begins it, ends it, or follows another dot.
    EmptyLabel,
    /// A part between dots begins or ends with a hyphen.
    Hyphen,
    /// `.host`, machined's name for the host itself.
    Reserved,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a machine name is not empty"),
            Self::TooLong => write!(f, "a machine name has at most {} characters", MachineName::MAX_LEN),
            Self::BadChar(c) => {
                write!(f, "{c:?} cannot stand in a machine name; letters, digits, '-' and '.' can")
            }
            Self::EmptyLabel => f.write_str("a machine name has no dot at either end and no two in a row"),
            Self::Hyphen => f.write_str("a machine name has no '-' at either end or beside a dot"),
            Self::Reserved => f.write_str("'.host' is the host itself"),
        }
    }
}

impl std::error::Error for NameError {}

impl MachineName {
    /// The longest name in bytes: `HOST_NAME_MAX` (man 7 hostname, limits.h).
    pub const MAX_LEN: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that a machine gets from where its tree or image is: the last part of `path`, without `.raw`, cleaned as
    /// systemd-nspawn cleans it (`hostname_cleanup()`): what may not stand in a name is left out, 64 characters are kept.
    ///
    /// # Errors
    /// [`NameError::Empty`] when nothing is left, as for `/`.
    pub fn from_path(path: &Path) -> Result<Self, NameError> {
        let last = path.file_name().unwrap_or_default().to_string_lossy();
        clean(last.strip_suffix(".raw").unwrap_or(&last)).parse()
    }
}

/// Leaves out of `text` what [`check`] would refuse.
fn clean(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars() {
        let fits = match (c, name.chars().next_back()) {
            ('.', last) => !matches!(last, None | Some('.' | '-')),
            ('-', last) => !matches!(last, None | Some('.')),
            _ => c.is_ascii_alphanumeric(),
        };
        if fits && name.len() < MachineName::MAX_LEN {
            name.push(c);
        }
    }
    name.truncate(name.trim_end_matches(['-', '.']).len());
    name
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text == ".host" {
        return Err(NameError::Reserved);
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.')) {
        return Err(NameError::BadChar(c));
    }
    for label in text.split('.') {
        if label.is_empty() {
            return Err(NameError::EmptyLabel);
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(NameError::Hyphen);
        }
    }
    if text.len() > MachineName::MAX_LEN { Err(NameError::TooLong) } else { Ok(()) }
}

impl FromStr for MachineName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check(text).map(|()| Self(text.to_owned()))
    }
}

impl TryFrom<String> for MachineName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        check(&text).map(|()| Self(text))
    }
}

impl From<MachineName> for String {
    fn from(name: MachineName) -> Self {
        name.0
    }
}

impl AsRef<str> for MachineName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The candidate that is most like `wanted`, for "did you mean"; none when every one differs too much.
///
/// At most a third of the longer text may differ, and at most three characters (Levenshtein distance).
pub fn similar<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(wanted, candidate), candidate))
        .filter(|(distance, candidate)| {
            let longer = wanted.chars().count().max(candidate.chars().count());
            *distance <= longer.div_ceil(3).min(3)
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many insertions, removals and replacements lead from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MachineName, NameError> {
        text.parse()
    }

    #[test]
    fn host_names_are_names() {
        let longest = "a".repeat(64);
        for text in ["web", "a", "Web-1", "web--x", "db.example.org", "0", "xn--bcher-kva", &longest] {
            assert_eq!(parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn what_machined_refuses_is_refused() {
        let longer = "a".repeat(65);
        for (text, why) in [
            ("", NameError::Empty),
            (".host", NameError::Reserved),
            (".web", NameError::EmptyLabel),
            ("web.", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            ("-web", NameError::Hyphen),
            ("web-", NameError::Hyphen),
            ("a-.b", NameError::Hyphen),
            ("a.-b", NameError::Hyphen),
            ("a_b", NameError::BadChar('_')),
            ("a/b", NameError::BadChar('/')),
            ("a\0b", NameError::BadChar('\0')),
            ("bücher", NameError::BadChar('ü')),
            (&longer, NameError::TooLong),
        ] {
            assert_eq!(parse(text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn a_path_gives_a_cleaned_name() {
        for (path, name) in [
            ("/var/lib/machines/debian", "debian"),
            ("/var/lib/machines/debian/", "debian"),
            ("/srv/web.raw", "web"),
            ("/srv/.hidden", "hidden"),
            ("/srv/my_tree (2)", "mytree2"),
            ("/srv/a-.b--", "a-b"),
            ("/srv/-..x..y", "x.y"),
        ] {
            assert_eq!(MachineName::from_path(Path::new(path)).unwrap().as_str(), name, "{path}");
        }
        let long = format!("/srv/{}", "ab.".repeat(40));
        assert_eq!(MachineName::from_path(Path::new(&long)).unwrap().as_str().len(), 64);
        for path in ["/", "", "/srv/..", "/srv/___"] {
            assert_eq!(MachineName::from_path(Path::new(path)), Err(NameError::Empty), "{path}");
        }
    }

    #[test]
    fn serde_checks_the_rule() {
        assert_eq!(serde_json::to_string(&parse("web").unwrap()).unwrap(), "\"web\"");
        assert_eq!(serde_json::from_str::<MachineName>("\"web\"").unwrap().as_str(), "web");
        assert!(serde_json::from_str::<MachineName>("\"../web\"").is_err());
    }

    #[test]
    fn a_close_name_is_found_and_a_far_one_is_not() {
        let names = ["debian", "web", "database"];
        assert_eq!(similar("debain", names), Some("debian"));
        assert_eq!(similar("wbe", names), None);
        assert_eq!(similar("weeb", names), Some("web"));
        assert_eq!(similar("fedora", names), None);
        assert_eq!(similar("x", []), None);
    }
}
