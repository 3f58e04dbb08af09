//! What clocks should show where a case runs: worked out from CLOCK_REALTIME, which has no namespace, so that no clock
//! under test vouches for itself.

use std::time::Duration;

use osier::clock::{Now, Offsets};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds.
pub(crate) const MS: i128 = 1_000_000;
pub(crate) const SECOND: i128 = 1_000 * MS;
pub(crate) const DAY: i128 = 86_400 * SECOND;

/// How far readings that belong together may be apart: what setting the time of day by a little does meanwhile.
const SLACK: i128 = 20 * MS;

/// By which a process finds the reference below.
const VARIABLE: &str = "OSIER_TRUTHS_HOST";

/// What a clock's reading is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    Monotonic,
    /// CLOCK_MONOTONIC_RAW, which is not slewed: a clock of its own, with the offset of the one above.
    Raw,
    Boottime,
}

/// How far the clocks of the initial time namespace are from CLOCK_REALTIME, in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Reference {
    monotonic: i128,
    raw: i128,
    boottime: i128,
}

/// A time namespace that a case runs in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here {
    reference: Reference,
    pub(crate) offsets: Offsets,
}

pub(crate) fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * SECOND + i128::from(time.tv_nsec)
}

pub(crate) fn timespec(nanoseconds: i128) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(nanoseconds.div_euclid(SECOND)).unwrap(),
        tv_nsec: i64::try_from(nanoseconds.rem_euclid(SECOND)).unwrap(),
    }
}

/// A clock's reading: by the vDSO, for the clocks that it has.
pub(crate) fn read(clock: ClockId) -> i128 {
    nanoseconds(clock_gettime(clock))
}

impl Reference {
    /// Where the tests run, which may be a time namespace, too.
    fn measure() -> Self {
        let own = Now::read().unwrap().own;
        let real = read(ClockId::Realtime);
        Self {
            monotonic: read(ClockId::Monotonic) - i128::from(own.monotonic) - real,
            raw: read(ClockId::MonotonicRaw) - i128::from(own.monotonic) - real,
            boottime: read(ClockId::Boottime) - i128::from(own.boottime) - real,
        }
    }

    fn find() -> Self {
        let text = std::env::var(VARIABLE).expect("the reference, handed on by the tests outside");
        let mut values = text.split(' ').map(|value| value.parse().unwrap());
        let mut next = || values.next().expect("three values");
        Self { monotonic: next(), raw: next(), boottime: next() }
    }
}

/// The option of `osier run` that hands a reference on to the machine.
pub(crate) fn handed_on() -> String {
    let Reference { monotonic, raw, boottime } = Reference::measure();
    format!("--setenv={VARIABLE}={monotonic} {raw} {boottime}")
}

impl Here {
    /// The time namespace of this process; to be asked for before another one is made for its children.
    pub(crate) fn read() -> Self {
        Self { reference: Reference::find(), offsets: Offsets::read(std::process::id()).unwrap() }
    }

    /// Where the tests themselves run.
    pub(crate) fn outside() -> Self {
        Self { reference: Reference::measure(), offsets: Now::read().unwrap().own }
    }

    /// The same host, seen with other offsets.
    pub(crate) fn with(self, offsets: Offsets) -> Self {
        Self { offsets, ..self }
    }

    /// What a clock should show now.
    pub(crate) fn expected(&self, clock: Clock) -> i128 {
        let (ahead, offset) = match clock {
            Clock::Monotonic => (self.reference.monotonic, self.offsets.monotonic),
            Clock::Raw => (self.reference.raw, self.offsets.monotonic),
            Clock::Boottime => (self.reference.boottime, self.offsets.boottime),
        };
        read(ClockId::Realtime) + ahead + i128::from(offset)
    }

    /// Asserts that what is read is what the clock should show meanwhile, as finely as it is read.
    #[track_caller]
    pub(crate) fn assert_shows(&self, clock: Clock, resolution: i128, shown: impl FnOnce() -> i128) {
        let before = self.expected(clock) - resolution - SLACK;
        let shown = shown();
        let after = self.expected(clock) + resolution + SLACK;
        assert!((before..=after).contains(&shown), "{shown} is not between {before} and {after}: {self:?}");
    }

    /// Asserts that both clocks are here as they should be.
    #[track_caller]
    pub(crate) fn assert_clocks(&self) {
        self.assert_shows(Clock::Monotonic, 0, || read(ClockId::Monotonic));
        self.assert_shows(Clock::Boottime, 0, || read(ClockId::Boottime));
    }
}

/// So long the cases wait.
pub(crate) const WAIT: Duration = Duration::from_millis(40);

/// Asserts that something takes [`WAIT`], and not for ever either; without a reason to wait it takes no time.
#[track_caller]
pub(crate) fn assert_lasts(what: impl FnOnce()) {
    let start = read(ClockId::Monotonic);
    what();
    let took = read(ClockId::Monotonic) - start;
    let wait = i128::try_from(WAIT.as_nanos()).unwrap();
    // Timers on coarse clocks and the time of day's adjustment take a little off.
    assert!((wait - 2 * MS..10 * SECOND).contains(&took), "took {took} ns, not {wait}");
}

/// As a program does it: what the clock shows, and so much more.
pub(crate) fn deadline(clock: ClockId, after: Duration) -> Timespec {
    timespec(read(clock) + i128::try_from(after.as_nanos()).unwrap())
}
