//! CRIU's version: what is old enough to be refused, and which defects it has.

use std::fmt;

use super::message::VersionAnswer;

/// A release of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The 4 of 4.1.1.
    pub major: u32,
    /// The first 1 of 4.1.1.
    pub minor: u32,
    /// The last 1 of 4.1.1.
    pub sublevel: u32,
}

impl Version {
    /// The oldest that osier uses: 3.17, which Debian 12 has, already fails on the vdso of Linux 6.18, and machines were
    /// restored with 4.1 at the least.
    pub const OLDEST: Self = Self::new(4, 1, 0);

    /// A release.
    pub const fn new(major: u32, minor: u32, sublevel: u32) -> Self {
        Self { major, minor, sublevel }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.sublevel > 0 { write!(f, ".{}", self.sublevel) } else { Ok(()) }
    }
}

impl From<VersionAnswer> for Version {
    fn from(answer: VersionAnswer) -> Self {
        let number = |value: i32| u32::try_from(value).unwrap_or_default();
        Self::new(number(answer.major), number(answer.minor), number(answer.sublevel.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_and_said() {
        let [old, least, debian, new] =
            [(3, 17, 1), (4, 1, 0), (4, 1, 1), (4, 10, 0)].map(|(a, b, c)| Version::new(a, b, c));
        assert!(old < Version::OLDEST && Version::OLDEST == least && least < debian && debian < new);
        assert_eq!([old, least, new].map(|version| version.to_string()), ["3.17.1", "4.1", "4.10"]);
    }
}
