//! Host IDs that are a machine's: one range, the same for users and for groups (man 7 user_namespaces, "User and group ID mappings").

use std::fmt;

use serde::{Deserialize, Serialize};

/// So many IDs a machine has as a rule: all that 16 bits can say, which is what distributions keep to.
pub const WIDTH: u32 = 1 << 16;
/// No ID, in 32 bits and in 16 (man 2 setresuid; include/linux/highuid.h): a range that has one as its own would give it away.
const NOBODY: [u32; 2] = [u32::MAX, 65_535];

/// Host IDs, `first` and so many more, that are 0, 1, … in a machine; the same for users and for groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IdRange {
    /// The host's ID that is 0 inside.
    first: u32,
    /// How many there are.
    count: u32,
}

/// Why some numbers are no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRange {
    /// There are none.
    Empty,
    /// They go beyond what an ID can be.
    TooFar,
    /// It begins with what stands for no ID, or has its end there.
    Reserved(u32),
}

impl fmt::Display for BadRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a range of no IDs"),
            Self::TooFar => f.write_str("a range that goes beyond 4294967294, the last ID"),
            Self::Reserved(id) => write!(f, "{id} stands for no ID (man 2 setresuid)"),
        }
    }
}

impl std::error::Error for BadRange {}

impl IdRange {
    /// The host's IDs themselves.
    pub const IDENTITY: Self = Self { first: 0, count: WIDTH };

    /// `count` IDs from `first` on.
    ///
    /// # Errors
    /// [`BadRange`].
    pub fn new(first: u32, count: u32) -> Result<Self, BadRange> {
        let last = count.checked_sub(1).ok_or(BadRange::Empty)?;
        let last = first.checked_add(last).ok_or(BadRange::TooFar)?;
        match NOBODY.into_iter().find(|id| *id == first || *id == u32::MAX && *id == last) {
            Some(id) => Err(BadRange::Reserved(id)),
            None => Ok(Self { first, count }),
        }
    }

    /// Root's on the host.
    pub const fn first(self) -> u32 {
        self.first
    }

    /// How many.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// The machine's ID `id` on the host; `None` for one that it has not.
    pub fn to_host(self, id: u32) -> Option<u32> {
        (id < self.count).then(|| self.first + id)
    }

    /// The host's ID `id` in the machine; `None` for one that is none of its.
    pub fn from_host(self, id: u32) -> Option<u32> {
        id.checked_sub(self.first).filter(|inside| *inside < self.count)
    }

    /// Whether they have an ID in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.first.max(other.first) <= (self.first + (self.count - 1)).min(other.first + (other.count - 1))
    }
}

/// `524288+65536`.
impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.first, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u32, count: u32) -> IdRange {
        IdRange::new(first, count).unwrap()
    }

    #[test]
    fn ids_map_there_and_back_and_no_others() {
        let range = range(524_288, 1000);
        assert_eq!(
            (range.to_host(0), range.to_host(999), range.to_host(1000)),
            (Some(524_288), Some(525_287), None)
        );
        assert_eq!((range.from_host(524_288), range.from_host(525_287)), (Some(0), Some(999)));
        assert_eq!(
            (range.from_host(524_287), range.from_host(525_288), range.from_host(0)),
            (None, None, None)
        );
        assert_eq!(range.to_string(), "524288+1000");
    }

    #[test]
    fn what_is_no_range_is_refused() {
        assert_eq!(IdRange::new(1, 0), Err(BadRange::Empty));
        assert_eq!(IdRange::new(u32::MAX - 1, 3), Err(BadRange::TooFar));
        assert_eq!(IdRange::new(u32::MAX - 1, 2), Err(BadRange::Reserved(u32::MAX)));
        assert_eq!(IdRange::new(65_535, 1), Err(BadRange::Reserved(65_535)));
        assert_eq!(range(u32::MAX - 1, 1).first(), u32::MAX - 1);
        assert_eq!(IdRange::new(0, WIDTH), Ok(IdRange::IDENTITY));
    }

    #[test]
    fn neighbours_do_not_overlap() {
        let middle = range(100, 100);
        for (first, count, overlaps) in [
            (0, 100, false),
            (0, 101, true),
            (199, 1, true),
            (200, 5, false),
            (0, 1000, true),
            (120, 3, true),
        ] {
            assert_eq!(middle.overlaps(range(first, count)), overlaps, "{first}+{count}");
            assert_eq!(range(first, count).overlaps(middle), overlaps, "{first}+{count}");
        }
    }
}
