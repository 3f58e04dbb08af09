//! What is the host's inside a machine, too: read on the host, in the machine, and on the host again, it only goes on.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{UnmountFlags, unmount};
use rustix::time::{ClockId, DynamicClockId, clock_gettime_dynamic};

use crate::bare;
use crate::here::{SECOND, nanoseconds, read};
use crate::proc;
use crate::support::unique;

/// A thing to read: its name, how far it may seem to go back from one processor to the next, how to read it in
/// nanoseconds or in another unit of its own. A kernel may have been built without it.
pub(crate) type Reading = (&'static str, i128, fn() -> Option<i128>);

pub(crate) const READINGS: &[Reading] = &[
    ("clock_realtime", 0, || Some(read(ClockId::Realtime))),
    ("clock_realtime_coarse", 0, || Some(read(ClockId::RealtimeCoarse))),
    ("clock_tai", 0, || clock_gettime_dynamic(DynamicClockId::Tai).ok().map(nanoseconds)),
    ("proc_uptime_idle", SECOND, || Some(proc::idle())),
    ("file_times", 0, file_times),
    ("times", 0, || Some(bare::times().into())),
    ("proc_sched", 5 * SECOND, proc_sched),
    ("proc_timer_list", 0, timer_list),
    ("kernel_log", 0, kernel_log),
    ("time_stamp_counter", 0, || Some(bare::rdtsc().into())),
];

fn file_times() -> Option<i128> {
    let path = std::env::temp_dir().join(unique("truths"));
    fs::write(&path, "new").unwrap();
    let metadata = path.metadata().unwrap();
    fs::remove_file(path).unwrap();
    Some(i128::from(metadata.mtime()) * SECOND + i128::from(metadata.mtime_nsec()))
}

/// When this thread was last accounted for.
fn proc_sched() -> Option<i128> {
    let text = fs::read_to_string("/proc/thread-self/sched").ok()?;
    let line = text.lines().find(|line| line.starts_with("se.exec_start")).unwrap();
    let value = line.rsplit(':').next().unwrap().trim();
    // Milliseconds with six decimals.
    Some(value.replace('.', "").parse().unwrap())
}

/// In a machine it is covered, for its addresses; root inside can look below.
fn timer_list() -> Option<i128> {
    if std::process::id() == 1 {
        assert_eq!(fs::read_to_string("/proc/timer_list").unwrap(), "", "covered");
        unmount("/proc/timer_list", UnmountFlags::empty()).unwrap();
    }
    let text = fs::read_to_string("/proc/timer_list").unwrap();
    let now = text.lines().find_map(|line| line.strip_prefix("now at ")?.strip_suffix(" nsecs"));
    Some(now.unwrap().parse().unwrap())
}

/// The time stamp of the newest message (Documentation/ABI/testing/dev-kmsg).
fn kernel_log() -> Option<i128> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let log = rustix::fs::open("/dev/kmsg", flags, Mode::empty()).unwrap();
    let mut newest = None;
    let mut record = [0; 8192];
    loop {
        match rustix::io::read(&log, &mut record) {
            Ok(length) => {
                let record = String::from_utf8_lossy(&record[..length]).into_owned();
                newest = Some(record.split(',').nth(2).unwrap().parse().unwrap());
            }
            // Messages that were overwritten before they were read.
            Err(rustix::io::Errno::PIPE) => {}
            Err(error) if std::io::Error::from(error).kind() == ErrorKind::WouldBlock => return newest,
            Err(error) => panic!("{error}"),
        }
    }
}
