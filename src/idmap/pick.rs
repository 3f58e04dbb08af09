//! Which range a machine gets where none was asked for, and holding it: no two machines have an ID in common, nor has a machine
//! one with a user of the host.
//!
//! The ranges and the locks are systemd-nspawn's (systemd's doc/UIDS-GIDS; `/run/systemd/nspawn-uid/UID`), so that each of the two
//! leaves the other's alone. Which range is tried first follows from the machine's name, so that it is the same the next time, if that
//! is free.

use std::fs::{self, DirBuilder};
use std::hash::Hasher;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use siphasher::sip::SipHasher24;

use crate::idrange::{IdRange, WIDTH};
use crate::lockfile::{Access, LockFile};

/// The first ID of the first range and of the last.
const FIRST: u32 = 524_288;
const LAST: u32 = 1_878_982_656;
/// How many ranges are tried.
const TRIES: u64 = 100;
/// Where the locks are.
const LOCKS: &str = "/run/systemd/nspawn-uid";
/// Any will do that stays the same.
const KEY: [u8; 16] = *b"osier: ID ranges";

/// A range that no other machine has. Given back by [`Held::close`] or when dropped, but not by a forked child.
#[derive(Debug)]
pub struct Held {
    range: IdRange,
    lock: Option<LockFile>,
    owner: u32,
}

impl Held {
    /// The range.
    pub fn range(&self) -> IdRange {
        self.range
    }

    /// Gives it back.
    ///
    /// # Errors
    /// What unlink(2) gives.
    pub fn close(mut self) -> io::Result<()> {
        self.release()
    }

    fn release(&mut self) -> io::Result<()> {
        match self.lock.take() {
            Some(lock) if self.owner == std::process::id() => lock.release(),
            _ => Ok(()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.release();
    }
}

/// Who has which IDs of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken(Vec<IdRange>);

impl Taken {
    /// From passwd(5), group(5), subuid(5) and subgid(5) below `etc`. What is not there says nothing.
    pub fn read(etc: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(etc.join(name)).unwrap_or_default();
        let mut taken = Vec::new();
        for name in ["passwd", "group"] {
            let ids = text(name)
                .lines()
                .filter_map(|line| line.split(':').nth(2)?.parse().ok())
                .collect::<Vec<u32>>();
            taken.extend(ids.into_iter().filter_map(|id| IdRange::new(id, 1).ok()));
        }
        for name in ["subuid", "subgid"] {
            for line in text(name).lines() {
                let mut fields = line.split(':').skip(1).map(str::parse);
                if let (Some(Ok(first)), Some(Ok(count))) = (fields.next(), fields.next()) {
                    taken.extend(IdRange::new(first, count));
                }
            }
        }
        Self(taken)
    }

    fn has(&self, range: IdRange) -> bool {
        self.0.iter().any(|taken| taken.overlaps(range))
    }
}

/// The range that [`hold`] would give at the moment. Changes nothing.
pub fn look(name: &str, owner: u32, taken: &Taken) -> Option<IdRange> {
    candidates(name, owner).filter(|range| !taken.has(*range)).find(|range| {
        let lock = path(*range);
        // Only who has it open can have it locked.
        !lock.exists() || matches!(LockFile::is_free(&lock), Ok(true))
    })
}

/// Takes a range for the machine `name`, whose tree belongs to `owner`; `None` when none is free.
///
/// # Errors
/// What mkdir(2), open(2) and fcntl(2) give.
pub fn hold(name: &str, owner: u32, taken: &Taken) -> io::Result<Option<Held>> {
    for range in candidates(name, owner).filter(|range| !taken.has(*range)) {
        if let Some(held) = hold_this(range)? {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

/// Takes `range`; `None` when another machine has it.
fn hold_this(range: IdRange) -> io::Result<Option<Held>> {
    DirBuilder::new().recursive(true).mode(0o755).create(LOCKS)?;
    let lock = LockFile::take(&path(range), Access::Exclusive)?;
    Ok(lock.map(|lock| Held { range, lock: Some(lock), owner: std::process::id() }))
}

/// Removes the lock of `range` if it is there and nobody holds it; gives its path.
///
/// # Errors
/// As [`hold`].
pub fn remove_stale(range: IdRange) -> io::Result<Option<PathBuf>> {
    let path = path(range);
    if !path.exists() {
        return Ok(None);
    }
    let Some(lock) = LockFile::take(&path, Access::Exclusive)? else { return Ok(None) };
    lock.release().map(|()| Some(path))
}

/// The tree's own range, where it has one; then what follows from the name.
fn candidates(name: &str, owner: u32) -> impl Iterator<Item = IdRange> {
    let own = is_first(owner).then_some(owner);
    let ranges = u64::from((LAST - FIRST) / WIDTH + 1);
    let hashed = (0..TRIES).map(move |attempt| {
        let mut hasher = SipHasher24::new_with_key(&KEY);
        hasher.write(name.as_bytes());
        hasher.write(&attempt.to_le_bytes());
        FIRST + u32::try_from(hasher.finish() % ranges).unwrap_or(0) * WIDTH
    });
    let hashed = hashed.collect::<Vec<_>>();
    own.into_iter().chain(hashed).filter_map(|first| IdRange::new(first, WIDTH).ok())
}

/// Whether a range that was picked can begin with it.
fn is_first(id: u32) -> bool {
    (FIRST..=LAST).contains(&id) && id.is_multiple_of(WIDTH)
}

fn path(range: IdRange) -> PathBuf {
    Path::new(LOCKS).join(range.first().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    fn range(first: u32) -> IdRange {
        IdRange::new(first, WIDTH).unwrap()
    }

    #[test]
    fn the_same_name_has_the_same_ranges_and_another_one_others() {
        let ranges = |name: &str| candidates(name, 0).collect::<Vec<_>>();
        let web = ranges("web");
        assert_eq!(web, ranges("web"));
        assert_eq!(web.len(), 100);
        assert_ne!(web[0], ranges("db")[0]);
        // For good: what was chowned to it is found again by a later osier.
        assert_eq!(web[0].first(), WEB);
        for range in web {
            assert!(is_first(range.first()) && range.count() == WIDTH, "{range}");
        }
    }

    const WEB: u32 = 651_689_984;

    #[test]
    fn a_tree_s_own_range_comes_first() {
        assert_eq!(candidates("web", FIRST + WIDTH).next(), Some(range(FIRST + WIDTH)));
        for owner in [0, 1000, FIRST + 1, FIRST - WIDTH, LAST + WIDTH] {
            assert!(is_first(candidates("web", owner).next().unwrap().first()), "{owner}");
        }
    }

    #[test]
    fn what_users_of_the_host_have_is_taken() {
        let dir = TestDir::new("pick-taken");
        fs::write(dir.join("passwd"), "root:x:0:0:root:/root:/bin/sh\n\nbad\nbig:x:600000:5::/:\n").unwrap();
        fs::write(dir.join("group"), "video:x:44:\nfar:x:4294967295:\n").unwrap();
        fs::write(dir.join("subuid"), "# none\nann:1000000:65536\nann:x:1\nbob:9:\n").unwrap();
        let taken = Taken::read(dir.path());
        assert!(taken.has(range(589_824)) && taken.has(range(983_040)) && taken.has(range(1_048_576)));
        assert!(!taken.has(range(524_288)) && !taken.has(range(1_114_112)));
        assert_eq!(Taken::read(&dir.join("nowhere")), Taken::default());
    }

    #[test]
    fn what_is_held_is_nobody_else_s_and_free_again_afterwards() {
        let name = format!("osier-test-{}", std::process::id());
        let none = Taken::default();
        let first = look(&name, 0, &none).unwrap();
        let held = hold(&name, 0, &none).unwrap().unwrap();
        assert_eq!(held.range(), first);
        assert!(path(first).exists());
        assert!(hold_this(first).unwrap().is_none());
        let second = look(&name, 0, &none).unwrap();
        assert_ne!(second, first);
        let other = hold(&name, first.first(), &none).unwrap().unwrap();
        assert_eq!(other.range(), second);
        held.close().unwrap();
        drop(other);
        assert!(!path(first).exists() && !path(second).exists());
        assert_eq!(look(&name, 0, &none), Some(first));
        // Of one that was killed.
        let killed = hold_this(first).unwrap().unwrap();
        assert_eq!(remove_stale(first).unwrap(), None);
        drop(killed);
        fs::write(path(first), "").unwrap();
        assert_eq!(look(&name, 0, &none), Some(first));
        assert_eq!(remove_stale(first).unwrap(), Some(path(first)));
        assert_eq!(remove_stale(first).unwrap(), None);
        let all = Taken(vec![IdRange::new(1, 2_000_000_000).unwrap()]);
        assert_eq!(look(&name, 0, &all), None);
        assert!(hold(&name, 0, &all).unwrap().is_none());
    }
}
