//! The timers of a machine (timerfd_create(2)), saved and set again by when they expire.
//!
//! CRIU saves what remains of each, and begins with that when it makes the processes, which is some tenths of a second before they
//! run; of a timer that was set for a moment it forgets the nanoseconds, so that it expires up to a second early. And what remains
//! is nothing to go by where the clocks show more than they did. So when everything is there and nothing has run yet, each is set
//! for the moment for which it was, by its own clock.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::time::{ClockId, Itimerspec, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_settime};

use crate::checkpoint::Timer;
use crate::clock::Offsets;
use crate::criu::survey;

const SECOND: i64 = 1_000_000_000;

/// What /proc/PID/fdinfo shows of one (man 5 proc_pid_fdinfo).
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    clock: i32,
    /// Expirations that nobody has read.
    ticks: u64,
    flags: u32,
    /// What remains, nanoseconds; zero where it is not set.
    remains: i64,
    interval: Timespec,
}

impl Shown {
    /// Of the descriptor `fd`; `None` for what is no timer, or not there any more.
    fn read(pid: u32, fd: RawFd) -> Option<Self> {
        let link = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?;
        if link.as_os_str() != "anon_inode:[timerfd]" {
            return None;
        }
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let time = |name| {
            let (seconds, nanoseconds) =
                field(name)?.strip_prefix('(')?.strip_suffix(')')?.split_once(", ")?;
            Some(Timespec { tv_sec: seconds.parse().ok()?, tv_nsec: nanoseconds.parse().ok()? })
        };
        let remains = time("it_value:")?;
        Some(Self {
            clock: field("clockid:")?.parse().ok()?,
            ticks: field("ticks:")?.parse().ok()?,
            flags: u32::from_str_radix(field("settime flags:")?, 8).ok()?,
            remains: remains.tv_sec.saturating_mul(SECOND).saturating_add(remains.tv_nsec),
            interval: time("it_interval:")?,
        })
    }

    /// Whether what was said of it is when it expires. Not so where it was set on the time of day for a while, or to be told when
    /// that is set; and of one that has expired nobody must lose the news.
    fn is_for_a_moment(&self) -> bool {
        let absolute = TimerfdTimerFlags::from_bits_retain(self.flags);
        let has = |flag| absolute.contains(flag);
        let of_day = matches!(self.clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM);
        self.remains > 0
            && self.ticks == 0
            && !has(TimerfdTimerFlags::CANCEL_ON_SET)
            && (!of_day || has(TimerfdTimerFlags::ABSTIME))
    }
}

/// Those of the processes in the cgroup `payload`, whose clocks have `offsets`.
///
/// # Errors
/// What reading the cgroup gives.
pub(super) fn read(payload: &Path, offsets: Offsets) -> io::Result<Vec<Timer>> {
    let shift = Shift::of(offsets)?;
    let mut found = Vec::new();
    for (inside, pid) in processes(payload)? {
        for fd in descriptors(pid) {
            let Some(shown) = Shown::read(pid, fd) else { continue };
            let Some(now) = now(shown.clock).filter(|_| shown.is_for_a_moment()) else { continue };
            let expires_ns = now.saturating_add(shown.remains).saturating_add(shift.by(shown.clock));
            found.push(Timer { pid: inside, fd, clock: shown.clock, expires_ns });
        }
    }
    Ok(found)
}

/// Sets each of `timers` that is there again in the cgroup `payload`, whose clocks have `offsets`.
///
/// # Errors
/// What reading the cgroup and setting a timer give.
pub fn set(timers: &[Timer], payload: &Path, offsets: Offsets) -> io::Result<()> {
    let shift = Shift::of(offsets)?;
    let pids = processes(payload)?;
    for timer in timers {
        // Who came in from outside is not there any more.
        let Some(&pid) = pids.get(&timer.pid) else { continue };
        let Some(shown) = Shown::read(pid, timer.fd).filter(|shown| shown.clock == timer.clock) else {
            continue;
        };
        let expires = timer.expires_ns.saturating_sub(shift.by(timer.clock)).max(1);
        let setting = Itimerspec {
            it_interval: shown.interval,
            it_value: Timespec { tv_sec: expires / SECOND, tv_nsec: expires % SECOND },
        };
        let pid = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let fd = pidfd_getfd(pidfd.as_fd(), timer.fd, PidfdGetfdFlags::empty())?;
        timerfd_settime(&fd, TimerfdTimerFlags::ABSTIME, &setting)?;
    }
    Ok(())
}

/// By how much a machine's clocks are ahead of those that this process sees.
struct Shift {
    machine: Offsets,
    own: Offsets,
}

impl Shift {
    fn of(machine: Offsets) -> io::Result<Self> {
        Ok(Self { machine, own: crate::clock::Now::read()?.own })
    }

    fn by(&self, clock: i32) -> i64 {
        match clock {
            libc::CLOCK_MONOTONIC => self.machine.monotonic - self.own.monotonic,
            libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => self.machine.boottime - self.own.boottime,
            _ => 0,
        }
    }
}

/// What the clock of a timer shows here.
fn now(clock: i32) -> Option<i64> {
    let time = clock_gettime(match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => ClockId::Realtime,
        libc::CLOCK_MONOTONIC => ClockId::Monotonic,
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => ClockId::Boottime,
        _ => return None,
    });
    time.tv_sec.checked_mul(SECOND)?.checked_add(time.tv_nsec)
}

/// By their process IDs inside.
fn processes(payload: &Path) -> io::Result<BTreeMap<u32, u32>> {
    let pids = survey::pids(payload)?;
    Ok(pids.into_iter().filter_map(|pid| Some((survey::inside(pid)?, pid))).collect())
}

fn descriptors(pid: u32) -> Vec<RawFd> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "pos:\t0\nflags:\t02004002\nmnt_id:\t16\nino:\t2063\nclockid: 1\nticks: 0\nsettime flags: 01\n\
                         it_value: (49, 406829391)\nit_interval: (3600, 0)\n";

    fn with(from: &str, to: &str) -> Shown {
        Shown::parse(&SHOWN.replace(from, to)).unwrap()
    }

    #[test]
    fn what_the_kernel_shows_is_read() {
        let interval = Timespec { tv_sec: 3600, tv_nsec: 0 };
        let wanted = Shown { clock: 1, ticks: 0, flags: 1, remains: 49_406_829_391, interval };
        assert_eq!(Shown::parse(SHOWN), Some(wanted));
        assert_eq!(Shown::parse("pos:\t0\n"), None);
    }

    #[test]
    fn what_is_for_a_moment_is_set_again() {
        assert!(with("", "").is_for_a_moment());
        // For a while, by a clock that is the machine's own: the same.
        assert!(with("flags: 01", "flags: 00").is_for_a_moment());
        assert!(!with("flags: 01", "flags: 03").is_for_a_moment());
        assert!(!with("ticks: 0", "ticks: 2").is_for_a_moment());
        assert!(!with("(49, 406829391)", "(0, 0)").is_for_a_moment());
        assert!(with("clockid: 1", "clockid: 0").is_for_a_moment());
        let of_day = Shown { clock: 0, ..with("flags: 01", "flags: 00") };
        assert!(!of_day.is_for_a_moment());
    }
}
