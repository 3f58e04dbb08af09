//! clock_gettime(2).

use nix::errno::Errno;
use rustix::time::{ClockId, DynamicClockId, clock_gettime_dynamic};

use crate::bare;
use crate::here::{Clock, Here, MS, SECOND, nanoseconds, read};

/// A clock that is counted on at each tick: at least 100 of them in a second.
const TICK: i128 = 10 * MS;

pub(crate) fn monotonic(here: &Here) {
    here.assert_shows(Clock::Monotonic, 0, || read(ClockId::Monotonic));
}

pub(crate) fn monotonic_raw(here: &Here) {
    here.assert_shows(Clock::Raw, 0, || read(ClockId::MonotonicRaw));
}

pub(crate) fn monotonic_coarse(here: &Here) {
    here.assert_shows(Clock::Monotonic, TICK, || read(ClockId::MonotonicCoarse));
}

pub(crate) fn boottime(here: &Here) {
    here.assert_shows(Clock::Boottime, 0, || read(ClockId::Boottime));
}

/// EINVAL on hosts that have no real-time clock to wake them.
pub(crate) fn boottime_alarm(here: &Here) {
    let shown = || clock_gettime_dynamic(DynamicClockId::BoottimeAlarm).map(nanoseconds);
    match shown() {
        Ok(_) => here.assert_shows(Clock::Boottime, 0, || shown().unwrap()),
        Err(error) => assert_eq!(error, rustix::io::Errno::INVAL),
    }
}

/// What the vDSO shows, shown by the kernel itself.
pub(crate) fn by_system_call(here: &Here) {
    for (id, clock, resolution) in [
        (libc::CLOCK_MONOTONIC, Clock::Monotonic, 0),
        (libc::CLOCK_MONOTONIC_RAW, Clock::Raw, 0),
        (libc::CLOCK_MONOTONIC_COARSE, Clock::Monotonic, TICK),
        (libc::CLOCK_BOOTTIME, Clock::Boottime, 0),
    ] {
        here.assert_shows(clock, resolution, || bare::clock_gettime(id));
    }
}

/// Those of a process of a few milliseconds, whatever the uptime.
pub(crate) fn of_cpu_time(_: &Here) {
    for clock in [ClockId::ProcessCPUTime, ClockId::ThreadCPUTime] {
        let shown = read(clock);
        assert!((1..30 * SECOND).contains(&shown), "{clock:?}: {shown}");
    }
}

/// Who could set them would set the host's.
pub(crate) fn cannot_be_set(_: &Here) {
    use nix::time::{ClockId, clock_settime};
    let now = ClockId::CLOCK_REALTIME.now().unwrap();
    assert_eq!(clock_settime(ClockId::CLOCK_REALTIME, now), Err(Errno::EPERM));
    for clock in [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_BOOTTIME] {
        assert_eq!(clock_settime(clock, now), Err(Errno::EINVAL));
    }
}
