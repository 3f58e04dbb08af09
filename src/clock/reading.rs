//! What the clocks show in a time namespace, read there by a process that enters it and nothing else of the machine's: it
//! executes nothing of it, opens nothing in its file system, and nobody inside sees it.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::wait::waitpid;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{Offsets, nanoseconds};
use crate::sys::{Forked, exit_now, fork};
use crate::wire::Wire;

/// All that a time namespace has to do with, and the time of day, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub monotonic: i64,
    /// CLOCK_BOOTTIME, nanoseconds.
    pub boottime: i64,
    /// CLOCK_REALTIME, nanoseconds since the epoch.
    pub realtime: i64,
    /// The first figure of /proc/uptime, nanoseconds; the kernel cuts it to hundredths of a second.
    pub uptime: i64,
    /// `btime` of /proc/stat: when CLOCK_BOOTTIME was zero, seconds since the epoch.
    pub btime: i64,
    /// The offsets of the time namespace against the initial one.
    pub offsets: Offsets,
}

/// Readings in one go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readings {
    /// Where osier runs.
    pub here: Reading,
    /// In the time namespaces that were asked for, in their order.
    pub there: Vec<Reading>,
}

impl Reading {
    /// Reads them where this process runs.
    ///
    /// # Errors
    /// What reading /proc gives; `InvalidData` when it is not what proc(5) says.
    pub fn here() -> io::Result<Self> {
        let read = |clock| {
            let time = clock_gettime(clock);
            nanoseconds(time.tv_sec, time.tv_nsec).unwrap_or(i64::MAX)
        };
        let offsets = Offsets::own()?;
        let (monotonic, boottime) = (read(ClockId::Monotonic), read(ClockId::Boottime));
        let realtime = read(ClockId::Realtime);
        let uptime = fs::read_to_string("/proc/uptime")?;
        let stat = fs::read_to_string("/proc/stat")?;
        let unclear = |file| io::Error::new(io::ErrorKind::InvalidData, format!("{file} is not understood"));
        Ok(Self {
            monotonic,
            boottime,
            realtime,
            uptime: parse_uptime(&uptime).ok_or_else(|| unclear("/proc/uptime"))?,
            btime: parse_btime(&stat).ok_or_else(|| unclear("/proc/stat"))?,
            offsets,
        })
    }

    /// What it would be at the same moment in a time namespace with these offsets: for who may not enter it.
    #[must_use]
    pub fn reckon(self, offsets: Offsets) -> Self {
        let past = |clock: i64, theirs: i64, own: i64| clock.saturating_add(theirs).saturating_sub(own);
        let boottime = past(self.boottime, offsets.boottime, self.offsets.boottime);
        Self {
            monotonic: past(self.monotonic, offsets.monotonic, self.offsets.monotonic),
            boottime,
            uptime: boottime - boottime.rem_euclid(10_000_000),
            btime: self.realtime.saturating_sub(boottime).div_euclid(1_000_000_000),
            offsets,
            ..self
        }
    }
}

impl Readings {
    /// Reads the clocks here and then in the time namespace of each of these processes, in a fork, which is all that enters
    /// (setns(2) into a time namespace wants one thread, and nobody comes back by accident).
    ///
    /// # Errors
    /// `EPERM` for who may not enter, `ESRCH` when a process has ended; `EBUSY` from a process with threads.
    pub fn take(processes: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let (ours, theirs) = Wire::pair()?;
        let child = match fork()? {
            Forked::Child => {
                drop(ours);
                let said = enter(processes).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
                // Nobody hears it when the asker has died.
                let _ = theirs.send(&said, &[]);
                exit_now(0)
            }
            Forked::Parent(child) => child,
        };
        drop(theirs);
        let said = ours.receive::<Result<Self, i32>>();
        while waitpid(child, None) == Err(Errno::EINTR) {}
        let (readings, _) = said?.ok_or(io::ErrorKind::UnexpectedEof)?;
        readings.map_err(io::Error::from_raw_os_error)
    }
}

fn enter(processes: &[BorrowedFd<'_>]) -> io::Result<Readings> {
    let here = Reading::here()?;
    // A kernel without them refuses the flag; then everybody's clocks are these.
    let apart = fs::exists("/proc/self/ns/time")?;
    let read = |process: &BorrowedFd<'_>| {
        if apart {
            move_into_thread_name_spaces(*process, ThreadNameSpaceType::TIME)?;
        }
        Reading::here()
    };
    let there = processes.iter().map(read).collect::<io::Result<_>>()?;
    Ok(Readings { here, there })
}

/// Hundredths of a second with two decimals.
fn parse_uptime(text: &str) -> Option<i64> {
    let (seconds, hundredths) = text.split_ascii_whitespace().next()?.split_once('.')?;
    let (seconds, hundredths): (i64, i64) = (seconds.parse().ok()?, hundredths.parse().ok()?);
    nanoseconds(seconds, hundredths.checked_mul(10_000_000)?)
}

fn parse_btime(stat: &str) -> Option<i64> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim();
    // The kernel prints a moment before the epoch as an unsigned number.
    seconds.parse().ok().or_else(|| seconds.parse::<u64>().ok().map(u64::cast_signed))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::process::{PidfdFlags, pidfd_open};
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    use super::super::tests::{DAY, unshare_time};
    use super::super::{Now, Wanted};
    use super::*;
    use crate::sys::testing::{expect_success, in_child};

    const SECONDS: i64 = 1_000_000_000;

    /// The life of a process in a time namespace of its own, until `wire` is closed.
    fn live_apart(offsets: Offsets, wire: &Wire) -> ! {
        let file = unshare_time();
        offsets.write(file.as_fd()).unwrap();
        let own = fs::File::open("/proc/self/ns/time_for_children").unwrap();
        move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Time)).unwrap();
        wire.send(&(), &[]).unwrap();
        let _ = wire.receive::<()>();
        exit_now(0)
    }

    #[test]
    fn what_is_read_inside_is_what_the_offsets_make_of_the_hosts() {
        in_child(|| {
            let offsets = Now::read().unwrap().resolve_both(Wanted::At(0), Wanted::At(30_000 * DAY)).unwrap();
            let (ours, theirs) = Wire::pair().unwrap();
            let inside = match fork().unwrap() {
                Forked::Child => {
                    drop(ours);
                    live_apart(offsets, &theirs)
                }
                Forked::Parent(child) => child,
            };
            ours.receive::<()>().unwrap().unwrap();
            let process = rustix::process::Pid::from_raw(inside.as_raw()).unwrap();
            let pidfd = pidfd_open(process, PidfdFlags::empty()).unwrap();
            let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
            let readings = Readings::take(&[pidfd.as_fd(), own.as_fd()]).unwrap();
            let [there, back] = readings.there[..] else { panic!("{readings:?}") };
            assert_eq!((there.offsets, back.offsets), (offsets, readings.here.offsets));
            let reckoned = readings.here.reckon(offsets);
            let near = |one: i64, other: i64, within: i64| {
                assert!((one - other).abs() <= within, "{one} {other}: {readings:?}");
            };
            near(there.monotonic, reckoned.monotonic, SECONDS);
            near(there.boottime, reckoned.boottime, SECONDS);
            near(there.realtime, reckoned.realtime, SECONDS);
            near(there.uptime, reckoned.uptime, SECONDS);
            near(there.btime, reckoned.btime, 1);
            near(there.realtime / SECONDS - there.btime, there.boottime / SECONDS, 1);
            assert!(there.btime < 0, "what is so old was booted before the epoch: {there:?}");
            near(back.boottime, readings.here.boottime, SECONDS);
            // It was a fork that went there.
            assert_eq!(Offsets::own().unwrap(), readings.here.offsets);
            drop((ours, theirs));
            expect_success(inside);
            assert_eq!(Readings::take(&[pidfd.as_fd()]).unwrap_err().raw_os_error(), Some(libc::ESRCH));
            String::new()
        });
    }

    #[test]
    fn what_the_kernel_prints_is_read() {
        assert_eq!(parse_uptime("12716.41 7549.86\n"), Some(12_716_410_000_000));
        assert_eq!(parse_uptime("0.05 0.00\n"), Some(50_000_000));
        assert_eq!(parse_uptime("soon\n"), None);
        assert_eq!(parse_btime("cpu 1 2\nbtime 1795561514\n"), Some(1_795_561_514));
        assert_eq!(parse_btime("btime 18446744073709551615\n"), Some(-1));
        assert_eq!(parse_btime("cpu 1 2\n"), None);
    }

    #[test]
    fn a_reading_reckons_as_the_kernel_rounds() {
        let offsets = Offsets { monotonic: 0, boottime: 0 };
        let here = Reading {
            monotonic: 5 * SECONDS,
            boottime: 7 * SECONDS,
            realtime: 100 * SECONDS,
            uptime: 7 * SECONDS,
            btime: 93,
            offsets,
        };
        let there = here.reckon(Offsets { monotonic: -1, boottime: 123_456_789 });
        assert_eq!(there.monotonic, 5 * SECONDS - 1);
        assert_eq!((there.boottime, there.uptime, there.btime), (7_123_456_789, 7_120_000_000, 92));
        // Against the initial namespace, wherever osier itself is.
        let inside = Reading { offsets: Offsets { monotonic: -SECONDS, boottime: -SECONDS }, ..here };
        assert_eq!(inside.reckon(offsets).boottime, 8 * SECONDS);
    }
}
