//! User and group IDs on their way into a machine with users of its own, and out of it.

use rustix::io::{Errno, Result};

use crate::idrange::IdRange;

/// Who has no ID there (linux/highuid.h, `overflowuid`).
const NOBODY: u32 = 65_534;
/// What IDs of the source are at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Translation {
    /// The same.
    #[default]
    None,
    /// Those of a machine that has these of the host.
    Into(IdRange),
    /// Those of the host, from a machine that has these.
    OutOf(IdRange),
}

impl Translation {
    /// Who is `id` at the source, as the target's own programs would say it. Who is nobody in a machine keeps the number of outside.
    pub(super) fn seen(self, id: u32) -> u32 {
        match self {
            Self::None => id,
            Self::Into(range) => {
                if id < range.count() {
                    id
                } else {
                    NOBODY
                }
            }
            Self::OutOf(range) => range.from_host(id).unwrap_or(id),
        }
    }

    /// What to tell the kernel for who is `id` to the target's own programs.
    ///
    /// # Errors
    /// `EOVERFLOW` for one that the machine has not.
    pub(super) fn told(self, id: u32) -> Result<u32> {
        match self {
            Self::Into(range) => range.to_host(id).ok_or(Errno::OVERFLOW),
            Self::None | Self::OutOf(_) => Ok(id),
        }
    }

    /// What to tell the kernel for who is `id` at the source.
    ///
    /// # Errors
    /// As [`Translation::told`].
    pub(super) fn translate(self, id: u32) -> Result<u32> {
        self.told(self.seen(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways() -> (Translation, Translation) {
        let range = IdRange::new(700_000, 65_536).unwrap();
        (Translation::Into(range), Translation::OutOf(range))
    }

    #[test]
    fn ids_go_in_and_come_out_the_same() {
        let (into, out) = ways();
        for id in [0, 1000, 65_535] {
            assert_eq!(into.seen(id), id);
            let told = into.told(id).unwrap();
            assert_eq!(told, 700_000 + id);
            assert_eq!(out.told(out.seen(told)).unwrap(), id);
        }
        // Who has no ID there.
        assert_eq!((into.seen(65_536), out.seen(12)), (NOBODY, 12));
        assert_eq!(into.told(65_536), Err(Errno::OVERFLOW));
        assert_eq!((Translation::None.seen(70_000), Translation::None.told(70_000)), (70_000, Ok(70_000)));
    }
}
