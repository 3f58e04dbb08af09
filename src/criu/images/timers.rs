//! The timers of timer_create(2) and setitimer(2) in the images: what remained of each when CRIU read it, which is what CRIU sets it
//! to at restore, whatever has been meanwhile.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::file::{Image, Kind};
use super::parts::Parts;

const SECOND: u64 = 1_000_000_000;
/// What only gives a file a time.
const NOW: &str = ".osier-now";

/// `core_entry.tc` and `task_core_entry.timers` (images/core.proto).
const TASK: u64 = 3;
const TIMERS: u64 = 7;
/// `task_timers_entry` (images/timer.proto). Those of ITIMER_VIRTUAL and ITIMER_PROF count what their process uses.
const REAL: u64 = 1;
const POSIX: u64 = 4;
/// `posix_timer_entry.clock_id`.
const CLOCK: u64 = 2;

/// Where a timer has how often it expires and what remains: the numbers of its fields for seconds and what is beyond.
struct Layout {
    interval: [u64; 2],
    value: [u64; 2],
    /// Nanoseconds that the second field counts.
    unit: u64,
}

/// `itimer_entry`.
const ITIMER: Layout = Layout { interval: [1, 2], value: [3, 4], unit: 1000 };
/// `posix_timer_entry`.
const TIMER: Layout = Layout { interval: [7, 8], value: [9, 10], unit: 1 };

/// By how much longer timers take than they were found to, nanoseconds; less than none for what has passed of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delay {
    /// Those of CLOCK_MONOTONIC, and ITIMER_REAL, which is by that clock.
    pub monotonic: i64,
    /// Those of CLOCK_BOOTTIME.
    pub boottime: i64,
    /// Those of CLOCK_REALTIME and CLOCK_TAI.
    pub time_of_day: i64,
}

impl Delay {
    /// The same for all.
    pub fn of(by: Duration) -> Self {
        let by = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        Self { monotonic: by, boottime: by, time_of_day: by }
    }

    /// Of a clock; `None` of those that count what is used of a processor.
    fn by(self, clock: u64) -> Option<i64> {
        match i32::try_from(clock).ok()? {
            libc::CLOCK_MONOTONIC => Some(self.monotonic),
            libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => Some(self.boottime),
            libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM | libc::CLOCK_TAI => Some(self.time_of_day),
            _ => None,
        }
    }
}

/// Delays the timers in `images`; `by` is asked for each process that has one, with its image. What is overdue by then expires as soon
/// as it is set. Says whether there are any. A symbolic link gives way to a file.
///
/// # Errors
/// `InvalidData` for what are no such images; what `by`, reading and writing give.
pub fn delay_timers(images: &Path, by: impl Fn(&Path) -> io::Result<Delay>) -> io::Result<bool> {
    let mut found = false;
    for entry in fs::read_dir(images)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with("core-") && name.ends_with(".img"))
        {
            continue;
        }
        let path = entry.path();
        let mut image = Image::read(&path, Kind::Core)?;
        let mut core = image.take_apart(0)?;
        if delay(&mut core, Delay::default()).ok_or(io::ErrorKind::InvalidData)? {
            delay(&mut core, by(&path)?).ok_or(io::ErrorKind::InvalidData)?;
            image.set_record(0, &core.encode())?;
            image.write()?;
            found = true;
        }
    }
    Ok(found)
}

/// The time by the clock that gives files in `directory` theirs: of another host, perhaps, and on Linux as old as that of its last
/// tick.
///
/// # Errors
/// What writing there gives.
pub fn file_time(directory: &Path) -> io::Result<SystemTime> {
    let path = directory.join(NOW);
    let written = File::create(&path).and_then(|file| file.metadata()?.modified());
    let removed = fs::remove_file(&path);
    written.and_then(|time| removed.map(|()| time))
}

/// Says whether there are any.
fn delay(core: &mut Parts, by: Delay) -> Option<bool> {
    let mut found = false;
    core.change(TASK, &mut |task| {
        task.change(TIMERS, &mut |timers| {
            timers.change(REAL, &mut |timer| {
                found |= ITIMER.delay(timer, by.monotonic)?;
                Some(())
            })?;
            timers.change(POSIX, &mut |timer| {
                if let Some(by) = by.by(timer.number(CLOCK)?) {
                    found |= TIMER.delay(timer, by)?;
                }
                Some(())
            })
        })
    })?;
    Some(found)
}

impl Layout {
    /// Says whether it is set at all.
    fn delay(&self, timer: &mut Parts, by: i64) -> Option<bool> {
        let interval = self.read(timer, self.interval)?;
        let remains = match self.read(timer, self.value)? {
            // It has expired, and its process has not seen it yet. CRIU begins its next interval.
            0 => interval,
            value => value,
        };
        if remains == 0 {
            return Some(false);
        }
        let remains = remains.saturating_add_signed(by).max(1).checked_next_multiple_of(self.unit)?;
        let [seconds, rest] = self.value;
        timer.set_number(seconds, remains / SECOND);
        timer.set_number(rest, remains % SECOND / self.unit);
        Some(true)
    }

    /// Nanoseconds.
    fn read(&self, timer: &Parts, [seconds, rest]: [u64; 2]) -> Option<u64> {
        timer.number(seconds)?.checked_mul(SECOND)?.checked_add(timer.number(rest)?.checked_mul(self.unit)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    fn number(field: u8, value: u64) -> Vec<u8> {
        let mut bytes = vec![field << 3];
        prost::encoding::encode_varint(value, &mut bytes);
        bytes
    }

    fn message(field: u8, parts: &[Vec<u8>]) -> Vec<u8> {
        let parts = parts.concat();
        let mut bytes = vec![field << 3 | 2];
        prost::encoding::encode_varint(parts.len() as u64, &mut bytes);
        [bytes, parts].concat()
    }

    /// Seconds and microseconds.
    fn itimer(field: u8, [interval, value]: [(u64, u64); 2]) -> Vec<u8> {
        let numbers = [interval.0, interval.1, value.0, value.1];
        message(field, &numbers.iter().zip(1..).map(|(value, at)| number(at, *value)).collect::<Vec<_>>())
    }

    /// Seconds and nanoseconds.
    fn timer(clock: i32, [interval, value]: [(u64, u64); 2]) -> Vec<u8> {
        // CRIU has it as a number of 32 bits without a sign.
        let clock = u64::from(clock.cast_unsigned());
        let numbers = [0, clock, 14, 0, 0, 0, interval.0, interval.1, value.0, value.1, 77];
        message(4, &numbers.iter().zip(1..).map(|(value, at)| number(at, *value)).collect::<Vec<_>>())
    }

    fn core(real: [(u64, u64); 2], timers: &[Vec<u8>]) -> Vec<u8> {
        let used = [(0, 0), (3, 5)];
        let itimers = [itimer(1, real), itimer(2, used), itimer(3, used)].concat();
        let task = [number(1, 1), message(7, &[itimers, timers.concat()]), number(13, 19)];
        let record = [number(1, 1), message(3, &task), message(5, &[number(1, 1 << 40)])].concat();
        let head = [0x5456_4319_u32, Kind::Core as u32, u32::try_from(record.len()).unwrap()];
        [head.map(u32::to_le_bytes).concat(), record].concat()
    }

    const UNSET: [(u64, u64); 2] = [(0, 0), (0, 0)];
    const CPU_OF_5: i32 = !5 << 3 | 2;

    #[test]
    fn each_is_delayed_by_its_own_clock() {
        let dir = TestDir::new("timers");
        let once = |value| [(0, 0), value];
        let before = core(
            [(1, 0), (2, 999_999)],
            &[
                timer(libc::CLOCK_MONOTONIC, once((0, 5))),
                timer(libc::CLOCK_BOOTTIME, once((100, 0))),
                timer(libc::CLOCK_REALTIME, [(7, 0), (1, 1)]),
                timer(libc::CLOCK_MONOTONIC, UNSET),
                timer(libc::CLOCK_PROCESS_CPUTIME_ID, once((4, 4))),
                timer(CPU_OF_5, once((4, 4))),
            ],
        );
        let unset = core(UNSET, &[timer(libc::CLOCK_MONOTONIC, UNSET)]);
        fs::write(dir.join("saved"), &before).unwrap();
        std::os::unix::fs::symlink("saved", dir.join("core-5.img")).unwrap();
        fs::write(dir.join("core-6.img"), &unset).unwrap();
        let by =
            Delay { monotonic: 1_000_000_001, boottime: 300 * 1_000_000_000, time_of_day: -2_000_000_000 };
        assert!(
            delay_timers(dir.path(), |path| {
                assert_eq!(path, dir.join("core-5.img"));
                Ok(by)
            })
            .unwrap()
        );
        let after = core(
            // No earlier: to the next microsecond.
            [(1, 0), (4, 0)],
            &[
                timer(libc::CLOCK_MONOTONIC, once((1, 6))),
                timer(libc::CLOCK_BOOTTIME, once((400, 0))),
                // Overdue, which zero would not be.
                timer(libc::CLOCK_REALTIME, [(7, 0), (0, 1)]),
                timer(libc::CLOCK_MONOTONIC, UNSET),
                timer(libc::CLOCK_PROCESS_CPUTIME_ID, once((4, 4))),
                timer(CPU_OF_5, once((4, 4))),
            ],
        );
        assert_eq!(fs::read(dir.join("core-5.img")).unwrap(), after);
        assert_eq!(fs::read(dir.join("core-6.img")).unwrap(), unset);
        assert_eq!(fs::read(dir.join("saved")).unwrap(), before);

        fs::remove_file(dir.join("core-5.img")).unwrap();
        assert!(!delay_timers(dir.path(), |_| unreachable!()).unwrap());
        fs::write(dir.join("core-6.img"), &before[..before.len() - 1]).unwrap();
        assert_eq!(delay_timers(dir.path(), |_| Ok(by)).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_has_expired_unseen_begins_its_interval() {
        let mut parts = Parts::parse(&itimer(1, [(2, 0), (0, 0)])[2..]).unwrap();
        assert_eq!(ITIMER.delay(&mut parts, 1), Some(true));
        assert_eq!(parts.encode(), itimer(1, [(2, 0), (2, 1)])[2..]);
        assert_eq!(ITIMER.delay(&mut parts, i64::MIN), Some(true));
        assert_eq!(parts.encode(), itimer(1, [(2, 0), (0, 1)])[2..]);
    }

    #[test]
    fn files_have_a_time() {
        let dir = TestDir::new("file-time");
        let time = file_time(dir.path()).unwrap();
        assert!(SystemTime::now().duration_since(time).unwrap() < Duration::from_secs(60));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
