//! A machine's clocks: the offsets of its time namespace (man 7 time_namespaces).
//!
//! The kernel adds one offset to CLOCK_MONOTONIC and one to CLOCK_BOOTTIME. Both are against the *initial* time namespace,
//! also when the writer is in another one, which is so when osier runs inside a machine; [`Now`] takes that into account.
//! CLOCK_REALTIME has no namespace and is none of this module's business.
//!
//! `--clock=continue` is [`Wanted::At`] the value at which the clock stopped, which [`state`] keeps beside the image.

mod reading;
pub mod state;

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

pub use reading::{Reading, Readings};

use crate::duration;

const SECOND: i128 = 1_000_000_000;

/// The highest value that a machine's clock may start at, in nanoseconds: half of what `ktime_t` holds in whole seconds,
/// about 146 years (`proc_timens_set_offset()`, kernel/time/namespace.c).
///
/// The kernel compares whole seconds, which leaves the offset up to a second on its way from here to being written.
pub const MAX: i64 = i64::MAX / 1_000_000_000 / 2 * 1_000_000_000;

/// The clocks that a time namespace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// CLOCK_MONOTONIC, which stands still while the host is suspended.
    Monotonic,
    /// CLOCK_BOOTTIME, which does not; `uptime` shows it.
    Boottime,
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Monotonic => "monotonic",
            Self::Boottime => "boottime",
        })
    }
}

/// What a clock is to show inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// What it shows where osier runs.
    Host,
    /// This value, in nanoseconds, when the machine starts.
    At(i64),
    /// This much more, in nanoseconds, than where osier runs.
    Offset(i64),
}

/// The offsets of a time namespace against the initial one, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Offsets {
    /// Added to CLOCK_MONOTONIC.
    pub monotonic: i64,
    /// Added to CLOCK_BOOTTIME.
    pub boottime: i64,
}

/// The clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_MONOTONIC of the initial time namespace, in nanoseconds.
    pub monotonic: i64,
    /// CLOCK_BOOTTIME of the initial time namespace, in nanoseconds.
    pub boottime: i64,
    /// The offsets of the time namespace that osier runs in; zero in the initial one.
    pub own: Offsets,
}

/// A clock that cannot start where it was wanted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfRange {
    /// The clock.
    pub clock: Clock,
    /// What was asked for.
    pub wanted: Wanted,
    /// The lowest value that could have been asked for in its place, in nanoseconds.
    pub lowest: i64,
    /// The highest one.
    pub highest: i64,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (clock, lowest, highest) = (self.clock, signed(self.lowest), signed(self.highest));
        match self.wanted {
            Wanted::At(value) => write!(
                f,
                "the {clock} clock cannot start at {}; it can start between {} and {}",
                duration::format(value),
                duration::format(self.lowest),
                duration::format(self.highest)
            ),
            Wanted::Offset(by) => write!(
                f,
                "the {clock} clock cannot be set off by {}; it can be between {lowest} and {highest}, so that it starts \
                 between 0 and about 146 years",
                signed(by)
            ),
            Wanted::Host => write!(f, "the {clock} clock is past 146 years and cannot be kept"),
        }
    }
}

impl std::error::Error for OutOfRange {}

/// What a clock shows in the time namespace of this process, in nanoseconds.
fn read_here(clock: Clock) -> i64 {
    let time = clock_gettime(match clock {
        Clock::Monotonic => ClockId::Monotonic,
        Clock::Boottime => ClockId::Boottime,
    });
    nanoseconds(time.tv_sec, time.tv_nsec).unwrap_or(i64::MAX)
}

/// Cut to whole seconds towards zero: the ends of a range that people read, and that moves while they do.
fn whole_seconds(nanoseconds: i128) -> i64 {
    i64::try_from(nanoseconds / SECOND * SECOND).unwrap_or(i64::MAX)
}

fn signed(nanoseconds: i64) -> String {
    let text = duration::format(nanoseconds);
    if nanoseconds > 0 { format!("+{text}") } else { text }
}

impl Now {
    /// Reads the clocks and the offsets that this process sees them with.
    ///
    /// To be called before `unshare(CLONE_NEWTIME)`: /proc/self/timens_offsets shows the namespace of *future children*.
    ///
    /// # Errors
    /// What reading the file gives; that it is missing (a kernel without time namespaces) is no error. `InvalidData` when
    /// its content is not what man 7 time_namespaces says.
    pub fn read() -> io::Result<Self> {
        let own = Offsets::own()?;
        Ok(Self {
            monotonic: read_here(Clock::Monotonic).saturating_sub(own.monotonic),
            boottime: read_here(Clock::Boottime).saturating_sub(own.boottime),
            own,
        })
    }

    /// The offset to write so that `clock` shows what is `wanted`.
    ///
    /// # Errors
    /// [`OutOfRange`] when the kernel would refuse it: the clock would start below zero or above [`MAX`].
    pub fn resolve(&self, clock: Clock, wanted: Wanted) -> Result<i64, OutOfRange> {
        let (initial, own) = match clock {
            Clock::Monotonic => (self.monotonic, self.own.monotonic),
            Clock::Boottime => (self.boottime, self.own.boottime),
        };
        let (initial, here) = (i128::from(initial), i128::from(initial) + i128::from(own));
        // What the value given counts from, and the value where it starts.
        let (base, value) = match wanted {
            Wanted::Host => (here, 0),
            Wanted::At(value) => (0, i128::from(value)),
            Wanted::Offset(by) => (here, i128::from(by)),
        };
        match i64::try_from(base + value - initial) {
            Ok(offset) if (0..=i128::from(MAX)).contains(&(base + value)) => Ok(offset),
            _ => Err(OutOfRange {
                clock,
                wanted,
                lowest: -whole_seconds(base),
                highest: whole_seconds(i128::from(MAX) - base),
            }),
        }
    }

    /// Both offsets.
    ///
    /// # Errors
    /// As [`Now::resolve`].
    pub fn resolve_both(&self, monotonic: Wanted, boottime: Wanted) -> Result<Offsets, OutOfRange> {
        Ok(Offsets {
            monotonic: self.resolve(Clock::Monotonic, monotonic)?,
            boottime: self.resolve(Clock::Boottime, boottime)?,
        })
    }
}

impl Offsets {
    /// Reads the offsets of the time namespace that children of the process `pid` are in: its own, unless it has just
    /// made another one.
    ///
    /// # Errors
    /// What reading the file gives: `ENOENT` without such a process or without time namespaces; `InvalidData` as
    /// [`Now::read`].
    pub fn read(pid: u32) -> io::Result<Self> {
        let file = format!("/proc/{pid}/timens_offsets");
        Self::parse(&fs::read_to_string(&file)?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{file} is not understood")))
    }

    /// Those of this process, as [`Now::read`] says; none on a kernel without time namespaces.
    fn own() -> io::Result<Self> {
        match fs::read_to_string("/proc/self/timens_offsets") {
            Ok(text) => Self::parse(&text).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "/proc/self/timens_offsets is not understood")
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes both offsets to an open /proc/PID/timens_offsets, in one write, as the file wants it.
    ///
    /// # Errors
    /// `EACCES` when the namespace has a member already, `EPERM` without CAP_SYS_TIME, `ERANGE` when a clock would start out
    /// of range, as [`Now::resolve`] says beforehand.
    pub fn write(&self, timens_offsets: BorrowedFd<'_>) -> io::Result<()> {
        let text = self.to_text();
        let written = rustix::io::retry_on_intr(|| rustix::io::write(timens_offsets, text.as_bytes()))?;
        if written == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// The file's form: whole seconds rounded down, and nanoseconds that are never negative.
    fn to_text(self) -> String {
        let line = |name, offset: i64| {
            format!("{name} {} {}\n", offset.div_euclid(1_000_000_000), offset.rem_euclid(1_000_000_000))
        };
        line("monotonic", self.monotonic) + &line("boottime", self.boottime)
    }

    fn parse(text: &str) -> Option<Self> {
        let find = |name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let mut fields = line.split_ascii_whitespace();
            nanoseconds(fields.next()?.parse().ok()?, fields.next()?.parse().ok()?)
        };
        Some(Self { monotonic: find("monotonic")?, boottime: find("boottime")? })
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> Option<i64> {
    i64::try_from(i128::from(seconds) * SECOND + i128::from(nanoseconds)).ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use nix::sched::{CloneFlags, unshare};
    use rustix::thread::UnshareFlags;

    use super::*;
    use crate::sys::Forked;
    use crate::sys::testing::{expect_success, in_child};

    const NS: i64 = 1_000_000_000;
    pub(super) const DAY: i64 = 86_400 * NS;
    /// A host that is up for 100 days and was suspended for 10.
    const HOST: Now =
        Now { monotonic: 90 * DAY, boottime: 100 * DAY, own: Offsets { monotonic: 0, boottime: 0 } };
    /// The same host, seen from a machine that was booted with clocks at zero 5 days ago.
    const INSIDE: Now = Now { own: Offsets { monotonic: -85 * DAY, boottime: -95 * DAY }, ..HOST };

    #[test]
    fn offsets_are_against_the_initial_namespace() {
        for (now, clock, wanted, offset) in [
            (HOST, Clock::Monotonic, Wanted::Host, 0),
            (HOST, Clock::Monotonic, Wanted::At(0), -90 * DAY),
            (HOST, Clock::Boottime, Wanted::At(0), -100 * DAY),
            (HOST, Clock::Boottime, Wanted::At(101 * DAY + 1), DAY + 1),
            (HOST, Clock::Boottime, Wanted::Offset(-3), -3),
            (HOST, Clock::Boottime, Wanted::Offset(-100 * DAY), -100 * DAY),
            (INSIDE, Clock::Monotonic, Wanted::Host, -85 * DAY),
            (INSIDE, Clock::Boottime, Wanted::Host, -95 * DAY),
            (INSIDE, Clock::Boottime, Wanted::At(0), -100 * DAY),
            (INSIDE, Clock::Boottime, Wanted::Offset(-5 * DAY), -100 * DAY),
            (INSIDE, Clock::Boottime, Wanted::Offset(DAY), -94 * DAY),
            (HOST, Clock::Boottime, Wanted::At(MAX), MAX - 100 * DAY),
            (HOST, Clock::Boottime, Wanted::Offset(MAX - 100 * DAY), MAX - 100 * DAY),
        ] {
            assert_eq!(now.resolve(clock, wanted), Ok(offset), "{now:?} {clock} {wanted:?}");
        }
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_with_the_range() {
        for (now, wanted, words) in [
            (HOST, Wanted::At(-1), "cannot start at -1ns; it can start between 0 and 146y 49d 11h 53min 38s"),
            (HOST, Wanted::At(MAX + 1), "between 0 and 146y"),
            (HOST, Wanted::At(i64::MAX), "between 0 and 146y"),
            (HOST, Wanted::Offset(-100 * DAY - 1), "it can be between -100d and +145y"),
            (HOST, Wanted::Offset(MAX), "it can be between -100d and +145y"),
            (HOST, Wanted::Offset(i64::MIN), "it can be between -100d and +145y"),
            (HOST, Wanted::Offset(i64::MAX), "it can be between -100d and +145y"),
            (INSIDE, Wanted::Offset(-6 * DAY), "cannot be set off by -6d; it can be between -5d and +146y"),
        ] {
            let error = now.resolve(Clock::Boottime, wanted).unwrap_err();
            assert!(error.to_string().contains(words), "{wanted:?}: {error}");
            let give = |value| {
                if matches!(wanted, Wanted::At(_)) { Wanted::At(value) } else { Wanted::Offset(value) }
            };
            for end in [error.lowest, error.highest] {
                assert!(now.resolve(Clock::Boottime, give(end)).is_ok(), "{wanted:?}: {end}");
            }
        }
    }

    #[test]
    fn the_file_is_written_with_positive_nanoseconds_and_read_back() {
        let offsets = Offsets { monotonic: -1, boottime: 3 * NS / 2 };
        assert_eq!(offsets.to_text(), "monotonic -1 999999999\nboottime 1 500000000\n");
        assert_eq!(
            Offsets::parse("monotonic          -1 999999999\nboottime            1 500000000\n"),
            Some(offsets)
        );
        assert_eq!(Offsets::parse("monotonic 0 0\n"), None);
    }

    pub(super) fn unshare_time() -> File {
        let file = File::options().write(true).open("/proc/self/timens_offsets").unwrap();
        unshare(CloneFlags::from_bits_retain(UnshareFlags::NEWTIME.bits().cast_signed())).unwrap();
        file
    }

    /// Forks a first process into a new time namespace and runs `body` there.
    fn in_time_namespace(monotonic: Wanted, boottime: Wanted, body: impl FnOnce()) {
        let offsets = Now::read().unwrap().resolve_both(monotonic, boottime).unwrap();
        let file = unshare_time();
        offsets.write(file.as_fd()).unwrap();
        match crate::sys::fork().unwrap() {
            Forked::Parent(child) => {
                expect_success(child);
                assert_eq!(offsets.write(file.as_fd()).unwrap_err().raw_os_error(), Some(libc::EACCES));
            }
            Forked::Child => body(),
        }
    }

    fn expect_near(shown: i64, wanted: i64) {
        assert!((wanted..wanted + 60 * NS).contains(&shown), "{shown} is not near {wanted}");
    }

    /// What this process and /proc/uptime show, against what is wanted.
    fn expect_clocks(monotonic: i64, boottime: i64) {
        let now = Now::read().unwrap();
        expect_near(now.monotonic + now.own.monotonic, monotonic);
        expect_near(now.boottime + now.own.boottime, boottime);
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        expect_near(duration::parse(uptime.split(' ').next().unwrap()).unwrap() + NS / 10, boottime);
    }

    #[test]
    fn a_real_namespace_shows_what_was_wanted_and_nests() {
        let initial = Now::read().unwrap();
        in_child(|| {
            in_time_namespace(Wanted::At(0), Wanted::At(3 * DAY), || {
                expect_clocks(0, 3 * DAY);
                let now = Now::read().unwrap();
                expect_near(now.monotonic, initial.monotonic);
                expect_near(now.boottime, initial.boottime);
                in_time_namespace(Wanted::Host, Wanted::Offset(-DAY - 1), || {
                    expect_clocks(0, 2 * DAY - 1);
                    in_time_namespace(Wanted::At(MAX), Wanted::Host, || expect_clocks(MAX, 2 * DAY - 1));
                });
            });
            String::new()
        });
    }

    #[test]
    fn the_kernel_refuses_beyond_the_same_ends() {
        in_child(|| {
            let now = Now::read().unwrap();
            let file = unshare_time();
            for (monotonic, errno) in [
                (MAX - now.monotonic, None),
                (MAX - now.monotonic + NS, Some(libc::ERANGE)),
                (-now.monotonic, None),
                (-now.monotonic - 60 * NS, Some(libc::ERANGE)),
            ] {
                let written = Offsets { monotonic, boottime: 0 }.write(file.as_fd());
                assert_eq!(written.err().and_then(|error| error.raw_os_error()), errno, "{monotonic}");
            }
            String::new()
        });
    }
}
